"""The demo: a small CLIP on drawn shapes, about three minutes on two CPU cores."""

from clipjax.config import default_config


def get_config():
    """Train on `clipjax prepare demo --out=runs/demo/data`, run from the root of the checkout."""
    config = default_config()
    config.data.train = "runs/demo/data/train/*.tar"
    config.data.evaluate = "runs/demo/data/zeroshot"
    config.data.augmentation = "center_crop"  # the pictures have the model's size

    config.model.preset = "tiny"
    config.model.embed_dim = 64
    config.model.image.update({"image_size": 32, "patch_size": 8, "width": 96, "layers": 2, "heads": 3})
    config.model.text.update({"context_length": 20, "width": 64, "layers": 1, "heads": 2})

    config.batch_size = 128
    config.total_steps = 900
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 1.0
    config.checkpoint_every = 450
    config.evaluate_every = 450
    return config
