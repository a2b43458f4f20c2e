"""clipjax: train, adapt and evaluate CLIP in JAX. In Python: `load`, `train`, `evaluate`, `convert`, `plan`."""

import importlib

_FACE = {
    "Bundle": "clipjax.bundle",
    "load": "clipjax.bundle",
    "convert": "clipjax.bundle",
    "train": "clipjax.training.loop",
    "evaluate": "clipjax.evaluation.suite",
    "plan": "clipjax.planning.plan",
    "UserError": "clipjax.errors",
}
__all__ = sorted(_FACE)
__version__ = "0.1.0"


def __getattr__(name: str):
    """Import what is asked for when it is asked for, so that `import clipjax` loads neither JAX nor anything heavy."""
    if name not in _FACE:
        raise AttributeError(f"module 'clipjax' has no attribute {name!r}")
    return getattr(importlib.import_module(_FACE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_FACE])
