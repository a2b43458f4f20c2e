"""CLIP's symmetric contrastive loss over the global batch, exact, without ever holding its N x N logits."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clipjax.errors import UserError
from clipjax.losses import gather, ring, tiles

_ROW_AXES = ("data", "fsdp")
_ROWS, _ALL = PartitionSpec(_ROW_AXES), PartitionSpec()
_METHODS = {"ring": ring, "gather": gather}
# "auto" gathers while all texts and their float32 gradient fit into this; beyond, the ring saves more than it costs.
_GATHER_BYTES = 64 * 2**20


def contrastive_loss(image_features, text_features, logit_scale, *, mesh=None, block_size=1024, method="auto"):
    """Mean cross-entropy of picking the own text for each image and the own image for each text: float32 [].

    image_features, text_features [B, E] global: float32 or bfloat16 unit rows, row i of one belongs to row i of the
    other; logit_scale: scalar > 0, already exponentiated. Differentiable (reverse mode) in all three. Cosines are
    summed and the softmax is computed in float32; bfloat16 features keep bfloat16 operands in matrix products.
    mesh: rows are divided over its axes `data` and `fsdp`, whatever other axes it has; None: one device.
    block_size: most rows and columns of a tile of the logits, of which a device holds a few at a time.
    method: how texts reach the other devices. "gather" gets them all at once; "ring" passes them on block by block, in
    least memory; "auto" gathers while all texts and their gradient fit into 64 MiB (B = 16,384 at E = 512, float32).
    Raises UserError for shapes, types or a mesh that do not fit.
    """
    loss, _ = contrastive_loss_and_recall(
        image_features, text_features, logit_scale, mesh=mesh, block_size=block_size, method=method
    )
    return loss


def contrastive_loss_and_recall(
    image_features, text_features, logit_scale, *, mesh=None, block_size=1024, method="auto"
):
    """(contrastive_loss, recall@1), both float32 []; the second at no further matrix product, and without a gradient.

    Recall@1 is the share of images whose own text is the nearest of the global batch; of equal cosines the lower row
    wins. Arguments and errors as in `contrastive_loss`.
    """
    image, text = jnp.asarray(image_features), jnp.asarray(text_features)
    scale = jnp.asarray(logit_scale, jnp.float32)
    _check(image, text, scale, mesh, block_size, method)
    if mesh is not None:
        image, text = jax.device_put((image, text), NamedSharding(mesh, _ROWS))
        scale = jax.device_put(scale, NamedSharding(mesh, _ALL))
    return _compiled(image, text, scale, _Plan(mesh, block_size, _pick(method, mesh, text)))


def _check(image, text, scale, mesh, block_size, method):
    if image.ndim != 2 or image.shape != text.shape or image.shape[0] == 0:
        raise UserError(f"loss: features have shapes {image.shape} and {text.shape}, expected the same [B, E] twice.")
    if image.dtype != text.dtype or image.dtype not in (jnp.float32, jnp.bfloat16):
        raise UserError(
            f"loss: features are {image.dtype} and {text.dtype}, expected float32 or bfloat16 for both. Cast them."
        )
    if scale.shape != ():
        raise UserError(f"loss: logit_scale has shape {scale.shape}, expected a scalar.")
    if block_size < 1:
        raise UserError(f"loss.block_size: {block_size}, expected at least 1.")
    if method not in (*_METHODS, "auto"):
        raise UserError(f"loss.method: {method!r}, expected one of {', '.join(_METHODS)}, auto.")
    if mesh is None:
        return
    if not set(_ROW_AXES) <= set(mesh.axis_names):
        raise UserError(f"loss: the mesh has axes {mesh.axis_names}, expected 'data' and 'fsdp' among them.")
    if image.shape[0] % _row_devices(mesh):
        raise UserError(
            f"loss: {image.shape[0]} rows over {_row_devices(mesh)} devices (mesh.data x mesh.fsdp) leave a remainder. "
            "Choose a batch size that they divide."
        )


def _row_devices(mesh):
    return mesh.shape["data"] * mesh.shape["fsdp"]


def _pick(method, mesh, text):
    if mesh is None or _row_devices(mesh) == 1:
        return "gather"  # nothing to exchange: the tiles alone
    if method == "auto":
        return "gather" if text.size * (text.dtype.itemsize + 4) <= _GATHER_BYTES else "ring"
    return method


class _Plan(NamedTuple):
    mesh: Mesh | None
    block_size: int
    method: str

    @property
    def axes(self):
        return () if self.mesh is None else _ROW_AXES

    def on_mesh(self, function, in_specs, out_specs):
        """`function` of this device's rows -> the same of global arrays."""
        if self.mesh is None:
            return function
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs)

    def blocks(self, image, text):
        """(image Block, text Block) of this device's rows."""
        first = lax.axis_index(self.axes) * image.shape[0]
        return [tiles.block(x, first, self.block_size) for x in (image, text)]


# The gradient is defined outside of shard_map, between its two halves: inside, what autodiff does with the cotangents
# of replicated arguments depends on check_vma.
@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _loss_and_recall(image, text, scale, plan):
    return _forward(image, text, scale, plan)[0]


def _forward(image, text, scale, plan):
    """((loss, recall), what the gradient needs: the arguments and the two logsumexps, in their parts)."""

    def here(image, text, scale):  # [b, E] this device
        b, n = image.shape[0], lax.axis_size(plan.axes)
        images, texts = plan.blocks(image, text)
        found, text_sums = _METHODS[plan.method].forward(images, texts, scale, plan.axes)
        # Cosines are subtracted before they are scaled, so that a small loss at a large scale keeps its digits.
        losses = [scale * (x.best - found.own) + jnp.log(x.total) for x in (found.sums, text_sums)]  # [tiles, t]
        loss, hits = (tiles.uncut(x, b) for x in (losses[0] + losses[1], found.nearest == images.ids))
        means = loss.sum() / (2 * b * n), hits.sum(dtype=jnp.float32) / (b * n)
        return lax.psum(means, plan.axes), (found.sums, text_sums)

    outputs, sums = plan.on_mesh(here, (_ROWS, _ROWS, _ALL), (_ALL, _ROWS))(image, text, scale)
    return outputs, (image, text, *sums, scale)


def _backward(plan, kept, cotangents):
    def here(image, text, image_sums, text_sums, scale, cotangent):  # [b, E], Sums [tiles, t] this device
        b, n = image.shape[0], lax.axis_size(plan.axes)
        weight = cotangent / (2 * b * n)
        images, texts = plan.blocks(image, text)
        backward = _METHODS[plan.method].backward
        d_image, d_text, d_scale = backward(images, texts, image_sums, text_sums, scale, weight, plan.axes)
        d_image, d_text = (tiles.uncut(x, b).astype(image.dtype) for x in (d_image, d_text))
        return d_image, d_text, lax.psum(d_scale, plan.axes)

    in_specs, out_specs = (_ROWS, _ROWS, _ROWS, _ROWS, _ALL, _ALL), (_ROWS, _ROWS, _ALL)
    return plan.on_mesh(here, in_specs, out_specs)(*kept, cotangents[0])


_loss_and_recall.defvjp(_forward, _backward)
_compiled = jax.jit(_loss_and_recall, static_argnums=3)
