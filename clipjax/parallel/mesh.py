"""The device mesh, with the axes `data`, `fsdp` and `tensor`, and where batches lie on it."""

import functools
from collections.abc import Sequence

import numpy as np

from clipjax.config import MeshConfig
from clipjax.errors import UserError

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # the axes that divide the rows of a batch


def make_mesh(config: MeshConfig, devices=None):
    """A `jax.sharding.Mesh` over `devices` (default: all of the run); raises UserError where the sizes do not fit."""
    import jax
    from jax.sharding import AxisType, Mesh

    devices = jax.devices() if devices is None else devices
    sizes, auto = config.sizes(len(devices)), (AxisType.Auto,) * len(AXES)
    _check_slices(config.num_slices, devices)
    if config.num_slices > 1:
        return Mesh(over_slices(config.num_slices, sizes, devices), AXES, axis_types=auto)
    if devices[0].platform != "tpu":  # no torus to fit into; and GPUs of several machines call these slices
        return Mesh(np.asarray(devices).reshape(sizes), AXES, axis_types=auto)
    return jax.make_mesh(sizes, AXES, axis_types=auto, devices=devices)


def _check_slices(wanted: int, devices) -> None:
    found = {getattr(device, "slice_index", None) for device in devices}
    count, platform = len(found - {None}), devices[0].platform
    if count == wanted or (wanted == 1 and (count == 0 or platform != "tpu")):
        return
    raise UserError(
        f"mesh.num_slices: {wanted}, but the {len(devices)} devices here ({platform}) lie in {count or 'no'} "
        f"slice{'s' if count > 1 else ''}. Set mesh.num_slices={count or 1}."
    )


def over_slices(num_slices: int, sizes: tuple[int, int, int], devices) -> np.ndarray:
    """The devices as an array of those sizes, each slice a block of the first axis."""
    from jax.experimental.mesh_utils import create_hybrid_device_mesh

    data, *inner = sizes
    within, between = (data // num_slices, *inner), (num_slices, *[1] * len(inner))
    return create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)


def traced_on(mesh):
    """A context for tracing a program that runs on the mesh: `sharding.by_rows` knows it from there."""
    import jax

    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def traced_platform() -> str:
    """The platform ("cpu", "gpu", "tpu") of the mesh that is traced on; "" without one."""
    import jax

    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else ""


def row_sharding(mesh):
    """The sharding of an array whose first axis is the global batch."""
    from jax.sharding import NamedSharding, PartitionSpec

    return NamedSharding(mesh, PartitionSpec(ROWS))


def replicated(mesh):
    """The sharding of an array that every device holds whole."""
    from jax.sharding import NamedSharding, PartitionSpec

    return NamedSharding(mesh, PartitionSpec())


def local_rows(mesh, count: int) -> np.ndarray:
    """Positions in a global batch of `count` rows that this process's devices need, ascending; int64 [rows]."""
    places = row_sharding(mesh).addressable_devices_indices_map((count,))
    spans = {(span[0].start or 0, count if span[0].stop is None else span[0].stop) for span in places.values()}
    return np.unique(np.concatenate([np.arange(first, last) for first, last in sorted(spans)]))


def place_rows(mesh, local, rows: np.ndarray, count: int):
    """A global array [count, ...] from this process's rows `local` [len(rows), ...], laid out by `row_sharding`."""
    import jax

    local = np.asarray(local)

    def piece(index):
        wanted = np.arange(count)[index[0]]
        first = np.searchsorted(rows, wanted[0])
        return local[first : first + len(wanted)]

    placed = jax.make_array_from_callback((count, *local.shape[1:]), row_sharding(mesh), piece)
    # On CPU a program that has to wait for its arguments runs in a thread of XLA's, and there glibc gives its memory
    # back every time (parallel/runtime.py); the copy itself is nothing.
    return jax.block_until_ready(placed) if mesh.devices.flat[0].platform == "cpu" else placed


def greatest(mesh, values: Sequence[int]):
    """The greatest of each of n whole numbers over the processes: int32 [n], perhaps still under way when it returns.

    Every process calls it at the same place among the programs that it dispatches.
    """
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    values = np.asarray(values, np.int32)
    if jax.process_count() == 1:
        return values
    own = NamedSharding(mesh, PartitionSpec(AXES))  # a row a device, whatever the mesh divides or repeats
    rows = jax.make_array_from_callback((mesh.size, len(values)), own, lambda _: values[None])
    return _greatest_row(mesh)(rows)


@functools.cache
def _greatest_row(mesh):
    import jax

    return jax.jit(lambda rows: rows.max(axis=0), out_shardings=replicated(mesh))
