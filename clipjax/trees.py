"""A tree as `{path: leaf}` and back: rules, decay masks, weights and telemetry all speak in these paths."""

from collections.abc import Callable, Mapping
from typing import Any


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves of a pytree (nested dicts, tuples, NNX states …) by slash-separated path, in the tree's own order.

    Keys that only wrap a value (the `.value` of an NNX variable) leave no trace in the path.
    """
    import jax

    return {_path(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dict from `{path: leaf}`. Raises ValueError where a path is both a leaf and a folder."""
    root: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        node = root
        for folder in folders:
            node = node.setdefault(folder, {})
            if not isinstance(node, dict):
                raise ValueError(f"{path}: {folder} is a leaf already")
        if name in node:
            raise ValueError(f"{path}: stands there twice")
        node[name] = leaf
    return root


def map_with_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """The tree with every leaf replaced by `function(path, leaf)`."""
    import jax

    return jax.tree_util.tree_map_with_path(lambda keys, leaf: function(_path(keys), leaf), tree)


def _path(keys: tuple) -> str:
    names = [_name(key) for key in keys]
    return "/".join(name for name in names if name)


def _name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            name = getattr(key, attribute)
            return "" if attribute == "name" and name == "value" else str(name)
    return str(key)
