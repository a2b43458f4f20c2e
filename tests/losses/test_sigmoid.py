"""The sigmoid loss equals its dense form on any mesh, by any method, in blocks of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.errors import UserError
from clipjax.losses import contrastive_loss_and_recall, sigmoid_loss, sigmoid_loss_and_recall

SCALE, BIAS = 10.0, -10.0  # where SigLIP begins


def value_and_gradients(arguments, **options):
    return jax.jit(jax.value_and_grad(lambda *x: sigmoid_loss(*x, **options), argnums=(0, 1, 2, 3)))(*arguments)


@pytest.fixture(scope="module")
def dense_sigmoid():
    """dense_sigmoid(image, text, scale, bias) -> (loss, gradients), float64, as SigLIP's Algorithm 1 writes it."""

    @jax.jit
    def of_float64(image, text, scale, bias):
        def loss(image, text, scale, bias):
            n = len(image)
            labels = 2 * jnp.eye(n) - jnp.ones((n, n))
            return -jnp.sum(jax.nn.log_sigmoid(labels * (scale * image @ text.T + bias))) / n

        return jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(image, text, scale, bias)

    def in_float64(*arguments):
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, of_float64(*(np.asarray(x, np.float64) for x in arguments)))

    return in_float64


@pytest.mark.parametrize("scale, bias", [(SCALE, BIAS), (100.0, -15.0), (10.0, 2.0)])
@pytest.mark.parametrize("n, block_size", [(1, 1), (31, 4), (32, 8), (31, 1024)])
def test_loss_and_gradients_equal_dense(n, block_size, scale, bias, unit_pairs, dense_sigmoid):
    arguments = (*unit_pairs(n, seed=n), scale, bias)
    found, expected = value_and_gradients(arguments, block_size=block_size), dense_sigmoid(*arguments)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * max(np.max(np.abs(y)), 1e-3))


@pytest.mark.parametrize("method", ["ring", "gather"])
@pytest.mark.parametrize(
    "axes, block_size",
    [
        (dict(data=2, fsdp=1), 1024),
        (dict(fsdp=2, data=2), 26),
        (dict(data=4, fsdp=2), 5),
        (dict(tensor=2, fsdp=4, data=1), 9),
    ],
)
def test_loss_and_gradients_equal_dense_on_any_mesh(
    axes, block_size, method, unit_pairs, dense_sigmoid, mesh_of, assert_close
):
    arguments = (*unit_pairs(104), SCALE, BIAS)  # 8 devices get 13 rows each
    found = value_and_gradients(arguments, mesh=mesh_of(**axes), method=method, block_size=block_size)
    assert_close(found, dense_sigmoid(*arguments))


def test_loss_of_perfect_and_of_opposite_pairs_is_that_of_the_formula():
    image = jnp.eye(4)
    # SigLIP: at scale 10 and bias -10 a pair of cosine 1 has logit 0, all others -10.
    expected = np.log(2) + 3 * np.log1p(np.exp(-10))
    np.testing.assert_allclose(sigmoid_loss(image, image, SCALE, BIAS), expected, rtol=1e-6)
    expected = np.log1p(np.exp(20)) + 3 * np.log1p(np.exp(-10))
    np.testing.assert_allclose(sigmoid_loss(image, -image, SCALE, BIAS), expected, rtol=1e-6)


def test_recall_is_that_of_the_softmax_loss(unit_pairs, mesh_of):
    options = dict(mesh=mesh_of(data=2, fsdp=2), block_size=5)
    _, expected = contrastive_loss_and_recall(*unit_pairs(64), SCALE, **options)
    _, recall = sigmoid_loss_and_recall(*unit_pairs(64), SCALE, BIAS, **options)
    assert 0 < expected < 1 and recall == expected


@pytest.mark.parametrize("method", ["ring", "gather"])
def test_bfloat16_features_get_a_float32_loss_and_bfloat16_gradients(
    method, unit_pairs, dense_sigmoid, mesh_of, assert_close
):
    features = [x.astype(jnp.bfloat16) for x in unit_pairs(64)]
    options = dict(mesh=mesh_of(data=2, fsdp=2), block_size=5, method=method)
    loss, gradients = value_and_gradients((*features, SCALE, BIAS), **options)
    expected, expected_gradients = dense_sigmoid(*(x.astype(jnp.float32) for x in features), SCALE, BIAS)
    assert loss.dtype == jnp.float32 and gradients[0].dtype == gradients[1].dtype == jnp.bfloat16
    assert_close((loss, gradients[2:]), (expected, expected_gradients[2:]))
    assert_close(gradients[:2], expected_gradients[:2], relative=1e-2)


def test_each_cosine_is_computed_once(mesh_of):
    features = jax.ShapeDtypeStruct((64, 16), jnp.float32)
    step = jax.value_and_grad(lambda *x: sigmoid_loss(*x, SCALE, BIAS, mesh=mesh_of(data=4, fsdp=2)), argnums=(0, 1))
    text = jax.jit(step).lower(features, features).as_text()
    assert text.count("dot_general") == 3  # cosines and two gradients


def test_a_bias_that_is_no_scalar_is_one_line_that_names_it(unit_pairs):
    with pytest.raises(UserError, match=r"logit_bias has shape \(2,\)"):
        sigmoid_loss(*unit_pairs(4), SCALE, jnp.ones(2))
