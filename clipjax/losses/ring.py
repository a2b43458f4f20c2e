"""The contrastive loss over devices, as a ring: columns travel from device to device. Least memory, a hop a device.

What does not depend on the tiles (the columns) is sent on before they are computed, and what does (sums and gradients
of the columns) follows one step behind and is added to on arrival: so every hop overlaps with a block's tiles.
"""

import jax
import jax.numpy as jnp
from jax import lax

from clipjax.losses import tiles


def forward(rows, columns, scale, axes):
    """tiles.forward of this device's rows against everybody's columns; the column sums are those of its own columns.

    Runs inside shard_map over the mesh axes `axes`.
    """

    def step(carry, _):
        columns, found, sums = carry
        next_columns, arriving = _hop((columns, sums), axes)
        here, column_sums = tiles.forward(rows, columns, scale)
        return (next_columns, tiles.merge_found(found, here, scale), tiles.merge(arriving, column_sums, scale)), None

    start = (columns, tiles.nothing_found(rows.ids), tiles.no_sums(columns.ids))
    (_, found, sums), _ = lax.scan(step, start, length=lax.axis_size(axes))
    return found, _hop(sums, axes)  # the last hop brings them home


def backward(rows, columns, row_sums, column_sums, scale, weight, axes):
    """tiles.backward of the same; d_columns are complete for this device's own columns, d_scale is its share."""

    def step(carry, _):
        travelling, d_columns, mine = carry
        next_travelling, arriving = _hop((travelling, d_columns), axes)
        d_rows, d_columns, d_scale = tiles.backward(rows, travelling[0], row_sums, travelling[1], scale, weight)
        return (next_travelling, arriving + d_columns, jax.tree.map(jnp.add, mine, (d_rows, d_scale))), None

    d_columns = jnp.zeros_like(columns.features, jnp.float32)
    mine = (jnp.zeros_like(rows.features, jnp.float32), jnp.zeros_like(row_sums.best[0, 0]))
    (_, d_columns, (d_rows, d_scale)), _ = lax.scan(
        step, ((columns, column_sums), d_columns, mine), length=lax.axis_size(axes)
    )
    return d_rows, _hop(d_columns, axes), d_scale


def _hop(tree, axes):
    n = lax.axis_size(axes)
    return lax.ppermute(tree, axes, [(i, (i + 1) % n) for i in range(n)])
