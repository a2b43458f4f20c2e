"""The gradient of the contrastive loss of one global batch: at once, or by micro-batches with the same result.

Micro-batches go through cached features (Gao et al. 2021, GradCache): all are encoded without keeping activations, the
loss of all features gives the gradient of each, and each micro-batch is encoded again for its share of the gradient.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from clipjax.config import Config
from clipjax.data.batch import Batch
from clipjax.images.preprocess import normalize
from clipjax.losses import loss_and_recall
from clipjax.models.clip import Features
from clipjax.models.dropping import fold
from clipjax.parallel.mesh import ROWS, row_sharding
from clipjax.parallel.sharding import shardings
from clipjax.training.freeze import join, set_modes
from clipjax.training.keys import step_key


def make_loss_and_gradient(config: Config, graph, mesh):
    """The function (trained, frozen, batch_stats, batch, step, loss_scale) -> (loss, recall, batch_stats, gradient).

    step: int32 [], which random numbers are drawn for. loss_scale: float32 [], or None for 1: the gradient is that of
    loss * loss_scale. loss and recall: float32 [], not scaled; batch_stats: the running averages after this batch;
    gradient: a tree like `trained`, float32 where it is summed over micro-batches.

    Micro-batch j of k has the rows j, j + k, j + 2k, … of the batch, whatever the mesh. What is left out at random
    depends on the row alone, so it is the same in one batch, in any micro-batches and both times that they are encoded.
    BatchNorms take the statistics of each micro-batch, and move their running averages once for each, in order.
    """
    compare, parts = _comparison(config, mesh), config.batch_size // (config.micro_batch_size or config.batch_size)
    return _at_once(config, graph, compare) if parts == 1 else _by_parts(config, graph, compare, mesh, parts)


def _comparison(config, mesh):
    """The function (features of the global batch, that batch, loss_scale) -> (scaled loss, (loss, recall))."""

    def compare(features: Features, batch: Batch, loss_scale):
        loss, recall = loss_and_recall(features, config.loss, mesh, batch)
        return loss if loss_scale is None else loss * loss_scale, (loss, recall)

    return compare


def _at_once(config, graph, compare):
    def loss_and_gradient(trained, frozen, batch_stats, batch: Batch, step, loss_scale=None):
        def scaled_loss(trained):
            model = _model(config, graph, join(trained, frozen), batch_stats)
            outputs, stats = _encode(config, model, batch, _row_keys(config, step))
            scaled, result = compare(model.features(**outputs), batch, loss_scale)
            return scaled, (result, stats)

        (_, ((loss, recall), stats)), gradient = jax.value_and_grad(scaled_loss, has_aux=True)(trained)
        return loss, recall, stats, gradient

    return loss_and_gradient


def _by_parts(config, graph, compare, mesh, parts):
    learning = [tower for tower in ("image", "text") if tower != config.freeze]

    def loss_and_gradient(trained, frozen, batch_stats, batch: Batch, step, loss_scale=None):
        rows = _cut((batch, _row_keys(config, step)), parts, mesh)

        def encode(trained, batch_stats, part, towers=("image", "text")):
            model = _model(config, graph, join(trained, frozen), batch_stats)
            return _encode(config, model, *_part(rows, part, mesh), towers)

        def first(batch_stats, part):
            outputs, batch_stats = encode(trained, batch_stats, part)
            return batch_stats, outputs

        def head(trained, outputs):
            model = _model(config, graph, join(trained, frozen), batch_stats)
            return compare(model.features(**outputs), batch, loss_scale)

        def second(total, part):
            _, pull, _ = jax.vjp(lambda trained: encode(trained, batch_stats, part, learning), trained, has_aux=True)
            (gradient,) = pull({tower: _part(cotangents[tower], part, mesh) for tower in learning})
            return _placed(jax.tree.map(lambda sum, term: sum + term.astype(sum.dtype), total, gradient), mesh), None

        stats, outputs = jax.lax.scan(first, batch_stats, jnp.arange(parts))
        outputs = {tower: _joined(output, mesh) for tower, output in outputs.items()}  # [B, E]
        # Here the logit scale gets its gradient, all at once; that of the towers is zero, where the sum begins.
        (_, (loss, recall)), (total, cotangents) = jax.value_and_grad(head, (0, 1), has_aux=True)(trained, outputs)
        cotangents = _cut(cotangents, parts, mesh)
        total = _placed(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), total), mesh)
        gradient, _ = jax.lax.scan(second, total, jnp.arange(parts))
        return loss, recall, stats, gradient

    return loss_and_gradient


def _model(config, graph, params, batch_stats):
    model = nnx.merge(graph, params, batch_stats)
    set_modes(config, model)
    return model


def _encode(config, model, batch: Batch, keys, towers=("image", "text")):
    """({tower: [n, E] float32, not normalised}, running averages after that) of rows and their keys, None or [n]."""
    outputs = {}
    # A frozen tower keeps its numbers: it is not told to leave any out.
    drawn = {tower: None if config.freeze == tower else keys for tower in towers}
    if "image" in towers:
        image = config.model.image
        pixels = normalize(batch.images, image.mean, image.std)  # [n, height, width, 3] float32
        outputs["image"] = model.encode_image(pixels, drawn["image"])
    if "text" in towers:
        outputs["text"] = model.encode_text(batch.tokens, drawn["text"])
    return outputs, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def _row_keys(config, step):
    """A random key for each row of the global batch [B], or None where nothing is left out."""
    if not config.dropout and not config.patch_dropout:
        return None
    keys = jnp.broadcast_to(step_key(config.seed, "dropping", step), config.batch_size)
    return fold(keys, jnp.arange(config.batch_size))


def _cut(tree, parts, mesh):
    """Arrays [B, ...] as [B / k, k, ...]: each device keeps its rows, and has as many of each of the k parts."""
    return _rows_over(mesh, jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]), tree))


def _part(tree, part, mesh):
    """The rows [B / k, ...] of one part of what `_cut` returned."""
    return _rows_over(mesh, jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, part, 1, keepdims=False), tree))


def _joined(output, mesh):
    """The inverse of `_cut` for an output [k, B / k, E] that a scan stacked: [B, E]."""
    output = jax.lax.with_sharding_constraint(output, NamedSharding(mesh, PartitionSpec(None, ROWS)))
    return _rows_over(mesh, output.swapaxes(0, 1).reshape(-1, output.shape[-1]))


def _rows_over(mesh, tree):
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, row_sharding(mesh)), tree)


def _placed(gradient, mesh):
    """The gradient laid out as its parameters are, so that the sum over micro-batches is no larger than they."""
    return jax.lax.with_sharding_constraint(gradient, shardings(gradient, mesh))
