"""What the devices send each other in a step: every collective of a compiled program, by kind and axis of the mesh."""

import re
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from clipjax.planning.groups import Groups, axis_name, between_slices, replica_groups
from clipjax.planning.hlo import Module, Op, executions

# kind: (payload of an operand of `size` bytes in groups of `n`, bytes that a device sends of it, rings assumed)
_KINDS: dict[str, tuple[Callable, Callable]] = {
    "all-gather": (lambda size, n: size * n, lambda size, n: size * (n - 1)),
    "all-reduce": (lambda size, n: size, lambda size, n: 2 * size * (n - 1) / n),
    "reduce-scatter": (lambda size, n: size, lambda size, n: size * (n - 1) / n),
    "all-to-all": (lambda size, n: size, lambda size, n: size * (n - 1) / n),
    "collective-permute": (lambda size, n: size, lambda size, n: size),
    "collective-broadcast": (lambda size, n: size, lambda size, n: size),
}
_UNKNOWN = ("ragged-all-to-all", "send", "recv")
_BETWEEN = re.compile(r'_xla_megascale_transfer_type="(\w+)"')  # of a send, and of the recv that belongs to it


class Found(NamedTuple):
    """One collective operation of the text, with what a step makes of it."""

    kind: str
    dtype: str
    groups: Groups
    axis: str
    count: int  # times a step
    bytes: int  # payload a device and time: what is gathered, or what is reduced, exchanged or passed on
    wire: float  # bytes that a device sends each time


def collectives(module: Module, sizes: dict[str, int], devices: int, slices: int = 1) -> list[Found]:
    """Every collective of a program that runs on `devices` devices with mesh axes of these sizes.

    Between slices they are transfers by way of the hosts, and count as what they stand for.
    Transfers that run beside computations count once, at their start, whatever else the text says of them. Raises
    ValueError for operations and replica groups in a spelling that is not known: nothing is passed over in silence.
    """
    found = []
    for name, count in executions(module).items():
        for op, ops, scattered in _in_computation(module, name):
            item = _found(op, ops, scattered, sizes, devices, slices)
            if item is not None and count:
                found.append(item._replace(count=count))
    return found


def totals(found: list[Found]) -> list[dict]:
    """Rows `{kind, axis, dtype, count, bytes, wire}` of a step, summed over operations alike, the largest first."""
    rows: dict[tuple, list[float]] = defaultdict(lambda: [0, 0, 0])
    for item in found:
        row = rows[item.kind, item.axis, item.dtype]
        for place, value in enumerate((1, item.bytes, item.wire)):
            row[place] += item.count * value
    listed = [
        {"kind": kind, "axis": axis, "dtype": dtype, "count": count, "bytes": size, "wire": wire}
        for (kind, axis, dtype), (count, size, wire) in rows.items()
    ]
    return sorted(listed, key=lambda row: -row["wire"])


def base(kind: str) -> str | None:
    """The collective that an operation of this kind begins; None for others, and for the end of one begun before."""
    name = kind.removesuffix("-start")
    if name in _UNKNOWN:
        raise ValueError(f"{kind}: a collective that is not known here")
    return name if name in _KINDS else None


def fused(module: Module, name: str) -> list[tuple[Op, dict[str, Op]]]:
    """The collectives inside of a fused computation, each with the operations around it."""
    ops, found = module.computations[name], []
    for op in ops.values():
        if base(op.kind):
            found.append((op, ops))
        elif op.kind == "fusion":
            found += fused(module, op.attribute("calls"))
    return found


def _in_computation(module: Module, name: str):
    """(operation, operations around it, whether its sum is scattered) of what a scheduled computation begins."""
    ops = module.computations[name]
    for op in ops.values():
        if op.kind in ("send", "recv") and _BETWEEN.search(op.rest):
            yield from [(op, ops, False)] * (op.kind == "send")
        elif base(op.kind):
            yield op, ops, False
        elif op.kind in ("fusion", "async-start") and (called := op.attribute("calls")):
            yield from ((*pair, scattered) for *pair, scattered in _in_fusion(module, op, called))


def _in_fusion(module: Module, op: Op, called: str):
    inner = fused(module, called)
    if not inner:
        return
    targets = {item.rest.partition('custom_call_target="')[2].partition('"')[0] for item in _all(module, called)}
    if "AsyncCollectiveDone" in targets or called.startswith("async_collective_fusion"):
        return  # the same transfer again: carried forward by a matrix product, or its end
    if "AsyncCollectiveStart" in targets or op.kind == "async-start":
        yield from ((item, ops, False) for item, ops in inner)
    elif "all-reduce-scatter" in called or "AllReduceScatterFusion" in op.rest:
        yield from ((item, ops, True) for item, ops in inner)
    else:
        raise ValueError(f"{op.name}: {inner[0][0].kind} fused in an unknown form ({called})")


def _all(module: Module, name: str):
    for op in module.computations[name].values():
        yield op
        if op.kind == "fusion":
            yield from _all(module, op.attribute("calls"))


def _found(op: Op, ops: dict[str, Op], scattered: bool, sizes: dict[str, int], devices: int, slices: int):
    """`Found`, or None for a collective among one device."""
    if op.kind == "send":
        kind, groups = _BETWEEN.search(op.rest)[1].lower().replace("_", "-"), between_slices(devices, slices)
        if kind not in _KINDS:
            raise ValueError(f"{op.name}: {kind} between slices, which is not known here")
    else:
        kind = "reduce-scatter" if scattered and op.kind == "all-reduce" else base(op.kind)
        groups = replica_groups(op.rest, devices, slices)
    n = max(map(len, groups), default=1)
    if n == 1:
        return None
    payload, sent = _KINDS[kind]
    given = [array for name in op.operands for array in ops[name].types]
    size = sum(array.bytes for array in given)
    largest = max(given, key=lambda array: array.bytes).dtype
    return Found(kind, largest, groups, axis_name(groups, sizes), 1, payload(size, n), sent(size, n))
