"""A compiled program's text (HLO) as computations of operations, and how often a step runs each of them."""

import math
import re
from collections import Counter
from typing import NamedTuple

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OP = re.compile(r"^  (ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^{}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_BITS = {"pred": 8, "token": 0, "opaque": 0}


class Array(NamedTuple):
    """One array of a type: its dtype, sizes, the memory it lies in (0: the device's main one, 1: on the chip, 5: the
    host's), and its sizes as they lie there, filled up to whole tiles."""

    dtype: str
    shape: tuple[int, ...]
    space: int = 0
    tiled: tuple[int, ...] | None = None

    @property
    def bytes(self) -> int:
        """Its size without padding."""
        return math.prod(self.shape) * _bits(self.dtype) // 8

    @property
    def stored(self) -> int:
        """Its size in memory, with the padding."""
        return math.prod(self.shape if self.tiled is None else self.tiled) * _bits(self.dtype) // 8


class Op(NamedTuple):
    """One operation: `%name = types kind(operands), rest`."""

    name: str
    kind: str
    types: tuple[Array, ...]  # several for a tuple
    operands: tuple[str, ...]  # names
    inner: str  # what stood between the parentheses
    rest: str
    root: bool

    def attribute(self, key: str) -> str | None:
        """The computation that `key=%name` of the operation names, such as `calls` or `body`."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.rest)
        return found[1] if found else None


class Module(NamedTuple):
    """Computations by name, each `{name: Op}` in the order of the text, and the name of the first one."""

    computations: dict[str, dict[str, Op]]
    entry: str


def parse(text: str) -> Module:
    """The module of `compiled.as_text()`. Raises ValueError for a text without an entry computation."""
    computations: dict[str, dict[str, Op]] = {}
    entry, ops = "", {}
    for line in text.splitlines():
        if head := _HEAD.match(line):
            ops = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif found := _OP.match(line):
            ops[found[2]] = _op(found[2], bool(found[1]), line[found.end() :])
    if not entry:
        raise ValueError("the text has no entry computation: not a compiled program")
    return Module(computations, entry)


def executions(module: Module) -> Counter:
    """How often a step runs each computation that the device schedules: the first one, loops, branches, calls.

    What is fused into one operation is not among them. Of branches each counts as taken. Raises ValueError for a loop
    whose number of rounds the text does not tell.
    """
    times: Counter = Counter()

    def visit(name: str, count: int) -> None:
        times[name] += count
        for op in module.computations[name].values():
            if op.kind == "while":
                rounds = trips(module, op, module.computations[name])
                visit(op.attribute("body"), count * rounds)
                visit(op.attribute("condition"), count * rounds)
            elif op.kind == "call":
                visit(op.attribute("to_apply"), count)
            elif op.kind == "conditional":
                for branch in branches(op):
                    visit(branch, count)

    visit(module.entry, 1)
    return times


def branches(op: Op) -> list[str]:
    """The computations that a `conditional` chooses from."""
    listed = re.search(r"branch_computations=\{([^}]*)\}", op.rest)
    if listed:
        return _NAME.findall(listed[1])
    return [found for key in ("true_computation", "false_computation") if (found := op.attribute(key))]


def trips(module: Module, loop: Op, around: dict[str, Op]) -> int:
    """Rounds of a `while` of `around`: what the compiler noted, or the bound its counter is held against.

    Compilers for TPU note nothing; the condition is `compare(counter, constant), direction=LT` there, perhaps fused.
    """
    if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest):
        return int(noted[1])
    name = loop.attribute("condition")
    condition = module.computations[name]
    root = next(op for op in condition.values() if op.root)
    index, bound = None, None
    for operand in (condition[item] for item in root.operands):
        if operand.kind == "constant":
            bound = int(operand.inner)
        elif operand.kind == "get-tuple-element":
            index = int(re.search(r"index=(\d+)", operand.rest)[1])
    fused = module.computations.get(root.attribute("calls") or "", {})
    compared = root if root.kind == "compare" else next((op for op in fused.values() if op.root), root)
    if bound is None or index is None or "direction=LT" not in compared.rest:
        raise ValueError(f"loop {loop.name}: its condition {name} does not compare a counter with a constant")
    return bound - _first(loop, index, around)


def _first(loop: Op, index: int, around: dict[str, Op]) -> int:
    """What the counter of a loop begins with: 0 where the text does not lead to a constant."""
    op = around.get(loop.operands[0])
    if op is None or op.kind != "tuple":
        return 0
    op = around.get(op.operands[index])
    while op is not None and op.kind in ("copy", "bitcast", "copy-done", "copy-start"):
        op = around.get(op.operands[0])
    return int(op.inner) if op is not None and op.kind == "constant" else 0


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a type, one or those of a tuple."""
    found = []
    for dtype, sizes, layout in _ARRAY.findall(re.sub(r"/\*.*?\*/", "", text)):
        space = re.search(r"S\((\d+)\)", layout)
        shape = tuple(int(size) for size in sizes.split(",") if size)
        found.append(Array(dtype, shape, int(space[1]) if space else 0, _tiled(shape, layout)))
    return tuple(found)


def _tiled(shape: tuple[int, ...], layout: str) -> tuple[int, ...] | None:
    """The sizes filled up to whole tiles, of a layout such as {1,0:T(8,128)(2,1)}, which names the minor axis first."""
    found = re.match(r"\{([\d,]*):T\(([\d,]+)\)", layout)
    if not found or not shape:
        return None
    sizes, tile = list(shape), [int(size) for size in found[2].split(",")]
    for axis, side in zip(map(int, found[1].split(",")), reversed(tile), strict=False):
        sizes[axis] = -(-sizes[axis] // side) * side
    return tuple(sizes)


def _op(name: str, root: bool, text: str) -> Op:
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    types, text = text[:end], text[end:].lstrip()
    start = text.index("(")
    end = _closing(text, start)
    inner = text[start + 1 : end - 1]
    operands = tuple(_NAME.findall(inner))
    return Op(name, text[:start], arrays(types), operands, inner, text[end:], root)


def _closing(text: str, start: int) -> int:
    """Position after the parenthesis that closes the one at `start`; those in quoted strings do not count."""
    depth, quoted = 0, False
    for position in range(start, len(text)):
        letter = text[position]
        if letter == '"' and text[position - 1] != "\\":
            quoted = not quoted
        elif not quoted:
            depth += (letter == "(") - (letter == ")")
            if depth == 0:
                return position + 1
    raise ValueError(f"unbalanced: {text[:80]}")


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    found = re.search(r"\d+", dtype)  # of names such as bf16, s32, f8e4m3fn, c64
    if not found:
        raise ValueError(f"an array of the unknown type {dtype}")
    return int(found[0])
