"""The best of the sensible meshes, micro-batches and remat policies, from the generous end: failures are cheap."""

import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from clipjax.config import Config, judge_devices, resolve
from clipjax.errors import UserError
from clipjax.planning.candidate import SECONDS, devices_here, examine
from clipjax.planning.plan import Plan, check
from clipjax.planning.topology import Topology, machine
from clipjax.progress import say
from clipjax.training.memory import in_words

_REMATS = ("none", "dots", "block")
_PARTS = (1, 2, 4, 8)


def search(config: Any, topology: str, *, seconds: float = SECONDS) -> Plan:
    """The plan with the least step time of those that fit, found within `seconds`; if none fits, the least large one.

    Arguments and errors as in `clipjax.planning.plan`; what the config says of `mesh.data`, `mesh.fsdp`,
    `micro_batch_size` and `remat` is where the search is free.
    """
    config = config if isinstance(config, Config) else resolve(config)
    place = machine(topology)
    devices = devices_here() if place.devices is None else place.devices
    check(_with(config, "none", 1, 1), place)
    judge_devices(_with(config, "none", 1, 1), devices * config.mesh.num_slices)
    attempts = _Attempts(place, seconds)
    for first, *others in levels(config, place, devices):
        before = len(attempts.fitting)
        if not attempts.time_is_left():
            break
        if (plan := attempts.make(first)) is None or not plan.fits:
            continue  # the others of the level need more memory
        with ThreadPoolExecutor(2) as pool:  # a compiler keeps one core busy, and 2 to 6 GB
            list(pool.map(attempts.make, others if attempts.time_is_left() else ()))
        if before:
            break  # a level before fitted as well: those below compute more
    if not attempts.plans:
        raise UserError(f"batch_size: {config.batch_size} cannot be divided over {place.name}. Give a multiple of 64.")
    return best(attempts.plans)


class _Attempts:
    """The plans made so far, and the time that is left for others."""

    def __init__(self, place: Topology, seconds: float):
        self.place, self.plans, self.longest = place, [], 0.0
        self.end = time.monotonic() + seconds

    @property
    def fitting(self) -> list[Plan]:
        return [plan for plan in self.plans if plan.fits]

    def time_is_left(self) -> bool:
        """Whether another one can be compiled, going by the longest so far; always while nothing fits."""
        return not self.fitting or self.end - time.monotonic() > 1.5 * self.longest

    def make(self, candidate: Config) -> Plan | None:
        """The plan of a candidate, kept and told in a line; None if it may not run so, or takes too long."""
        began = time.monotonic()
        try:
            check(candidate, self.place)
            plan = Plan(candidate, self.place.name, examine(candidate, self.place, max(self.end - began, 1.0)))
        except UserError as error:
            say(f"{describe(candidate)}: {error}")
            return None
        took = time.monotonic() - began
        say(f"{describe(candidate)}: {_verdict(plan)} ({took:.0f} s)")
        self.plans.append(plan)
        self.longest = max(self.longest, took if plan.fits else 0)
        return plan


def best(plans: list[Plan]) -> Plan:
    """The plan that takes the least time of those that fit, if need be the one that needs the least memory."""
    fitting = [plan for plan in plans if plan.fits]
    if fitting:
        return min(fitting, key=lambda plan: (plan.step_seconds["total"], plan.serial_seconds))
    return min(plans, key=lambda plan: plan.bytes_per_chip["total"])


def levels(config: Config, place: Topology, devices: int) -> Iterator[list[Config]]:
    """Lists of candidates that compute the same, cheapest first; in each the least memory first.

    `devices` are those of one slice.
    """
    cost = {"none": 1.0, "dots": 1.05, "block": 1.3}
    order = sorted(
        ((remat, parts) for remat in _REMATS for parts in _PARTS),
        key=lambda pair: cost[pair[0]] + (0 if pair[1] == 1 else 0.33 + 0.01 * pair[1]),
    )
    for remat, parts in order:
        made = [_with(config, remat, parts, fsdp) for fsdp in _fsdp_sizes(config, place, devices)]
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


def _fsdp_sizes(config: Config, place: Topology, devices: int) -> list[int]:
    """All devices, one side of the torus, and no division of the state."""
    total = devices // config.mesh.tensor  # of one slice: fsdp stays inside
    side = max(place.shape, default=1)
    return sorted({size for size in (total, side, 1) if total % size == 0}, reverse=True)


def _verdict(plan: Plan) -> str:
    size = f"{in_words(plan.bytes_per_chip['total'])} of {in_words(plan.chip_memory_bytes)}"
    if not plan.fits:
        return f"does not fit, {size}"
    return f"fits, {size}, {1e3 * plan.step_seconds['total']:.1f} ms a step at best"
