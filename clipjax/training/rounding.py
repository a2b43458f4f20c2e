"""Stochastic rounding: up or down at random, so that what nearest rounding would lose is kept in the mean.

An update below half the distance to the next number of the dtype leaves a weight or a moment where it is, each time,
if it is rounded to the nearest. Rounded up with the probability of its share of that distance, it arrives in the mean.
"""

import jax
import jax.numpy as jnp


def round_stochastically(x, dtype, bits):
    """x float32 as `dtype` (bfloat16 or float16), rounded up or down by random `bits`, uint16 of the shape of x.

    The mean is x. Numbers that the dtype has stay as they are, but those of bfloat16 under 2^-119 become multiples of
    2^-126. Beyond the largest number x becomes that; inf and NaN stay. Every operation is exact, so that the same bits
    give the same result on any mesh and device.
    """
    info = jnp.finfo(dtype)
    spare = jnp.finfo(jnp.float32).nmant - info.nmant  # bits that are rounded away
    # Distance to the next number of the dtype; never below float32's smallest normal number, which devices flush.
    exponent = jnp.frexp(x)[1] - 1
    exponent = jnp.maximum(exponent - info.nmant, max(info.minexp - info.nmant, -126))
    gap, inverse = _power_of_two(exponent), _power_of_two(-exponent)
    # As many random bits as are rounded away: x / gap + chance then has 24 bits and the sum is exact.
    chance = (bits >> (16 - spare)).astype(jnp.float32) * 2.0**-spare
    size = jnp.minimum(jnp.floor(jnp.abs(x) * inverse + chance) * gap, float(info.max))
    return jnp.where(jnp.isfinite(x), jnp.copysign(size, x), x).astype(dtype)


def _power_of_two(exponent):
    """2^exponent for int32 in [-126, 127], float32, from its bits."""
    return jax.lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)
