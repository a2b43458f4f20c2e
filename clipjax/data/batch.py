"""What a training step is fed: the Batch, and its shapes without opening any data."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from clipjax.config import Config


class Batch(NamedTuple):
    """Pairs in matching rows, global or one host's: images [B, height, width, 3] uint8, tokens [B, L] int32.

    image_keys [B] int32: equal where the picture's file is, of which the rows may show other crops; only there where
    the config masks duplicates.
    """

    images: jax.Array
    tokens: jax.Array
    image_keys: jax.Array | None = None


def batch_spec(config: Config, text_length: int | None = None) -> Batch:
    """Shapes and dtypes of the global batch, as jax.ShapeDtypeStruct; texts whole or cut to a length."""
    size, length = config.model.image.image_size, text_length or config.model.text.context_length
    images = jax.ShapeDtypeStruct((config.batch_size, size, size, 3), jnp.uint8)
    keys = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32) if config.loss.mask_duplicates else None
    return Batch(images, jax.ShapeDtypeStruct((config.batch_size, length), jnp.int32), keys)
