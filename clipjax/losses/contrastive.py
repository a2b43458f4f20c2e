"""CLIP's symmetric contrastive loss over the global batch, exact, in tiles of its N x N logits."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from clipjax.losses import tiles
from clipjax.losses.devices import ALL, ROWS, Merge, lay_out, scalar


def contrastive_loss(image_features, text_features, logit_scale, *, mesh=None, block_size=2048, method="auto", keys=()):
    """Mean cross-entropy of picking the own text for each image and the own image for each text: float32 [].

    image_features, text_features [B, E] global: float32 or bfloat16 unit rows, row i of one belongs to row i of the
    other; logit_scale: scalar > 0, already exponentiated. Differentiable (reverse mode) in all three. Cosines are
    summed and the softmax is computed in float32; bfloat16 features keep bfloat16 operands in matrix products.
    mesh: rows are divided over its axes `data` and `fsdp`, whatever other axes it has; None: one device.
    block_size: most rows and columns of a tile of the logits, of which a device holds a few at a time. With method
    "gather" it keeps its cosines for the gradient while they fit into 256 MiB (B = 8,192 on one device).
    method: how texts reach the other devices. "gather" gets them all at once; "ring" passes them on block by block, in
    least memory; "auto" gathers while all texts and their gradient fit into 64 MiB (B = 16,384 at E = 512, float32).
    keys: arrays int32 [B]; rows that are equal in one of them are duplicates, which are no choices for each other.
    Raises UserError for shapes, types or a mesh that do not fit.
    """
    options = dict(mesh=mesh, block_size=block_size, method=method, keys=keys)
    return contrastive_loss_and_recall(image_features, text_features, logit_scale, **options)[0]


def contrastive_loss_and_recall(
    image_features, text_features, logit_scale, *, mesh=None, block_size=2048, method="auto", keys=()
):
    """(contrastive_loss, recall@1), both float32 []; the second at no further matrix product, and without a gradient.

    Recall@1 is the share of images whose own text is the nearest of the global batch; of equal cosines the lower row
    wins. Arguments and errors as in `contrastive_loss`.
    """
    image, text = jnp.asarray(image_features), jnp.asarray(text_features)
    layout = lay_out(image, text, mesh, block_size, method)
    (image, text, *keys), scale = layout.place((image, text, *keys), scalar(logit_scale, "logit_scale"))
    return _compiled(image, text, scale, tuple(keys), layout)


# The gradient is defined outside of shard_map, between its two halves: inside, what autodiff does with the cotangents
# of replicated arguments depends on check_vma.
@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _loss_and_recall(image, text, scale, keys, layout):
    return _forward(image, text, scale, keys, layout)[0]


def _forward(image, text, scale, keys, layout):
    """((loss, recall), what the gradient needs): the arguments, the two logsumexps in their parts, few cosines."""

    def here(image, text, scale, keys):  # [b, E], [b] this device
        b, n = image.shape[0], lax.axis_size(layout.axes)
        images, texts = layout.blocks(image, text, keys)
        seen = tiles.nothing_seen(images.ids)
        against = partial(_sum, scale, layout.keeps_cosines)
        (seen, total), text_sums, cosines = layout.visit(
            against, images, texts, (seen, jnp.zeros_like(seen.best)), _no_sums, _merge(scale)
        )
        image_sums = Sums(seen.best, total)
        # Cosines are subtracted before they are scaled, so that a small loss at a large scale keeps its digits.
        losses = [scale * (x.best - seen.own) + jnp.log(x.total) for x in (image_sums, text_sums)]  # [tiles, t]
        loss, hits = (tiles.uncut(x, b) for x in (losses[0] + losses[1], seen.nearest == images.ids))
        means = loss.sum() / (2 * b * n), hits.sum(dtype=jnp.float32) / (b * n)
        return lax.psum(means, layout.axes), (image_sums, text_sums, cosines)

    outputs, found = layout.on_mesh(here, (ROWS, ROWS, ALL, ROWS), (ALL, ROWS))(image, text, scale, keys)
    return outputs, (image, text, *found, scale, keys)


def _backward(layout, kept, cotangents):
    def here(image, text, image_sums, text_sums, cosines, scale, keys, cotangent):  # [b, E], Sums [tiles, t] here
        b, n = image.shape[0], lax.axis_size(layout.axes)
        images, texts = layout.blocks(image, text, keys)
        mine = jnp.zeros_like(images.features, jnp.float32), jnp.zeros_like(image_sums.best)
        (d_image, d_scale), d_text, _ = layout.visit(
            partial(_gradient, scale), (images, image_sums), (texts, text_sums), mine, _no_gradient, kept=cosines
        )
        weight = cotangent / (2 * b * n)
        d_image, d_text = (
            (weight * scale * tiles.uncut(x, b)).astype(image.dtype) for x in (d_image, d_text.swapaxes(1, 2))
        )
        return d_image, d_text, weight * lax.psum(d_scale.sum(), layout.axes)

    in_specs, out_specs = (ROWS, ROWS, ROWS, ROWS, ROWS, ALL, ROWS, ALL), (ROWS, ROWS, ALL)
    return *layout.on_mesh(here, in_specs, out_specs)(*kept, cotangents[0]), None


_loss_and_recall.defvjp(_forward, _backward)
_compiled = jax.jit(_loss_and_recall, static_argnums=4)


class Sums(NamedTuple):
    """A running logsumexp over cosines u: logsumexp(scale * u) = scale * best + log(total). Both float32.

    The maximum is kept in cosines, so that the largest term is exactly exp(0) at any scale. Needs scale > 0.
    """

    best: Array
    total: Array


def _no_sums(columns):
    best = tiles.nothing_seen(columns.ids).best
    return Sums(best, jnp.zeros_like(best))


def _merge(scale):
    """The Merge of Sums over disjoint sets of cosines."""

    def two(x, y):
        best = jnp.maximum(x.best, y.best)
        return Sums(best, _rescaled(x, best, scale) + _rescaled(y, best, scale))

    def scatter(sums, axes):
        best = lax.pmax(sums.best, axes)
        total = lax.psum_scatter(_rescaled(sums, best, scale), axes, tiled=True)
        k = total.shape[0]
        return Sums(lax.dynamic_slice_in_dim(best, lax.axis_index(axes) * k, k), total)

    return Merge(two, scatter)


def _rescaled(sums, best, scale):
    return sums.total * jnp.exp(scale * (sums.best - best))


def _sum(scale, keep, row):
    """First pass, each logit once: what has been seen and summed by rows, the Sums of columns, the cosines to keep."""

    def meet(column, mine, sums, _):
        u = tiles.cosines(row, column)  # [t rows, t columns]
        seen, total = tiles.look(mine[0], u, row, column), mine[1]
        total = _rescaled(Sums(mine[0].best, total), seen.best, scale)
        total = total + jnp.sum(jnp.exp(scale * (u - seen.best[:, None])), axis=1)
        best = jnp.maximum(sums.best, jnp.max(u, axis=0))
        column_total = _rescaled(sums, best, scale) + jnp.sum(jnp.exp(scale * (u - best[None, :])), axis=0)
        return (seen, total), Sums(best, column_total), u if keep else None

    return meet


def _no_gradient(columns):
    """Zeros [tiles, E, t]: transposed, so that each matrix product of a tile reads its left side along rows."""
    return jnp.zeros_like(columns[0].features.swapaxes(1, 2), jnp.float32)


def _gradient(scale, row_and_sums):
    """Second pass, each logit again: gradients of (all logsumexps of rows and columns - 2 * all own logits).

    By rows of d_row / scale [t, E] and d_scale [t], by columns of d_column / scale [E, t].
    """
    row, r = row_and_sums
    turned = row.features.T  # [E, t]

    def meet(column_and_sums, mine, d_column, u):
        column, c = column_and_sums
        d_row, d_scale = mine
        u = tiles.matmul(row.features, column.features, 1, 1) if u is None else u  # [t rows, t columns]
        # Not exp(logit - logsumexp): at scale 100 the rounding of a logsumexp would tilt its whole row by 4e-6.
        g = jnp.exp(scale * (u - r.best[:, None])) / r.total[:, None]
        g = g + jnp.exp(scale * (u - c.best[None, :])) / c.total[None, :] - 2.0 * tiles.pairs(row, column)
        out = tiles.left_out(row, column)
        g = g if out is None else jnp.where(out, 0.0, g)  # exp may overflow where nothing was summed
        d_scale = d_scale + jnp.sum(g * u, axis=1)
        # The pairs are already subtracted, so that rounding to bf16 is relative to what is left of the gradient.
        g = g.astype(row.features.dtype)
        d_row, d_column = d_row + tiles.matmul(g, column.features, 1, 0), d_column + tiles.matmul(turned, g, 1, 0)
        return (d_row, d_scale), d_column, None

    return meet
