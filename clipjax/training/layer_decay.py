"""Learning rates that fall from layer to layer, so that a fine-tuned model keeps what its lower layers know.

The top of each tower has the whole rate: projection, last LayerNorm or attention pool, and the logit scale. Block i of
n has layer_decay^(n - i) of it, what lies below the blocks (patches, tokens, positions, a ResNet's stem)
layer_decay^(n + 1). The n blocks of a ResNet are those of all its stages, one after the other. Source: ELECTRA (Clark
et al. 2020); numbered as in BEiT's code.
"""

import re
from typing import Any

import numpy as np

from clipjax.config import ModelConfig
from clipjax.trees import map_with_path

_BOTTOM = re.compile(
    r"(^|/)(image/(patch|ln_pre|stem)/|(image|text)/(class_embedding|token_embedding|positional_embedding)$)"
)
_BLOCKS = re.compile(r"(^|/)(image|text)/(blocks|last)/")
_STAGE = re.compile(r"(^|/)image/stage(\d)/(first|blocks)/")


def layer_scales(model: ModelConfig, decay: float, params: Any) -> Any:
    """The tree with a float32 factor in place of each parameter (or its shape), which multiplies with it.

    Stacked blocks get one number a layer: [layers, 1, …].
    """
    return map_with_path(lambda path, leaf: _scale(model, decay, path, len(leaf.shape)), params)


def _scale(model: ModelConfig, decay: float, path: str, rank: int) -> np.ndarray:
    blocks = {"image": model.image.layers or sum(model.image.stages), "text": model.text.layers}
    if _BOTTOM.search(path):
        tower = "text" if "text/" in path else "image"
        return np.float32(decay ** (blocks[tower] + 1))
    if found := _BLOCKS.search(path):
        count = blocks[found[2]]
        if found[3] == "last":
            return np.float32(decay)
        numbers = np.arange(count - 1)
    elif found := _STAGE.search(path):
        stage, count = int(found[2]) - 1, blocks["image"]
        first = sum(model.image.stages[:stage])
        if found[3] == "first":
            return np.float32(decay ** (count - first))
        numbers = np.arange(first + 1, first + model.image.stages[stage])
    else:
        return np.float32(1)
    return (decay ** (count - numbers)).astype(np.float32).reshape(-1, *(1,) * (rank - 1))
