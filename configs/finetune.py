"""Fine-tuning on little data: a low rate that falls layer by layer, frozen BatchNorms, scores before and after."""

from clipjax.config import default_config


def get_config():
    """Give `--config.init_from`, `--config.data.train` and `--config.data.evaluate`; the preset is the checkpoint's."""
    config = default_config()
    config.init_from = ""  # wanted
    config.model.preset = "ViT-B/32"
    config.freeze_batch_norm = True  # batches of a small set say little of the pictures that the model knows
    config.data.evaluate = "data/zeroshot"  # what the model could do before, and should still do after

    config.batch_size = 256
    config.total_steps = 1000
    config.optimizer.learning_rate = 1e-5
    config.optimizer.layer_decay = 0.75
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 1.0
    config.evaluate_every = 250
    config.checkpoint_every = 250
    return config
