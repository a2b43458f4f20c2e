"""The contrastive loss over devices, by all-gather: each holds all columns at once. Few messages, more memory."""

import jax.numpy as jnp
from jax import lax

from clipjax.losses import tiles
from clipjax.losses.tiles import Sums


def forward(rows, columns, scale, axes):
    """tiles.forward of this device's rows against everybody's columns; the column sums are those of its own columns.

    Runs inside shard_map over the mesh axes `axes`; also without, on one device, with axes=().
    """
    found, sums = tiles.forward(rows, _everybodys(columns, axes), scale)
    return found, _add_sums(sums, scale, axes)


def backward(rows, columns, row_sums, column_sums, scale, weight, axes):
    """tiles.backward of the same; d_columns are complete for this device's own columns, d_scale is its share."""
    columns, column_sums = _everybodys((columns, column_sums), axes)
    d_rows, d_columns, d_scale = tiles.backward(rows, columns, row_sums, column_sums, scale, weight)
    return d_rows, _add(d_columns, axes), d_scale


def _everybodys(tree, axes):
    """[tiles, ...] this device -> [devices * tiles, ...]."""
    return lax.all_gather(tree, axes, tiled=True)


def _add(x, axes):
    """[devices * tiles, ...] partial -> [tiles, ...] complete, of this device."""
    return lax.psum_scatter(x, axes, tiled=True)


def _add_sums(sums, scale, axes):
    best = lax.pmax(sums.best, axes)
    total = _add(sums.total * jnp.exp(scale * (sums.best - best)), axes)
    k = total.shape[0]
    return Sums(lax.dynamic_slice_in_dim(best, lax.axis_index(axes) * k, k), total)
