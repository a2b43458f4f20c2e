"""Bytes that a compiled program moves between a device and its memory in a step, and the compiler's own estimate."""

import re

from clipjax.planning.collectives import fused
from clipjax.planning.hlo import Module, Op, executions

_FREE = {  # they name or pass on what is there already
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"),
    *("partition-id", "replica-id", "opt-barrier", "domain", "add-dependency"),
}
_COPIES = ("copy-start", "slice-start", "dynamic-slice-start", "dynamic-update-slice-start")  # beside computations
_HOST = 5  # the memory space of the host
_SLICES = ("dynamic-slice", "slice", "gather")
_SAME = ("bitcast", "reshape", "copy")  # what may stand between a parameter and its slice, or an update and the end
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


def memory_bytes(module: Module) -> float:
    """Bytes read and written a step: operands and results of every scheduled operation that lie in main memory.

    Slices count with what they take, not with what they are cut from, updates in place likewise. What a fusion keeps
    inside, and arrays that lie in memory on the chip, count nothing. Sizes are those in memory, filled up to tiles.
    """
    return float(
        sum(
            count * sum(_moved(module, op, module.computations[name]) for op in module.computations[name].values())
            for name, count in executions(module).items()
        )
    )


def host_bytes(module: Module) -> float:
    """Bytes a step that move between the device and its host: what is offloaded, there and back."""
    return float(
        sum(
            count * sum(_copied(op)[0] for op in module.computations[name].values() if _to_host(op))
            for name, count in executions(module).items()
        )
    )


def estimated_cycles(module: Module) -> int:
    """Cycles that the compiler expects the operations of a step to take one after another; 0 where it says none.

    Collectives and kernels written by hand carry no estimate.
    """
    return sum(
        count * sum(int(cycles) for op in module.computations[name].values() for cycles in _CYCLES.findall(op.rest)[:1])
        for name, count in executions(module).items()
    )


def _to_host(op: Op) -> bool:
    return op.kind in _COPIES and _HOST in _copied(op)[1]


def _copied(op: Op) -> tuple[int, list[int]]:
    """(bytes that a copy moves, the two memory spaces) of `(target, source, …)`, or of a part of a larger array."""
    part, *others = sorted((array for array in op.types if array.shape), key=lambda array: array.stored)
    return part.stored, [part.space, others[0].space]


def _moved(module: Module, op: Op, ops: dict[str, Op]) -> int:
    if op.kind in _FREE or op.kind.endswith("-done") or "AllocateBuffer" in op.rest:
        return 0
    if op.kind in _COPIES:
        size, ends = _copied(op)
        return size * sum(space == 0 for space in ends)
    if op.kind in _SLICES:
        return _main(op) + (_main(op) if _first(op, ops).types[0].space == 0 else 0)
    if op.kind == "dynamic-update-slice":
        return 2 * _main(ops[op.operands[1]])
    called = op.attribute("calls") if op.kind == "fusion" else None
    if called is None:
        return _main(op) + sum(_main(ops[name]) for name in op.operands)
    passed = _passed_on(op) if fused(module, called) else set()
    read = sum(
        _read(module, called, place)
        for place, name in enumerate(op.operands)
        if place not in passed and _main(ops[name])
    )
    return read + _written(module, op, called, passed)


def _read(module: Module, name: str, place: int) -> int:
    """Bytes that a fused computation reads of its parameter at `place`."""
    ops = module.computations[name]
    parameter = next(op for op in ops.values() if op.kind == "parameter" and op.inner == str(place))
    return _uses(module, ops, parameter)


def _uses(module: Module, ops: dict[str, Op], source: Op) -> int:
    whole, parts = sum(array.stored for array in source.types), 0
    for op in ops.values():
        if source.name not in op.operands:
            continue
        if op.kind in _SLICES and op.operands[0] == source.name:
            parts += sum(array.stored for array in op.types)
        elif op.kind == "dynamic-update-slice" and op.operands[0] == source.name:
            continue  # written in place
        elif op.kind in _SAME:
            parts += _uses(module, ops, op)
        elif op.kind == "fusion":
            parts += _read(module, op.attribute("calls"), op.operands.index(source.name))
        elif op.kind != "tuple":
            return whole
    return min(parts, whole)


def _written(module: Module, op: Op, called: str, passed: set[int]) -> int:
    """Bytes that a fusion writes into main memory: of an update in place the update alone."""
    ops = module.computations[called]
    root = next(item for item in ops.values() if item.root)
    results = [ops[name] for name in root.operands] if root.kind == "tuple" else [root]
    if len(results) != len(op.types):  # a result that is a tuple itself
        return sum(array.stored for array in op.types if array.space == 0)
    skipped = {place for place, result in enumerate(results) if result.kind == "parameter" and passed}
    return sum(
        _result(module, ops, result)
        for place, (result, array) in enumerate(zip(results, op.types, strict=True))
        if array.space == 0 and place not in skipped
    )


def _result(module: Module, ops: dict[str, Op], result: Op) -> int:
    whole = sum(array.stored for array in result.types)
    while result.kind in _SAME:
        result = ops[result.operands[0]]
    if result.kind == "dynamic-update-slice":
        return sum(array.stored for array in ops[result.operands[1]].types)
    if result.kind == "fusion":
        inner = module.computations[result.attribute("calls")]
        root = next(item for item in inner.values() if item.root)
        if root.kind != "tuple":
            return min(whole, _result(module, inner, root))
    return whole


def _passed_on(op: Op) -> set[int]:
    """Operands that come out of a fusion as they went in: buffers of a transfer that goes on meanwhile."""
    aliased = re.search(r"output_to_operand_aliasing=\{(.*?\)\})", op.rest)
    return {int(place) for place in re.findall(r"\((\d+), \{", aliased[1])} if aliased else set()


def _first(op: Op, ops: dict[str, Op]) -> Op:
    return ops[op.operands[0]]


def _main(op: Op) -> int:
    """Bytes of an operation's result that lie in main memory; a tuple is only a name for others."""
    if op.kind == "tuple" or op.kind == "parameter" and len(op.types) > 1:
        return 0
    return sum(array.stored for array in op.types if array.space == 0)
