"""Layers against float64 numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.models import layers
from clipjax.models.layers import ACTIVATIONS, MLP, LayerNorm, Linear, add_rows, normal, uniform, unit
from clipjax.parallel.mesh import traced_on


def test_layer_norm_keeps_its_digits_where_the_mean_dwarfs_the_deviation():
    x = np.asarray(100 + 0.01 * np.random.RandomState(0).randn(64, 512), np.float32)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(LayerNorm(512)(jnp.asarray(x)), expected, atol=2e-3)


def test_layer_norm_applies_gain_and_bias_in_float32_and_returns_its_dtype():
    norm = LayerNorm(8, dtype=jnp.bfloat16)
    norm.scale[...], norm.bias[...] = jnp.full(8, 1.001), jnp.full(8, 256.5)  # neither is a bfloat16 number
    y = norm(jnp.zeros((2, 8), jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, jnp.full((2, 8), 256.5, jnp.bfloat16))
    x = jnp.asarray(np.random.RandomState(0).randn(2, 8), jnp.float32)
    norm.dtype = jnp.float32
    expected = 1.001 * (x - x.mean(1)[:, None]) / np.sqrt(x.var(1)[:, None] + 1e-5) + 256.5
    np.testing.assert_allclose(norm(x), expected, rtol=1e-6)


def test_activations_are_the_exact_forms():
    x = np.linspace(-6, 6, 101)
    erf = np.vectorize(math.erf)
    np.testing.assert_allclose(
        ACTIVATIONS["quick_gelu"](jnp.asarray(x, jnp.float32)), x / (1 + np.exp(-1.702 * x)), atol=1e-6
    )
    np.testing.assert_allclose(
        ACTIVATIONS["gelu"](jnp.asarray(x, jnp.float32)), x / 2 * (1 + erf(x / 2**0.5)), atol=1e-6
    )


@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)])
def test_linear_multiplies_the_last_axis_whatever_the_rank(drawn, shape):
    linear = drawn(lambda: Linear(5, (3, 4), kernel_init=normal(1.0), bias_init=uniform(1.0)))
    x = jnp.asarray(np.random.RandomState(0).randn(*shape), jnp.float32)
    kernel, bias = np.asarray(linear.kernel[...]), np.asarray(linear.bias[...])
    expected = np.einsum("...i,ijk->...jk", x, kernel) + bias
    np.testing.assert_allclose(linear(x), expected, rtol=1e-5, atol=1e-5)


def test_parameters_stay_float32_under_bfloat16_compute():
    mlp = MLP(8, activation="gelu", fc_init=normal(1.0), proj_init=normal(1.0), dtype=jnp.bfloat16)
    assert mlp(jnp.ones((2, 8), jnp.bfloat16)).dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(mlp))} == {jnp.dtype("float32")}


def test_out_dtype_keeps_the_digits_that_bfloat16_would_round_off():
    linear = Linear(2, 1, kernel_init=normal(1.0), dtype=jnp.bfloat16, out_dtype=jnp.float32)
    linear.kernel[...] = jnp.ones((2, 1))
    np.testing.assert_array_equal(linear(jnp.asarray([[1.0, 2.0**-12]])), [[1 + 2.0**-12]])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_gradient_of_a_row_that_is_added_to_many_is_summed_in_float32(dtype):
    x = jnp.zeros((2**9, 2**7, 2), dtype)
    gradient = jax.jit(jax.grad(lambda row, x: add_rows(x, row).astype(jnp.float32).sum()))(jnp.ones(2), x)
    np.testing.assert_array_equal(gradient, [2.0**16, 2.0**16])  # float16 ends at 65,504, bfloat16 stalls at 256
    assert (add_rows(x, jnp.ones(2)) == 1).all() and add_rows(x, jnp.ones(2)).dtype == dtype


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_the_gradient_of_positions_is_the_sum_over_the_batch_in_float32(monkeypatch, platform):
    monkeypatch.setattr(layers, "traced_platform", lambda: platform)
    weights = np.random.default_rng(0).normal(size=(300, 5, 4)).astype(np.float32)
    asked = jax.grad(lambda rows, x: (add_rows(x, rows) * weights).sum())(jnp.zeros((5, 4)), jnp.zeros((300, 5, 4)))
    np.testing.assert_allclose(asked, weights.astype(np.float64).sum(0), rtol=1e-5, atol=1e-5)
    half = jax.grad(lambda rows, x: add_rows(x, rows).astype(jnp.float32).sum())
    np.testing.assert_array_equal(half(jnp.ones((5, 4)), jnp.zeros((2**9, 5, 4), jnp.bfloat16)), np.full((5, 4), 2**9))


def test_unit_rows_have_length_one_and_a_zero_row_stays_zero():
    rows = unit(jnp.asarray([[3.0, 4.0], [0.0, 0.0], [1e-6, 0.0]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0], [1, 0]], atol=1e-6)
    assert np.isfinite(jax.grad(lambda x: unit(x).sum())(jnp.zeros((1, 2)))).all()


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_an_mlp_that_is_written_out_keeps_two_hidden_arrays_on_a_cpu(activation):
    """What the first map gave and what the second takes; what lies between is computed again for the gradient."""
    mlp = MLP(32, activation=activation, fc_init=normal(0.2), proj_init=normal(0.2))
    graph, weights = nnx.split(mlp)
    x = jax.ShapeDtypeStruct((4096, 32), jnp.float32)

    def hidden(count):
        def loss(layers, x):
            with traced_on(jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])):
                for layer in layers:
                    x = nnx.merge(graph, layer)(x)
                return x.sum()

        compiled = jax.jit(jax.grad(loss)).lower([weights] * count, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (4 * x.size * 4)

    assert (hidden(12) - hidden(4)) / 8 < 2.5
