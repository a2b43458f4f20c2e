"""Locked-image tuning (LiT; Zhai et al. 2022): the text tower learns to read a frozen image tower."""

from clipjax.config import default_config


def get_config():
    """Give `--config.init_from` and `--config.data.train`; the preset is the checkpoint's."""
    config = default_config()
    config.init_from = ""  # wanted
    config.freeze = "image"
    config.model.preset = "ViT-B/16"
    config.batch_size = 4096
    config.total_steps = 5000
    config.precision = "bfloat16"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.01
    config.optimizer.warmup_steps = 150  # 3 %
    config.optimizer.clip_norm = 1.0
    return config
