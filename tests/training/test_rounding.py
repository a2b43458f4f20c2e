"""Stochastic rounding: to a neighbour, right in the mean, the same bits everywhere, and no stall."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from clipjax.config import MeshConfig
from clipjax.parallel.mesh import make_mesh
from clipjax.training.rounding import round_stochastically

HALVES = ["bfloat16", "float16"]
KEY = jax.random.key(0)


@partial(jax.jit, static_argnums=1)
def rounded(x, name, key=KEY):
    return round_stochastically(x, name, jax.random.bits(key, x.shape, jnp.uint16))


def every_number(name):
    """All 65,536 numbers of a half-precision dtype, as float32."""
    return np.arange(2**16, dtype=np.uint16).view(jnp.dtype(name)).astype(np.float32)


@pytest.mark.parametrize("name", HALVES)
def test_numbers_of_the_dtype_stay(name):
    numbers = every_number(name)
    numbers = numbers[(np.abs(numbers) > 2.0**-119) | (numbers == 0) | np.isnan(numbers)]
    np.testing.assert_array_equal(rounded(jnp.asarray(numbers), name).astype(jnp.float32), numbers)


@pytest.mark.parametrize("name", HALVES)
def test_a_number_between_two_becomes_one_of_both_and_is_itself_in_the_mean(name):
    numbers = np.unique(every_number(name))
    numbers = numbers[np.isfinite(numbers)]
    rng = np.random.default_rng(0)
    tries = 2**14
    for scale in (1e4, 1.0, 1e-3, 3e-7):  # the last among float16's subnormal numbers
        x = (rng.standard_normal(100) * scale).astype(np.float32)
        found = np.asarray(rounded(jnp.broadcast_to(x, (tries, 100)), name)).astype(np.float64)
        at = np.searchsorted(numbers, x)
        below, above = (numbers[i].astype(np.float64) for i in (at - 1, at))
        assert ((found == below) | (found == above)).all()
        share = (x - below) / (above - below)  # the probability of `above`
        noise = np.sqrt(np.maximum(share * (1 - share), 1e-3) / tries)
        assert (np.abs((found == above).mean(0) - share) < 5 * noise).all()


@pytest.mark.parametrize("name", HALVES)
def test_beyond_the_range_it_is_the_largest_number_and_inf_and_nan_stay(name):
    largest = float(jnp.finfo(name).max)
    x = jnp.asarray([min(largest * 1.01, 3.4e38), -min(largest * 1.01, 3.4e38), jnp.inf, -jnp.inf, jnp.nan])
    found = np.asarray(rounded(x, name)).astype(np.float32)
    np.testing.assert_array_equal(found, [largest, -largest, np.inf, -np.inf, np.nan])


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)])
def test_the_bits_do_not_depend_on_how_an_array_is_divided(name, sizes):
    x = np.random.default_rng(1).standard_normal((16, 8, 32)).astype(np.float32)
    alone = rounded(jnp.asarray(x), name)
    mesh = make_mesh(MeshConfig(*sizes))
    place = jax.sharding.NamedSharding(mesh, PartitionSpec("data", "tensor", "fsdp"))
    divided = jax.jit(rounded, static_argnums=1, out_shardings=place)(jax.device_put(x, place), name)
    assert divided.sharding == place
    np.testing.assert_array_equal(np.asarray(divided).view(np.uint16), np.asarray(alone).view(np.uint16))


@pytest.mark.parametrize("name", HALVES)
def test_small_updates_arrive_where_nearest_rounding_stalls(name):
    gap = float(jnp.finfo(name).eps)  # from 1 to the next number

    def step(weights, key):
        nearest, stochastic = (w.astype(jnp.float32) + gap / 8 for w in weights)
        return (nearest.astype(name), rounded(stochastic, name, key)), None

    start = jnp.ones(4096, name)
    (nearest, stochastic), _ = jax.lax.scan(step, (start, start), jax.random.split(KEY, 64))
    assert (nearest == 1).all()
    mean = stochastic.astype(jnp.float32).mean()
    assert mean == pytest.approx(1 + 8 * gap, abs=0.2 * gap)
