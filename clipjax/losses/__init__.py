"""The training losses: functions of arrays, computed block by block over any mesh. Names load on first use."""

import importlib

_HOMES = {
    "loss_and_recall": "configured",
    "contrastive_loss": "contrastive",
    "contrastive_loss_and_recall": "contrastive",
    "sigmoid_loss": "sigmoid",
    "sigmoid_loss_and_recall": "sigmoid",
}
__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"clipjax.losses.{_HOMES[name]}"), name)
