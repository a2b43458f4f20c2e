"""Flickr8k from scratch on two CPU cores: a small model, strong crops, about 60 epochs."""

from clipjax.config import default_config


def get_config():
    """Give `--config.data.train='D/train/*.tar'`."""
    config = default_config()
    config.data.augmentation = "random_resized_crop"
    config.data.crop_scale = (0.3, 1.0)
    config.data.horizontal_flip = True

    config.model.preset = "tiny"
    config.model.embed_dim = 128
    config.model.image.update({"image_size": 64, "patch_size": 16, "width": 192, "layers": 4, "heads": 3})
    config.model.text.update({"context_length": 20, "width": 128, "layers": 2, "heads": 2})  # 2 % of captions are cut

    config.batch_size = 256
    config.total_steps = 1500
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 100
    config.checkpoint_every = 250
    return config
