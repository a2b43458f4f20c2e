"""Between one entry a layer, as all the world stores a model, and the stacked blocks that a scan runs over."""

import re
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

_LAYER = re.compile(r"^(.*\bblocks)/(\d+)/(.*)$")
_STACKED = re.compile(r"^(.*\bblocks)/(.*)$")
_TOWER = re.compile(r"^(.*\b(?:image|text))/blocks$")  # whose last layer stands apart, unlike those of ResNets
_LAST = re.compile(r"^(.*\b(?:image|text))/last/(.*)$")


def stack_layers(leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`…/blocks/{i}/rest` for i = 0, 1, … become `…/blocks/rest` with a leading axis; the others stay.

    The last layer of a transformer becomes `…/last/rest`. Raises ValueError where a layer is missing or the layers
    differ in shape.
    """
    single, layers = {}, defaultdict[tuple[str, str], dict[int, np.ndarray]](dict)
    for path, leaf in leaves.items():
        if found := _LAYER.match(path):
            blocks, index, rest = found.groups()
            layers[blocks, rest][int(index)] = leaf
        else:
            single[path] = leaf
    for (blocks, rest), parts in layers.items():
        if set(parts) != set(range(len(parts))):
            raise ValueError(f"{blocks}/{rest}: layers {sorted(parts)} found, 0 to {len(parts) - 1} expected")
        if tower := _TOWER.match(blocks):
            single[f"{tower[1]}/last/{rest}"] = parts.pop(len(parts) - 1)
        if parts:
            single[f"{blocks}/{rest}"] = np.stack([parts[index] for index in range(len(parts))])
    return single


def unstack_layers(leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `stack_layers`: views into the stacked arrays, one entry a layer."""
    result = {}
    for path, leaf in leaves.items():
        if found := _STACKED.match(path):
            blocks, rest = found.groups()
            result |= {f"{blocks}/{index}/{rest}": leaf[index] for index in range(leaf.shape[0])}
        elif found := _LAST.match(path):
            tower, rest = found.groups()
            below = leaves.get(f"{tower}/blocks/{rest}")
            result[f"{tower}/blocks/{0 if below is None else below.shape[0]}/{rest}"] = leaf
        else:
            result[path] = leaf
    return result
