"""What of a model is trained: frozen towers and BatchNorms keep their numbers, get no gradient and have no moments."""

import re
from typing import Any

from clipjax.config import Config
from clipjax.models.clip import CLIP
from clipjax.trees import flatten, unflatten

_BATCH_NORM = re.compile(r"/bn\d?/(scale|bias)$")  # paths of `clipjax.models.clip`


def split(config: Config, params: Any) -> tuple[dict, dict]:
    """(trained, frozen): nested dicts that together have the leaves of `params`, under their paths.

    A frozen tower is the whole of it, its projection included, as in LiT (Zhai et al. 2022) with `img/.*` locked; the
    logit scale is always trained. Frozen BatchNorms keep gains and biases too, as open_clip's FrozenBatchNorm2d does.
    The gradient is taken of the trained half alone, so that nothing of a frozen tower's backward pass is computed.
    """
    halves: tuple[dict, dict] = ({}, {})
    for path, leaf in flatten(params).items():
        halves[_is_frozen(config, path)][path] = leaf
    return unflatten(halves[0]), unflatten(halves[1])


def join(trained: dict, frozen: dict) -> dict:
    """The nested dict that `split` divided."""
    return unflatten(flatten(trained) | flatten(frozen))


def set_modes(config: Config, model: CLIP) -> None:
    """Put a model in training mode, but what is frozen in evaluation mode: BatchNorms that use running averages."""
    model.train()
    if config.freeze == "image" or config.freeze_batch_norm:
        model.image.eval()
    if config.freeze == "text":
        model.text.eval()


def _is_frozen(config: Config, path: str) -> bool:
    return path.startswith(f"{config.freeze}/") or bool(config.freeze_batch_norm and _BATCH_NORM.search(path))
