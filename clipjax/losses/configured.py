"""The loss that a config asks for."""

from clipjax.config import LossConfig
from clipjax.losses.contrastive import contrastive_loss_and_recall
from clipjax.losses.duplicates import row_keys
from clipjax.losses.sigmoid import sigmoid_loss_and_recall


def loss_and_recall(features, config: LossConfig, mesh, batch):
    """(loss, recall@1) of the Features of a global batch, both float32 [].

    batch: the Batch that they come from, which is looked at only to leave duplicates out of the negatives.
    """
    options = dict(mesh=mesh, block_size=config.block_size, method=config.method)
    if config.mask_duplicates:
        options["keys"] = row_keys(batch)
    towers = features.image, features.text, features.logit_scale
    if config.kind == "sigmoid":
        return sigmoid_loss_and_recall(*towers, features.logit_bias, **options)
    return contrastive_loss_and_recall(*towers, **options)
