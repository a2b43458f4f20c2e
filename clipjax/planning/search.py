"""The best of the sensible meshes, micro-batches and remat policies, from the generous end: failures are cheap."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

from clipjax.config import Config, resolve
from clipjax.errors import UserError
from clipjax.planning.candidate import SECONDS, examine
from clipjax.planning.plan import Plan, check
from clipjax.planning.topology import Topology, machine
from clipjax.progress import say

_REMATS = ("none", "dots", "block")
_PARTS = (1, 2, 4, 8)


def search(config: Any, topology: str, *, seconds: float = SECONDS) -> Plan:
    """The plan with the least step time of those that fit, found within `seconds`; if none fits, the least large one.

    Arguments and errors as in `clipjax.planning.plan`; what the config says of `mesh.data`, `mesh.fsdp`,
    `micro_batch_size` and `remat` is where the search is free.
    """
    config = config if isinstance(config, Config) else resolve(config)
    place = machine(topology)
    check(_with(config, "none", 1, 1), place)
    began, found, longest = time.monotonic(), [], 0.0
    for level in levels(config, place):
        fitting = 0
        for candidate in level:
            left = seconds - (time.monotonic() - began)
            if found and left < 1.5 * longest:
                return best(found)
            start = time.monotonic()
            made = _examine(candidate, place, left)
            if made is None:
                continue
            took = time.monotonic() - start
            say(f"{describe(candidate)}: {_verdict(made)} ({took:.0f} s)")
            found.append(made)
            if not made.fits:
                break  # the others of a level need more memory
            fitting, longest = fitting + 1, max(longest, took)
        if sum(plan.fits for plan in found) > fitting > 0:
            break  # the level before fitted as well: those below compute more
    if not found:
        raise UserError(f"batch_size: {config.batch_size} cannot be divided over {place.name}. Give a multiple of 64.")
    return best(found)


def best(plans: list[Plan]) -> Plan:
    """The plan that takes the least time of those that fit, if need be the one that needs the least memory."""
    fitting = [plan for plan in plans if plan.fits]
    if fitting:
        return min(fitting, key=lambda plan: (plan.step_seconds["total"], plan.serial_seconds))
    return min(plans, key=lambda plan: plan.bytes_per_chip["total"])


def levels(config: Config, place: Topology) -> Iterator[list[Config]]:
    """Lists of candidates that compute the same, cheapest first; in each the least memory first."""
    cost = {"none": 1.0, "dots": 1.05, "block": 1.3}
    order = sorted(
        ((remat, parts) for remat in _REMATS for parts in _PARTS),
        key=lambda pair: cost[pair[0]] + (0 if pair[1] == 1 else 0.33 + 0.01 * pair[1]),
    )
    for remat, parts in order:
        made = [_with(config, remat, parts, fsdp) for fsdp in _fsdp_sizes(config, place)]
        if kept := [item for item in made if item is not None]:
            yield kept


def describe(config: Config) -> str:
    """What a candidate differs in, in a line."""
    mesh, micro = config.mesh, config.micro_batch_size or config.batch_size
    return f"mesh.fsdp={mesh.fsdp} micro_batch_size={micro} remat={config.remat}"


def _with(config: Config, remat: str, parts: int, fsdp: int) -> Config | None:
    """The config changed so; None if it may not be."""
    micro = None if parts == 1 else config.batch_size // parts
    mesh = dataclasses.replace(config.mesh, data=-1, fsdp=fsdp)
    changed = dataclasses.replace(config, remat=remat, micro_batch_size=micro, mesh=mesh)
    return None if changed.mistakes() or config.batch_size % parts else changed


def _fsdp_sizes(config: Config, place: Topology) -> list[int]:
    """All devices, one side of the torus, and no division of the state."""
    total = (place.devices or 1) // config.mesh.tensor
    side = max(place.shape, default=1)
    return sorted({size for size in (total, side, 1) if total % size == 0}, reverse=True)


def _examine(config: Config, place: Topology, seconds: float) -> Plan | None:
    """The plan of a candidate; None if it may not run so, or takes too long."""
    try:
        check(config, place)
        return Plan(config, place.name, examine(config, place, seconds))
    except UserError as error:
        say(f"{describe(config)}: {error}")
        return None


def _verdict(plan: Plan) -> str:
    from clipjax.training.memory import in_words

    size = f"{in_words(plan.bytes_per_chip['total'])} of {in_words(plan.chip_memory_bytes)}"
    if not plan.fits:
        return f"does not fit, {size}"
    return f"fits, {size}, {1e3 * plan.step_seconds['total']:.1f} ms a step at best"
