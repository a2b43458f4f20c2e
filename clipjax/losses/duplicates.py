"""Numbers that tell which rows of a batch show the same picture or say the same, so that they are no negatives."""

import jax.numpy as jnp
from jax import Array, lax

# Murmur3's finaliser and two odd constants of its kind: every bit of a token and its place moves every bit of the sum.
_TOKEN, _PLACE, _MIX = 0x9E3779B1, 0x7FEB352D, (0x85EBCA6B, 0xC2B2AE35)


def row_keys(batch) -> tuple[Array, ...]:
    """Arrays int32 [B]: rows that are equal in one of them are duplicates.

    Of captions by their tokens; of pictures, whose crops differ, by the number that the loader makes of the file.
    """
    return caption_keys(batch.tokens), batch.image_keys


def caption_keys(tokens):
    """int32 [B] of tokens [B, L]: equal for equal captions, whatever length they are padded to.

    Others agree in one of 2^32 cases: among 32,768 rows one pair in eight batches, which then is a negative less.
    """
    x = tokens.astype(jnp.uint32)
    x = x * jnp.uint32(_TOKEN) + jnp.arange(1, x.shape[1] + 1, dtype=jnp.uint32)[None, :] * jnp.uint32(_PLACE)
    for factor, shift in zip(_MIX, (16, 13), strict=True):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    x = jnp.where(tokens == 0, jnp.uint32(0), x ^ (x >> 16))  # 0 pads
    return lax.bitcast_convert_type(x.sum(axis=1, dtype=jnp.uint32), jnp.int32)
