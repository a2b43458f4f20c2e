"""The contrastive loss inside one device: rows against columns, one tile of the logits at a time."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

# Stands for "no cosine": below every real one, and finite, so that no inf - inf can arise.
_NO_COSINE = -1e30
_NO_ID = jnp.iinfo(jnp.int32).max


class Block(NamedTuple):
    """Features cut into tiles: what a row tile or a column tile is a slice of.

    features [tiles, t, E]: float32 or bfloat16, zeros in the padding; ids [tiles, t] int32: the place of each in the
    global batch, -1 in the padding. An image and a text are a pair if their ids are equal.
    """

    features: Array
    ids: Array


class Sums(NamedTuple):
    """A running logsumexp over cosines u: logsumexp(scale * u) = scale * best + log(total). Both float32.

    The maximum is kept in cosines, so that the largest term is exactly exp(0) at any scale. Needs scale > 0.
    """

    best: Array
    total: Array


class Found(NamedTuple):
    """What rows have met so far: their sums, the cosine of their own column, and the lowest id of a nearest column."""

    sums: Sums
    own: Array
    nearest: Array


def cut(x, block_size):
    """[b, ...] -> [tiles, t, ...] of `cut_shape`, with zeros behind the last row."""
    tiles, t = cut_shape(x.shape[0], block_size)
    padding = [(0, tiles * t - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, padding).reshape(tiles, t, *x.shape[1:])


def cut_shape(b, block_size):
    """(tiles, t) for b rows: as few tiles of t <= block_size as hold them, filled evenly: none is all padding."""
    tiles = math.ceil(b / block_size)
    return tiles, math.ceil(b / tiles)


def uncut(tiles, b):
    """[tiles, t, ...] -> [b, ...]: what `cut` was given, without the padding."""
    return tiles.reshape(-1, *tiles.shape[2:])[:b]


def block(features, first, block_size):
    """Block of features [b, E] whose first row has the id `first`."""
    ids = cut(first + jnp.arange(features.shape[0], dtype=jnp.int32) + 1, block_size) - 1
    return Block(cut(features, block_size), ids)


def merge(x, y, scale):
    """Sums over two disjoint sets of cosines -> Sums over both."""
    best = jnp.maximum(x.best, y.best)
    return Sums(best, x.total * jnp.exp(scale * (x.best - best)) + y.total * jnp.exp(scale * (y.best - best)))


def merge_found(x, y, scale):
    """Found over two disjoint sets of columns -> Found over both."""
    x_nearest = jnp.where(x.sums.best >= y.sums.best, x.nearest, _NO_ID)
    y_nearest = jnp.where(y.sums.best >= x.sums.best, y.nearest, _NO_ID)
    return Found(merge(x.sums, y.sums, scale), jnp.maximum(x.own, y.own), jnp.minimum(x_nearest, y_nearest))


def no_sums(ids):
    """Sums over nothing, for things with these ids."""
    nothing = jnp.zeros_like(ids, jnp.float32)  # inherits what shard_map knows of ids: that devices differ in it
    return Sums(nothing + _NO_COSINE, nothing)


def nothing_found(ids):
    """Found by rows with these ids that have met no column."""
    sums = no_sums(ids)
    return Found(sums, sums.best, jnp.zeros_like(ids) + _NO_ID)


def forward(rows, columns, scale):
    """Each logit once: (Found [tiles, t] of the rows, Sums [tiles, t] of the columns). scale: float32 [], > 0."""

    def row_tile(sums, row):
        def column_tile(found, column_and_sums):
            column, so_far = column_and_sums
            here, column_sums = _meet(row, column, scale)
            return merge_found(found, here, scale), merge(so_far, column_sums, scale)

        found, sums = lax.scan(column_tile, nothing_found(row.ids), (columns, sums))
        return sums, found

    sums, found = lax.scan(row_tile, no_sums(columns.ids), rows)
    return found, sums


def backward(rows, columns, row_sums, column_sums, scale, weight):
    """Each logit once more: gradients of weight * (all logsumexps of rows and columns - 2 * all own logits).

    row_sums, column_sums [tiles, t]: Sums of each row and each column over the whole batch.
    Returns (d_rows [tiles, t, E], d_columns [tiles, t, E], d_scale []), all float32.
    """

    def row_tile(carry, row_and_sums):
        row, r = row_and_sums

        def column_tile(carry, column_and_sums):
            d_row, d_columns, d_scale = carry
            j, column, c = column_and_sums
            u = _cosines(row, column)  # [t rows, t columns]
            # Not exp(logit - logsumexp): at scale 100 the rounding of a logsumexp would tilt its whole row by 4e-6.
            g = jnp.exp(scale * (u - r.best[:, None])) / r.total[:, None]
            g = g + jnp.exp(scale * (u - c.best[None, :])) / c.total[None, :] - 2.0 * _pairs(row, column)
            g = jnp.where(_real(row, column), g, 0.0)  # exp may overflow in the padding
            d_scale = d_scale + weight * jnp.sum(g * u)
            # The pairs are already subtracted, so that rounding to bf16 is relative to what is left of the gradient.
            g = g.astype(row.features.dtype)
            d_row = d_row + weight * scale * _matmul(g, column.features, 1, 0)
            d_column = weight * scale * _matmul(g, row.features, 0, 0)
            return (d_row, d_columns.at[j].add(d_column), d_scale), None

        start = jnp.zeros_like(row.features, jnp.float32)
        tiles = (jnp.arange(columns.ids.shape[0]), columns, column_sums)
        (d_row, *carry), _ = lax.scan(column_tile, (start, *carry), tiles)
        return tuple(carry), d_row

    start = (jnp.zeros_like(columns.features, jnp.float32), jnp.zeros_like(row_sums.best[0, 0]))
    (d_columns, d_scale), d_rows = lax.scan(row_tile, start, (rows, row_sums))
    return d_rows, d_columns, d_scale


def _meet(row, column, scale):
    """What one tile holds: (Found of its rows, Sums of its columns)."""
    u = _cosines(row, column)
    u = jnp.where(_real(row, column), u, _NO_COSINE)
    row_sums, column_sums = _sums(u, scale, 1), _sums(u, scale, 0)
    own = jnp.max(jnp.where(_pairs(row, column), u, _NO_COSINE), axis=1)
    nearest = jnp.min(jnp.where(u == row_sums.best[:, None], column.ids[None, :], _NO_ID), axis=1)
    return Found(row_sums, own, nearest), column_sums


def _sums(u, scale, axis):
    best = jnp.max(u, axis, keepdims=True)
    return Sums(jnp.squeeze(best, axis), jnp.sum(jnp.exp(scale * (u - best)), axis))


def _pairs(row, column):
    return row.ids[:, None] == column.ids[None, :]


def _real(row, column):
    return (row.ids[:, None] >= 0) & (column.ids[None, :] >= 0)


def _cosines(row, column):
    return _matmul(row.features, column.features, 1, 1)


def _matmul(x, y, x_axis, y_axis):
    """Sums over one axis of each in float32: neither TF32 nor bfloat16 passes spoil float32 operands."""
    numbers = (((x_axis,), (y_axis,)), ((), ()))
    return lax.dot_general(x, y, numbers, precision="highest", preferred_element_type=jnp.float32)
