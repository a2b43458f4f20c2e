"""The loss and its gradient: of the global batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.bundle import abstract_module
from clipjax.config import MeshConfig, resolve
from clipjax.data.batch import Batch
from clipjax.models.initialise import draw
from clipjax.parallel.mesh import make_mesh
from clipjax.training.accumulation import make_loss_and_gradient
from clipjax.training.freeze import split
from clipjax.trees import flatten, unflatten


@pytest.fixture
def config(tiny):
    return resolve(tiny)


def batch_of(config, seed=0):
    rng = np.random.default_rng(seed)
    size, length = config.model.image.image_size, config.model.text.context_length
    images = rng.integers(0, 256, (config.batch_size, size, size, 3), dtype=np.uint8)
    tokens = rng.integers(1, 400, (config.batch_size, length)).astype(np.int32)
    tokens[np.arange(config.batch_size), rng.integers(3, length, config.batch_size)] = 49407
    return Batch(images, tokens)


def weights_of(config):
    """(trained, frozen, running averages) of a fresh model."""
    params, stats = (unflatten(draw(half, config.seed)) for half in abstract_module(config)[1:])
    return *split(config, params), stats


def test_the_gradient_is_that_of_the_scaled_loss_and_the_loss_is_not_scaled(config):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    function = jax.jit(make_loss_and_gradient(config, abstract_module(config)[0], mesh))
    loss, recall, _, gradient = function(*weights_of(config), batch_of(config), jnp.int32(0), None)
    found_loss, found_recall, _, found = function(*weights_of(config), batch_of(config), jnp.int32(0), jnp.float32(512))
    assert (float(found_loss), float(found_recall)) == (float(loss), float(recall))
    for path, leaf in flatten(gradient).items():
        np.testing.assert_allclose(flatten(found)[path], 512 * leaf, rtol=1e-5, atol=1e-4, err_msg=path)
        assert np.abs(leaf).max() > 0, path
