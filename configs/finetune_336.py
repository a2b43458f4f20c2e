"""ViT-L/14@336px as the paper made it: ViT-L/14 for one more epoch at 336 pixels (section 2.5; rate of Table 20)."""

from clipjax.config import default_config


def get_config():
    """Give `--config.init_from` (a ViT-L/14), `--config.data.train`, and a mesh that holds it."""
    config = default_config()
    config.init_from = ""  # wanted
    config.model.preset = "ViT-L/14@336px"
    config.batch_size = 32_768
    config.total_steps = 12_207  # once through 400 million pairs
    config.precision = "bfloat16"
    config.model.text.weights_dtype = "bfloat16"  # section 2.5, like the moments
    config.remat = "block"
    config.optimizer.learning_rate = 2e-5
    config.optimizer.moments_dtype = "bfloat16"
    return config
