"""Positions of a model at another picture size or context length: interpolated as open_clip does at loading."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.config import ModelConfig

_GRIDS = ("image/positional_embedding", "image/pool/positional_embedding")  # of a ViT, of a ResNet's attention pool
_TEXT = "text/positional_embedding"


def fit_positions(
    arrays: Mapping[str, np.ndarray], found: ModelConfig, wanted: ModelConfig
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The `{path: array}` table of a model `found` at the picture size and context length of `wanted`.

    Returns the table and a line for each array that was changed. Everything else about the two models is equal.
    """
    arrays, lines = dict(arrays), []
    old, new = (model.image.image_size // model.image.patch_size for model in (found, wanted))
    if old != new:
        path = next(path for path in _GRIDS if path in arrays)
        arrays[path] = np.asarray(resize_grid(arrays[path], new))
        pool = " (of the attention pool; open_clip does not resize those)" if "pool" in path else ""
        lines.append(
            f"{path}: {old} x {old} positions made {new} x {new} by bicubic interpolation, "
            f"for pictures of {wanted.image.image_size} instead of {found.image.image_size} pixels{pool}"
        )
    old, new = (model.text.context_length for model in (found, wanted))
    if old != new:
        arrays[_TEXT] = resize_context(arrays[_TEXT], new)
        how = "made by linear interpolation" if new > old else "kept, the first ones"
        lines.append(f"{_TEXT}: {new} positions of {old} {how}")
    return arrays, lines


def resize_grid(positions, side: int) -> jax.Array:
    """positions [1 + g², W] -> [1 + side², W] float32; differentiable, and the same array where side is g.

    Row 0, which belongs to the class token or to the mean of the map, is kept; the grid, rows first, is resized
    bicubic (a = -½) with antialiasing and half-pixel centres.
    """
    old = round((len(positions) - 1) ** 0.5)
    if old == side:
        return positions
    first, grid = positions[:1], positions[1:].reshape(old, old, -1)
    grid = jax.image.resize(grid, (side, side, grid.shape[-1]), "cubic")
    return jnp.concatenate([first, grid.reshape(side * side, -1)])


def resize_context(positions: np.ndarray, length: int) -> np.ndarray:
    """positions [context, W] -> [length, W] float32: the first rows, or more by linear interpolation.

    Fewer are exact: no token sees a later one. More are read off between the old ones at half-pixel centres.
    """
    if length <= len(positions):
        return positions[:length]
    return np.asarray(jax.image.resize(positions, (length, positions.shape[1]), "linear", antialias=False))
