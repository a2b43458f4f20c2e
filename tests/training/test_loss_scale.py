"""The loss scale: halves on overflow, doubles after 2,000 good steps, and costs nothing where it is not needed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.training.dynamic_scale import DynamicScale

from clipjax.config import Config
from clipjax.training.loss_scale import LossScale, adjust, first_loss_scale, is_overflow

HALF = dataclasses.replace(Config(), precision="float16")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_other_precisions_have_none(precision):
    scale = first_loss_scale(dataclasses.replace(Config(), precision=precision))
    assert scale is None and not is_overflow(scale, jnp.bool(False))


def test_it_moves_as_flax_s_does():
    good = np.ones(9000, bool)
    good[[0, 1, 2, 2001, 2002, 3100, 8500]] = False
    theirs = DynamicScale(growth_interval=1999, scale=jnp.float32(2**16))  # the good steps before the one that doubles

    def step(scales, good):
        ours, theirs = scales
        gradient_of = theirs.value_and_grad(lambda x: x * jnp.where(good, 1.0, jnp.nan))
        return (adjust(ours, good), gradient_of(jnp.float32(1))[0]), (ours.scale, theirs.scale)

    _, (ours, theirs) = jax.lax.scan(step, (first_loss_scale(HALF), theirs.replace(fin_steps=jnp.int32(0))), good)
    np.testing.assert_array_equal(ours, theirs)
    assert ours[0] == 2**16 and ours[3] == 2**13 and ours.max() > 2**13


def test_it_has_a_floor_below_which_nothing_is_an_overflow_and_a_ceiling():
    least = LossScale(jnp.float32(1), jnp.int32(5))
    assert adjust(least, jnp.bool(False)) == (1, 0)
    assert not is_overflow(least, jnp.bool(False))
    assert is_overflow(LossScale(jnp.float32(2), jnp.int32(5)), jnp.bool(False))
    assert not is_overflow(LossScale(jnp.float32(2), jnp.int32(5)), jnp.bool(True))
    assert adjust(LossScale(jnp.float32(2.0**24), jnp.int32(1999)), jnp.bool(True)) == (2.0**24, 0)
