"""Random keys of a training step: derived from the seed, what they are for, and the step; none is carried along."""

import zlib

import jax


def step_key(seed: int, purpose: str, step):
    """The key of a named purpose at a step (int32 []): the same whatever was drawn before, for any mesh."""
    key = jax.random.key(seed, impl="threefry2x32")  # of all kinds the one that vmap and sharding do not change
    return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(purpose.encode())), step)
