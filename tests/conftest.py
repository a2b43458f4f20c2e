"""What all tests share: eight CPU devices, strict shapes, and no network."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
