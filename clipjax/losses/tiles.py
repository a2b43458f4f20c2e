"""A loss inside one device: rows against columns, one tile of their cosines at a time."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

# Stands for "no cosine": below every real one, and finite, so that no inf - inf can arise.
NO_COSINE = -1e30
_NO_ID = jnp.iinfo(jnp.int32).max


class Block(NamedTuple):
    """Features cut into tiles: what a row tile or a column tile is a slice of.

    features [tiles, t, E]: float32 or bfloat16, zeros in the padding; ids [tiles, t] int32: the place of each in the
    global batch, -1 in the padding. An image and a text are a pair if their ids are equal. Rows and columns are cut
    alike, so that the halves of a pair have the same place in their tiles. real [tiles, t] bool: what is no padding;
    None where there is none, so that whole tiles pay for no mask. keys: arrays int32 [tiles, t]; what is equal in one
    of them is a duplicate, and no negative.
    """

    features: Array
    ids: Array
    real: Array | None
    keys: tuple[Array, ...]


class Seen(NamedTuple):
    """What rows have met so far: the greatest cosine, that of their own column, the lowest id of a nearest column."""

    best: Array
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


def block(features, keys, first, block_size):
    """Block of features [b, E] whose first row has the id `first`, and of their keys, arrays [b]."""
    b = features.shape[0]
    ids = cut(first + jnp.arange(b, dtype=jnp.int32) + 1, block_size) - 1
    return Block(
        cut(features, block_size), ids, ids >= 0 if ids.size > b else None, tuple(cut(x, block_size) for x in keys)
    )


def walk(against, rows, columns, mine, theirs, kept=None):
    """Every row tile meets every column tile once: what both have gathered from it, (mine, theirs, kept).

    The first four are trees of arrays [tiles, ...]: rows and columns are looked at, mine and theirs are what the tiles
    of each hold so far. kept: a tree of arrays [row tiles, column tiles, ...], what an earlier walk has kept of each
    meeting; None if nothing. against(row)(column, mine, theirs, kept) -> (mine, theirs, kept) is one meeting, of trees
    without the leading axes; what `against` computes of the row alone is computed once a row tile.
    """

    def row_tile(carry, i_and_kept):
        (mine, theirs), (i, kept) = carry, i_and_kept
        meet = against(_at(rows, i))

        def column_tile(carry, j_and_kept):
            (own, theirs), (j, kept) = carry, j_and_kept
            own, changed, kept = meet(_at(columns, j), own, _at(theirs, j), kept)
            return (own, _put(theirs, j, changed)), kept

        (own, theirs), kept = lax.scan(column_tile, (_at(mine, i), theirs), (jnp.arange(_count(columns)), kept))
        return (_put(mine, i, own), theirs), kept

    (mine, theirs), kept = lax.scan(row_tile, (mine, theirs), (jnp.arange(_count(rows)), kept))
    return mine, theirs, kept


def cosines(row, column):
    """Of all rows with all columns of a tile: [t, t] float32, NO_COSINE where they are left out."""
    u = matmul(row.features, column.features, 1, 1)
    out = left_out(row, column)
    return u if out is None else jnp.where(out, NO_COSINE, u)


def left_out(row, column):
    """Which meetings of a tile count for nothing: [t, t] bool, or None where all count."""
    out = None if row.real is None else ~(row.real[:, None] & column.real[None, :])
    if not row.keys:
        return out
    same = functools.reduce(
        jnp.logical_or, (x[:, None] == y[None, :] for x, y in zip(row.keys, column.keys, strict=True))
    )
    same &= ~pairs(row, column)
    return same if out is None else out | same


def pairs(row, column):
    """Which meetings of a tile are those of an image with its own text: [t, t] bool."""
    return row.ids[:, None] == column.ids[None, :]


def matmul(x, y, x_axis, y_axis):
    """Sums over one axis of each in float32.

    Precision "highest": float32 operands are multiplied as float32, not in TF32 (GPU) or one bfloat16 pass (TPU), whose
    cosines err by some 1e-3: a tenth of a logit at scale 100. At 32,768 pairs and E = 768 the whole loss is 1e-3 of the
    arithmetic of a ViT-L/14 step, so that six passes cost less than a hundredth of it. bfloat16 operands take one.
    """
    numbers = (((x_axis,), (y_axis,)), ((), ()))
    return lax.dot_general(x, y, numbers, precision="highest", preferred_element_type=jnp.float32)


def nothing_seen(ids):
    """Seen by rows with these ids that have met no column."""
    nothing = jnp.zeros_like(ids, jnp.float32) + NO_COSINE  # inherits from ids that devices differ in it (shard_map)
    return Seen(nothing, nothing, jnp.zeros_like(ids) + _NO_ID)


def look(seen, u, row, column):
    """Seen [t] after one more tile of cosines u [t, t]."""
    best = jnp.max(u, axis=1)
    nearest = jnp.min(jnp.where(u == best[:, None], column.ids[None, :], _NO_ID), axis=1)
    nearest = jnp.where(best >= seen.best, nearest, _NO_ID)
    earlier = jnp.where(seen.best >= best, seen.nearest, _NO_ID)
    own = jnp.where(row.ids == column.ids, jnp.diagonal(u), NO_COSINE)
    return Seen(jnp.maximum(seen.best, best), jnp.maximum(seen.own, own), jnp.minimum(earlier, nearest))


def _count(tree):
    return jax.tree.leaves(tree)[0].shape[0]


def _at(tree, i):
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), tree)


def _put(tree, i, slices):
    """In place: XLA updates what a loop carries where it lies."""
    return jax.tree.map(lambda x, y: lax.dynamic_update_index_in_dim(x, y, i, 0), tree, slices)
