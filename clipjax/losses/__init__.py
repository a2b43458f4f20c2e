"""The training losses: functions of arrays, computed block by block over any mesh. Names load on first use."""

__all__ = ["contrastive_loss", "contrastive_loss_and_recall"]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from clipjax.losses import contrastive

    return getattr(contrastive, name)
