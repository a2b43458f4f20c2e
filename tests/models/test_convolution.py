"""Convolution, batch normalisation and pooling against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.models.convolution import BatchNorm, Convolution, average_pool, convolve_3x3

RNG = np.random.default_rng(0)


def convolved(x, kernel, stride):
    """The definition: every pixel of the result is a sum over nine pixels, those outside being zero."""
    n, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.zeros((n, height // stride, width // stride, kernel.shape[-1]))
    for row in range(3):
        for column in range(3):
            part = padded[:, row : row + height : stride, column : column + width : stride]
            y += part @ kernel[row, column]
    return y


@pytest.mark.parametrize(("stride", "outputs"), [(1, 5), (2, 5)])
def test_3x3_is_the_sum_over_nine_pixels_with_zeros_around(stride, outputs):
    x, kernel = RNG.standard_normal((2, 6, 4, 3)), RNG.standard_normal((3, 3, 3, outputs))
    layer = Convolution(3, outputs, size=3, stride=stride, dtype=jnp.float32)
    layer.kernel[...] = jnp.asarray(kernel, jnp.float32)
    np.testing.assert_allclose(layer(jnp.asarray(x, jnp.float32)), convolved(x, kernel, stride), rtol=1e-4, atol=1e-5)


def test_1x1_is_a_matrix_product_of_the_pixels():
    x = jnp.asarray(RNG.standard_normal((2, 6, 4, 3)), jnp.float32)
    layer = Convolution(3, 5, size=1, dtype=jnp.float32)
    layer.kernel[...] = jnp.asarray(RNG.standard_normal((3, 5)), jnp.float32)
    np.testing.assert_allclose(layer(x), np.asarray(x) @ np.asarray(layer.kernel[...]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 5, 4, 2, 6), (2, 1, 1, 4, 3), (1, 2, 7, 1, 1)])
def test_gradients_of_3x3_are_those_of_the_plain_convolution(shape):
    n, height, width, inputs, outputs = shape
    x = jnp.asarray(RNG.standard_normal((n, height, width, inputs)), jnp.float32)
    kernel = jnp.asarray(RNG.standard_normal((3, 3, inputs, outputs)), jnp.float32)
    dy = jnp.asarray(RNG.standard_normal((n, height, width, outputs)), jnp.float32)

    def plain(x, kernel):
        options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), **options)

    wanted = jax.vjp(plain, x, kernel)[1](dy)
    for one, other in zip(jax.vjp(convolve_3x3, x, kernel)[1](dy), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_a_chain_of_3x3_keeps_a_map_for_each():
    """And not, from the forward pass on, the three copies of it that the gradient of a kernel multiplies."""
    x, kernel = jax.ShapeDtypeStruct((8, 16, 16, 32), jnp.float32), jax.ShapeDtypeStruct((3, 3, 32, 32), jnp.float32)

    def maps(count):
        def loss(kernels, x):
            for kernel in kernels:
                x = jax.nn.relu(convolve_3x3(x, kernel))
            return x.sum()

        compiled = jax.jit(jax.grad(loss)).lower([kernel] * count, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (x.size * 4)

    assert maps(12) - maps(4) < 8 * 2  # with the copies, 8 * 4


@pytest.fixture
def norm():
    layer = BatchNorm(3, dtype=jnp.float32)
    layer.scale[...], layer.bias[...] = jnp.asarray([1.0, 2.0, 0.5]), jnp.asarray([0.0, 1.0, -1.0])
    layer.mean[...], layer.var[...] = jnp.asarray([5.0, 0.0, 1.0]), jnp.asarray([1.0, 4.0, 9.0])
    return layer


def test_training_normalises_by_the_batch_and_moves_the_averages_a_tenth(norm):
    x = RNG.standard_normal((2, 3, 4, 3)) * [1, 10, 0.1] + [0, 5, -2]
    rows = x.reshape(-1, 3)
    y = norm(jnp.asarray(x, jnp.float32))
    wanted = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) * [1, 2, 0.5] + [0, 1, -1]
    np.testing.assert_allclose(np.reshape(y, (-1, 3)), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.9 * np.asarray([5, 0, 1]) + 0.1 * rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 * np.asarray([1, 4, 9]) + 0.1 * rows.var(0, ddof=1), rtol=1e-5)


def test_evaluation_normalises_by_the_averages_and_leaves_them(norm):
    x = RNG.standard_normal((2, 3, 4, 3))
    norm.eval()
    wanted = (x - [5, 0, 1]) / np.sqrt(np.asarray([1, 4, 9]) + 1e-5) * [1, 2, 0.5] + [0, 1, -1]
    np.testing.assert_allclose(norm(jnp.asarray(x, jnp.float32)), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(norm.mean[...], [5, 0, 1])
    np.testing.assert_array_equal(norm.var[...], [1, 4, 9])


def test_the_variance_keeps_its_digits_far_from_zero():
    layer = BatchNorm(1, dtype=jnp.float32)
    x = np.float32(100) + np.float32(0.01) * RNG.standard_normal((8, 4, 4, 1)).astype(np.float32)
    exact = x.astype(np.float64)
    wanted = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5)
    np.testing.assert_allclose(layer(jnp.asarray(x)), wanted, atol=2e-3)


def test_bfloat16_maps_have_float32_statistics():
    layer = BatchNorm(2, dtype=jnp.bfloat16)
    x = jnp.asarray(RNG.standard_normal((64, 8, 8, 2)) + 3, jnp.bfloat16)
    assert layer(x).dtype == jnp.bfloat16
    assert layer.mean[...].dtype == layer.var[...].dtype == jnp.float32
    rows = np.asarray(x, np.float64).reshape(-1, 2)
    np.testing.assert_allclose(layer.mean[...], 0.1 * rows.mean(0), rtol=1e-5)


def test_one_value_a_channel_has_no_spread_and_no_division_by_zero():
    layer = BatchNorm(2, dtype=jnp.float32)
    layer.var[...] = jnp.ones(2)
    np.testing.assert_array_equal(layer(jnp.ones((1, 1, 1, 2))), 0)
    np.testing.assert_allclose(layer.var[...], 0.9, rtol=1e-6)


def test_average_pool_takes_means_of_2x2():
    x = RNG.standard_normal((2, 4, 6, 3))
    wanted = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(average_pool(jnp.asarray(x, jnp.float32)), wanted, rtol=1e-5, atol=1e-6)
