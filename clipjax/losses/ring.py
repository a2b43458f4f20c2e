"""A loss over devices, as a ring: columns travel from device to device. Least memory, a hop a device.

What does not depend on the tiles (the columns) is sent on before they are computed, and what does (sums and gradients
of the columns) follows one step behind and is added to on arrival: so every hop overlaps with a block's tiles.
"""

from jax import lax

from clipjax.losses import tiles


def visit(against, rows, columns, mine, nothing, merge, axes, kept):
    """tiles.walk of this device's rows against everybody's columns: (mine, theirs, None), theirs of its own columns.

    nothing(columns): what columns hold before they have met a row; merge: how what devices have found of the same
    columns becomes one; kept: None. Runs inside shard_map over the mesh axes `axes`.
    """

    def step(carry, _):
        columns, mine, theirs = carry
        next_columns, arriving = _hop((columns, theirs), axes)
        mine, here, _ = tiles.walk(against, rows, columns, mine, nothing(columns))
        return (next_columns, mine, merge.two(arriving, here)), None

    (_, mine, theirs), _ = lax.scan(step, (columns, mine, nothing(columns)), length=lax.axis_size(axes))
    return mine, _hop(theirs, axes), kept  # the last hop brings them home


def _hop(tree, axes):
    n = lax.axis_size(axes)
    return lax.ppermute(tree, axes, [(i, (i + 1) % n) for i in range(n)])
