"""What a training step is fed: the Batch, and its shapes without opening any data."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from clipjax.config import Config


class Batch(NamedTuple):
    """Pairs in matching rows, global or one host's: images [B, height, width, 3] uint8, tokens [B, L] int32."""

    images: jax.Array
    tokens: jax.Array


def batch_spec(config: Config, text_length: int | None = None) -> Batch:
    """Shapes and dtypes of the global batch, as jax.ShapeDtypeStruct; texts whole or cut to a length."""
    size, length = config.model.image.image_size, text_length or config.model.text.context_length
    images = jax.ShapeDtypeStruct((config.batch_size, size, size, 3), jnp.uint8)
    return Batch(images, jax.ShapeDtypeStruct((config.batch_size, length), jnp.int32))
