"""What a step needs of a device's memory, what is there, and which knobs to turn where it does not fit."""

import math
import os
import pathlib
import re

from clipjax.config import Config
from clipjax.errors import UserError

_EXHAUSTED = re.compile(r"RESOURCE_EXHAUSTED: .*?\(([\d.]+)([KMGT]?)\) exceeds available \w+ \(([\d.]+)([KMGT]?)\)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_TILE_SIDE = 2048  # of the loss: tiles up to this side are small beside all else


def check_fit(config: Config, sizes: dict[str, int], needed: int, limit: int | None, state: int) -> None:
    """Raise UserError if `needed` bytes a device are more than `limit` (None: nobody knows), naming what to change.

    sizes: devices of each axis of the mesh; state: those bytes of `needed` that are parameters and moments.
    """
    if limit is None or needed <= limit:
        return
    raise UserError(
        f"memory: the step needs {in_words(needed)} a device, {in_words(limit)} are there "
        f"(parameters and moments take {in_words(state)}). Try {'; or '.join(knobs(config, sizes, limit, state))}."
    )


def knobs(config: Config, sizes: dict[str, int], limit: int, state: int) -> list[str]:
    """Settings that lessen what a device holds, the cheapest in time first; arguments as in `check_fit`."""
    rows, devices = [], math.prod(sizes.values())
    if 4 * state > limit and devices > sizes["fsdp"] * sizes["tensor"]:  # and gradients come on top
        rows.append(f"mesh.fsdp={_next_divisor(devices // sizes['tensor'], sizes['fsdp'])}, which divides the state")
    if config.remat != "block":
        rows.append("remat='block', which computes activations again")
    batch, lanes = config.micro_batch_size or config.batch_size, sizes["data"] * sizes["fsdp"]
    if (half := _part(config.batch_size, batch, lanes)) is not None:
        rows.append(f"micro_batch_size={half}, which keeps fewer activations at a time")
    if config.loss.block_size > _TILE_SIDE:
        rows.append(f"loss.block_size={_TILE_SIDE}, for smaller tiles of the logits")
    if not rows and devices > sizes["fsdp"] * sizes["tensor"]:
        rows.append(f"mesh.fsdp={_next_divisor(devices // sizes['tensor'], sizes['fsdp'])}, which divides the state")
    return rows or ["more devices, a smaller model or a smaller batch_size"]


def program_bytes(program) -> int:
    """Bytes a device that a compiled program sets aside: arguments, temporaries, and outputs that are no arguments.

    0 where the backend does not say.
    """
    if (stats := program.memory_analysis()) is None:
        return 0
    kept = stats.argument_size_in_bytes + stats.temp_size_in_bytes
    return kept + max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0)


def device_limit(mesh) -> int | None:
    """Bytes that a program may take on one of the mesh's devices here; None where the device does not say.

    Devices of the CPU share the memory of the machine, or what its container may use.
    """
    local = mesh.local_devices
    if local[0].platform == "cpu":
        return host_memory() // len(local)
    return (local[0].memory_stats() or {}).get("bytes_limit")


def host_memory() -> int:
    """Bytes of memory of this machine, or what the container that this process runs in may use of them."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = pathlib.Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(physical, int(text)) if text.isdigit() else physical


def exhausted(message: str) -> tuple[int, int] | None:
    """(bytes needed, bytes available) out of a compiler's complaint; None if it complains of something else."""
    if (found := _EXHAUSTED.search(message)) is None:
        return None
    needed, unit, available, other = found.groups()
    return round(float(needed) * _UNITS[unit]), round(float(available) * _UNITS[other])


def shard_bytes(tree) -> int:
    """Bytes a device of a tree of arrays or of shapes with shardings."""
    import jax

    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def in_words(count: float) -> str:
    """Bytes as `5.15 GB`, powers of ten."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.{2 if count < 100 * size else 0}f} {unit}"
    return f"{count:.0f} B"


def _next_divisor(devices: int, above: int) -> int:
    """The least divisor of `devices` that is at least 4 times `above`, or all of them."""
    return next((size for size in range(4 * above, devices) if devices % size == 0), devices)


def _part(batch: int, micro: int, lanes: int) -> int | None:
    """The largest micro-batch below `micro` that divides the batch and gives every device as many rows."""
    sizes = (batch // count for count in range(2, batch + 1) if batch % count == 0)
    return next((size for size in sizes if size < micro and size % lanes == 0), None)
