"""The gradient of the contrastive loss of one global batch."""

import jax
from flax import nnx

from clipjax.config import Config
from clipjax.data.batch import Batch
from clipjax.images.preprocess import normalize
from clipjax.losses import loss_and_recall
from clipjax.training.freeze import join, set_modes


def make_loss_and_gradient(config: Config, graph, mesh):
    """The function (trained, frozen, batch_stats, batch, step, loss_scale) -> (loss, recall, batch_stats, gradient).

    step: int32 [], which random numbers are drawn for. loss_scale: float32 [], or None for 1: the gradient is that of
    loss * loss_scale. loss and recall: float32 [], not scaled; batch_stats: the running averages after this batch;
    gradient: a tree like `trained`.
    """

    def loss_and_gradient(trained, frozen, batch_stats, batch: Batch, step, loss_scale=None):
        (_, (loss, recall, stats)), gradient = jax.value_and_grad(scaled_loss, has_aux=True)(
            trained, frozen, batch_stats, batch, loss_scale
        )
        return loss, recall, stats, gradient

    def scaled_loss(trained, frozen, batch_stats, batch: Batch, loss_scale):
        model = nnx.merge(graph, join(trained, frozen), batch_stats)
        set_modes(config, model)
        image = config.model.image
        pixels = normalize(batch.images, image.mean, image.std)  # [B, height, width, 3] float32 global
        features = model(pixels, batch.tokens)
        loss, recall = loss_and_recall(features, config.loss, mesh, batch)
        stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return loss if loss_scale is None else loss * loss_scale, (loss, recall, stats)

    return loss_and_gradient
