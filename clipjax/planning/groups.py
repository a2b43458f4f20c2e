"""Which devices a collective joins, in every spelling that compilers print, and which axis of the mesh that is."""

import itertools
import math
import re

import numpy as np

Groups = frozenset[frozenset[int]]

_LISTED = re.compile(r"replica_groups=\{(\{[\d,]*\}(?:, ?\{[\d,]*\})*)?\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=@?mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? ?\{([^}]*)\}"
)
_AXIS = re.compile(r"'([^']+)'(?:=(\d+)|(:\(\d+\)\d+))?")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")


def replica_groups(text: str, devices: int, slices: int = 1) -> Groups:
    """The groups that an operation's attributes tell, as positions in the flattened mesh.

    Of several slices a program may tell the first one's alone; the others' are the same. Pairs of a permutation are
    joined where they meet: a ring is one group. Raises ValueError for an unknown spelling.
    """
    groups, inside = _told(text, devices, slices), devices // slices
    if max(itertools.chain(*groups), default=0) >= inside:
        return groups
    return frozenset(
        frozenset(item + first for item in group) for group in groups for first in range(0, devices, inside)
    )


def between_slices(devices: int, slices: int) -> Groups:
    """The groups of the devices that have the same place in each slice."""
    return along_axes(np.arange(devices).reshape(slices, -1), [0])


def _told(text: str, devices: int, slices: int) -> Groups:
    if found := _PAIRS.search(text):
        return _joined([tuple(map(int, pair.split(","))) for pair in re.findall(r"\d+,\d+", found[1])])
    if found := _LISTED.search(text):
        rows = [_numbers(row) for row in re.findall(r"\{([\d,]*)\}", found[1] or "")]
        return _checked(rows if any(rows) else [range(devices)], devices, slices, text)
    if found := _IOTA.search(text):
        ids = _iota(_numbers(found[2]), _numbers(found[3])).reshape(_numbers(found[1]))
        return _checked(ids, devices, slices, text)
    if found := _MESH.search(text):
        return _checked(_along(*found.groups()), devices, slices, text)
    raise ValueError(f"replica groups in an unknown spelling: {_excerpt(text)}")


def axis_name(groups: Groups, sizes: dict[str, int]) -> str:
    """The axes of the mesh that the groups run along, joined by "+"; "part of …" for groups that are only inside.

    sizes: devices of each axis, in the order of the mesh; axes of one device are never named.
    """
    names = [name for name, size in sizes.items() if size > 1]
    ids = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
    for count in range(1, len(names) + 1):
        for chosen in itertools.combinations(names, count):
            along = along_axes(ids, [list(sizes).index(name) for name in chosen])
            if groups == along:
                return "+".join(chosen)
            if all(any(group <= other for other in along) for group in groups):
                return f"part of {'+'.join(chosen)}"
    return "none"


def along_axes(ids: np.ndarray, axes: list[int]) -> Groups:
    """The groups of those entries of `ids` that differ along `axes` alone."""
    size = math.prod(ids.shape[axis] for axis in axes)
    moved = np.moveaxis(ids, axes, range(ids.ndim - len(axes), ids.ndim)).reshape(-1, size)
    return frozenset(frozenset(row.tolist()) for row in moved)


def _along(axes: str, shape: str | None, order: str | None, chosen: str) -> list:
    """Groups of `mesh['axis_0'=16,…], device_ids=([16,16]T(1,0)) {'axis_1'}`, whose axes are the compiler's own."""
    named = _AXIS.findall(axes)
    sizes = [int(size) for _, size, _ in named]
    picked = _AXIS.findall(chosen)
    if not named or any(part for *_, part in picked):
        raise ValueError(f"replica groups in an unknown spelling: mesh[{axes}] {{{chosen}}}")
    count = math.prod(sizes)
    ids = _iota(_numbers(shape) or [count], _numbers(order)).reshape(sizes)
    names = [name for name, *_ in named]
    return [sorted(group) for group in along_axes(ids, [names.index(name) for name, *_ in picked])]


def _iota(shape: list[int], order: list[int]) -> np.ndarray:
    ids = np.arange(math.prod(shape)).reshape(shape)
    return ids.transpose(order) if order else ids


def _checked(rows, devices: int, slices: int, text: str) -> Groups:
    """The groups; every device, of all or of one slice, stands in exactly one, or the spelling was not understood."""
    rows = [[int(item) for item in row] for row in rows]
    if sorted(itertools.chain(*rows)) not in (list(range(devices)), list(range(devices // slices))):
        raise ValueError(f"replica groups that do not divide {devices} devices: {_excerpt(text)}")
    return frozenset(map(frozenset, rows))


def _joined(pairs: list[tuple[int, int]]) -> Groups:
    groups: list[set[int]] = []
    for pair in pairs:
        joined = set(pair).union(*(group for group in groups if group & set(pair)))
        groups = [group for group in groups if not group & joined] + [joined]
    return frozenset(map(frozenset, groups))


def _numbers(text: str | None) -> list[int]:
    return [int(item) for item in (text or "").split(",") if item]


def _excerpt(text: str) -> str:
    place = max(text.find("replica_groups"), 0)
    return text[place : place + 160]
