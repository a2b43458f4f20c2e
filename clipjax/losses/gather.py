"""A loss over devices, by all-gather: each holds all columns at once. Few messages, more memory."""

from jax import lax

from clipjax.losses import tiles


def visit(against, rows, columns, mine, nothing, merge, axes, kept):
    """tiles.walk of this device's rows against everybody's columns: (mine, theirs, kept), theirs of its own columns.

    nothing(columns): what columns hold before they have met a row; merge: how what devices have found of the same
    columns becomes one. Runs inside shard_map over the mesh axes `axes`; also without, on one device, with axes=().
    """
    if lax.axis_size(axes) == 1:
        return tiles.walk(against, rows, columns, mine, nothing(columns), kept)
    columns = lax.all_gather(columns, axes, tiled=True)  # [tiles, ...] this device -> [devices * tiles, ...]
    mine, theirs, kept = tiles.walk(against, rows, columns, mine, nothing(columns), kept)
    return mine, merge.scatter(theirs, axes), kept
