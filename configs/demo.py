"""The demo: a small CLIP on drawn shapes, a few minutes on two CPU cores."""

from clipjax.config import default_config


def get_config():
    """Train on `clipjax prepare demo --out=runs/demo/data`."""
    config = default_config()
    config.data.train = "runs/demo/data/train/*.tar"
    config.data.evaluate = "runs/demo/data/zeroshot"
    config.model.preset = "tiny"
    config.model.image.image_size = 48
    config.model.text.context_length = 24
    config.batch_size = 128
    config.total_steps = 300
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 50
    config.checkpoint_every = 100
    config.evaluate_every = 150
    return config
