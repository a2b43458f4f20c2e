"""The gradient of the contrastive loss of one global batch."""

import jax
from flax import nnx

from clipjax.config import Config
from clipjax.data.batch import Batch
from clipjax.images.preprocess import normalize
from clipjax.losses import contrastive_loss_and_recall
from clipjax.training.freeze import join, set_modes


def make_loss_and_gradient(config: Config, graph, mesh):
    """The function (trained, frozen, batch_stats, batch) -> (loss, recall, batch_stats, gradient) of a config.

    loss and recall: float32 []; batch_stats: the running averages after this batch; gradient: a tree like `trained`.
    """

    def loss_and_gradient(trained, frozen, batch_stats, batch: Batch):
        (loss, (recall, stats)), gradient = jax.value_and_grad(loss_of, has_aux=True)(
            trained, frozen, batch_stats, batch
        )
        return loss, recall, stats, gradient

    def loss_of(trained, frozen, batch_stats, batch: Batch):
        model = nnx.merge(graph, join(trained, frozen), batch_stats)
        set_modes(config, model)
        image = config.model.image
        pixels = normalize(batch.images, image.mean, image.std)  # [B, height, width, 3] float32 global
        features = model(pixels, batch.tokens)
        loss, recall = contrastive_loss_and_recall(
            features.image,
            features.text,
            features.logit_scale,
            mesh=mesh,
            block_size=config.loss.block_size,
            method=config.loss.method,
        )
        stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return loss, (recall, stats)

    return loss_and_gradient
