"""ViT-L/14@336px in one run: 32 epochs of 400 million pairs at 224 pixels and the paper's one more at 336 (2.5).

One cosine over all of it; `finetune_336.py` begins that epoch anew, at the rate of Table 20.
"""

from clipjax.config import default_config


def get_config():
    """Give `--config.data.train`, and a mesh that holds it."""
    config = default_config()
    config.model.preset = "ViT-L/14@336px"
    config.stages = [{"share": 32 / 33, "image_size": 224}]
    config.batch_size = 32_768
    config.total_steps = 402_832
    config.precision = "bfloat16"
    config.model.text.weights_dtype = "bfloat16"  # section 2.5, like the moments
    config.remat = "block"
    config.optimizer.learning_rate = 4e-4
    config.optimizer.moments_dtype = "bfloat16"
    return config
