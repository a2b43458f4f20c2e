"""What training leaves out at random: numbers of a residual branch, patches of a picture.

Every row of the global batch has a random key of its own, and what is drawn depends on that key and on positions alone:
neither the other rows nor how they are divided, among devices or into micro-batches, changes a draw.
"""

import jax
import jax.numpy as jnp


def fold(keys, numbers):
    """Other keys [n], from keys [n] and an int for all rows or int32 [n]."""
    numbers = jnp.broadcast_to(jnp.asarray(numbers, jnp.uint32), keys.shape)
    return jax.vmap(jax.random.fold_in)(keys, numbers)


def drop_numbers(x, keys, share, position=None):
    """x [n, T, W] with each number made zero with probability `share`, the others divided by 1 - share; keys [n].

    With a position (an int, or int32 [n]) x is [n, W], those tokens alone: the same as that row of all of them.
    """
    if position is not None:
        return _drop(x, fold(keys, position), share)
    tokens = jnp.arange(x.shape[1])
    return _drop(x, jax.vmap(lambda token: fold(keys, token), out_axes=1)(tokens), share)  # keys [n, T]


def drop_patches(x, keys, share):
    """`kept_patches` of the patches x [n, P, W] of each row, in their order; keys [n].

    A fixed number, drawn without replacement, so that shapes are known (Li et al. 2023, FLIP).
    """
    count = x.shape[1]
    scores = jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys)  # [n, P]
    kept = jnp.sort(jnp.argsort(scores, axis=1)[:, : kept_patches(count, share)], axis=1)  # [n, kept]
    return jnp.take_along_axis(x, kept[:, :, None], axis=1)


def kept_patches(count: int, share: float) -> int:
    """How many of `count` patches stay when a `share` of them is left out; at least one."""
    return max(1, round(count * (1 - share)))


def _drop(x, keys, share):
    """x [..., W], keys [...]."""

    def draw(key):
        return jax.random.bernoulli(key, 1 - share, x.shape[-1:])

    for _ in range(keys.ndim):
        draw = jax.vmap(draw)
    return jnp.where(draw(keys), x / (1 - share), 0).astype(x.dtype)
