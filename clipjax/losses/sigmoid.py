"""The sigmoid loss of SigLIP (Zhai et al. 2023): every image with every text is a question of its own."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from clipjax.losses import tiles
from clipjax.losses.devices import ALL, ROWS, lay_out, scalar


def sigmoid_loss(
    image_features, text_features, logit_scale, logit_bias, *, mesh=None, block_size=2048, method="auto", keys=()
):
    """Sum over all images and texts of -log sigmoid(±(logit_scale * cosine + logit_bias)), divided by B: float32 [].

    The sign is + for the pairs of a row, - for all others. logit_bias: scalar. Differentiable (reverse mode) in the
    first four; the rest, and errors, as in `contrastive_loss`. The gradient is found with the loss: each cosine is
    computed once, and no sums over rows or columns are kept.
    """
    options = dict(mesh=mesh, block_size=block_size, method=method, keys=keys)
    return sigmoid_loss_and_recall(image_features, text_features, logit_scale, logit_bias, **options)[0]


def sigmoid_loss_and_recall(
    image_features, text_features, logit_scale, logit_bias, *, mesh=None, block_size=2048, method="auto", keys=()
):
    """(sigmoid_loss, recall@1), both float32 []; recall@1 as in `contrastive_loss_and_recall`."""
    image, text = jnp.asarray(image_features), jnp.asarray(text_features)
    layout = lay_out(image, text, mesh, block_size, method)
    scalars = scalar(logit_scale, "logit_scale"), scalar(logit_bias, "logit_bias")
    (image, text, *keys), (scale, bias) = layout.place((image, text, *keys), scalars)
    return _compiled(image, text, scale, bias, tuple(keys), layout)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _loss_and_recall(image, text, scale, bias, keys, layout):
    return _forward(image, text, scale, bias, keys, layout)[0]


def _forward(image, text, scale, bias, keys, layout):
    """((loss, recall), gradients of the loss by the first four)."""

    def here(image, text, scale, bias, keys):  # [b, E], [b] this device
        b, n = image.shape[0], lax.axis_size(layout.axes)
        images, texts = layout.blocks(image, text, keys)
        seen = tiles.nothing_seen(images.ids)
        zeros = jnp.zeros_like(seen.best)
        mine = seen, zeros, jnp.zeros_like(images.features, jnp.float32), zeros, zeros
        (seen, loss, d_image, d_scale, d_bias), d_text, _ = layout.visit(
            partial(_meeting, scale, bias), images, texts, mine, _no_gradient
        )
        hits = tiles.uncut(seen.nearest == images.ids, b).sum(dtype=jnp.float32)
        loss, d_scale, d_bias = (x.sum() / (b * n) for x in (loss, d_scale, d_bias))
        d_image, d_text = (
            (scale / (b * n) * tiles.uncut(x, b)).astype(image.dtype) for x in (d_image, d_text.swapaxes(1, 2))
        )
        sums = lax.psum((loss, hits / (b * n), d_scale, d_bias), layout.axes)
        return sums[:2], (d_image, d_text), sums[2:]

    specs = (ROWS, ROWS, ALL, ALL, ROWS), (ALL, ROWS, ALL)
    outputs, d_features, d_scalars = layout.on_mesh(here, *specs)(image, text, scale, bias, keys)
    return outputs, (*d_features, *d_scalars)


def _backward(layout, gradients, cotangents):
    return *(((cotangents[0] * x).astype(x.dtype)) for x in gradients), None


_loss_and_recall.defvjp(_forward, _backward)
_compiled = jax.jit(_loss_and_recall, static_argnums=5)


def _no_gradient(columns):
    """Zeros [tiles, E, t]: transposed, so that each matrix product of a tile reads its left side along rows."""
    return jnp.zeros_like(columns.features.swapaxes(1, 2), jnp.float32)


def _meeting(scale, bias, row):
    """Each logit once. By rows: seen, loss, d_row / scale [t, E], d_scale, d_bias; by columns: d_column / scale."""
    turned = row.features.T  # [E, t]

    def meet(column, mine, d_column, _):
        seen, loss, d_row, d_scale, d_bias = mine
        u = tiles.cosines(row, column)  # [t rows, t columns]
        seen, own, out = tiles.look(seen, u, row, column), tiles.pairs(row, column), tiles.left_out(row, column)
        y = scale * u + bias
        y = jnp.where(own, -y, y)  # the loss is log(1 + exp(y)), whose slope is sigmoid(y)
        y = y if out is None else jnp.where(out, tiles.NO_COSINE, y)
        small = jnp.exp(-jnp.abs(y))
        loss = loss + jnp.sum(jnp.maximum(y, 0.0) + jnp.log1p(small), axis=1)
        g = jnp.where(y >= 0, 1.0, small) / (1.0 + small)
        g = jnp.where(own, -g, g)
        d_scale, d_bias = d_scale + jnp.sum(g * u, axis=1), d_bias + jnp.sum(g, axis=1)
        g = g.astype(row.features.dtype)
        d_row, d_column = d_row + tiles.matmul(g, column.features, 1, 0), d_column + tiles.matmul(turned, g, 1, 0)
        return (seen, loss, d_row, d_scale, d_bias), d_column, None

    return meet
