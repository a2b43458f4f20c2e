"""ViT-B/32 as the paper trained it: batch 32,768, 32 epochs of 400 million pairs (Tables 18 and 20)."""

from clipjax.config import default_config


def get_config():
    """Give `--config.data.train`, and a mesh that holds it."""
    config = default_config()
    config.model.preset = "ViT-B/32"
    config.batch_size = 32_768
    config.total_steps = 390_625
    config.precision = "bfloat16"
    config.model.text.weights_dtype = "bfloat16"  # section 2.5, like the moments
    config.remat = "block"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.moments_dtype = "bfloat16"
    return config
