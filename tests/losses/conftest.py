"""Oracles of the loss tests: pairs of unit rows, the dense loss in float64, and meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clipjax.losses import contrastive_loss


@pytest.fixture(scope="session")
def unit_pairs():
    """unit_pairs(n, e) -> image, text [n, e] float32 unit rows, a little more alike in pairs than by chance."""

    def make(n, e=16, seed=0):
        image, text = np.random.default_rng(seed).normal(size=(2, n, e))
        text += 0.5 * image
        return [jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32) for x in (image, text)]

    return make


@pytest.fixture(scope="session")
def dense():
    """dense(image, text, scale) -> (loss, (d_image, d_text, d_scale)): all N x N logits, float64, plain autodiff."""

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    def value_and_gradients(image, text, scale):
        logits = scale * image @ text.T
        own = jnp.diagonal(logits)
        return 0.5 * sum(jnp.mean(jax.nn.logsumexp(logits, axis) - own) for axis in (0, 1))

    def in_float64(*arguments):
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, value_and_gradients(*(np.asarray(x, np.float64) for x in arguments)))

    return in_float64


@pytest.fixture(scope="session")
def mesh_of():
    """mesh_of(data=2, fsdp=2, ...) -> Mesh over the first devices, axes in the order given."""

    def make(**axes):
        count = int(np.prod(list(axes.values())))
        return Mesh(np.asarray(jax.devices()[:count]).reshape(*axes.values()), tuple(axes))

    return make


@pytest.fixture(scope="session")
def assert_close():
    """assert_close(found, expected): equal to 1e-5 of the largest entry, leaf by leaf."""

    def check(found, expected, relative=1e-5):
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(np.asarray(x, np.float64), y, rtol=0, atol=relative * np.max(np.abs(y)))

    return check


@pytest.fixture(scope="session")
def compiled_loss(mesh_of):
    """compiled_loss(method, n, devices=8) -> value and gradient of n pairs [n, 512], compiled without a run."""

    def compile(method, n, devices=8):
        mesh = mesh_of(data=devices // 2, fsdp=2) if devices > 1 else mesh_of(data=1, fsdp=1)
        rows, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec(("data", "fsdp")), PartitionSpec()))
        features = jax.ShapeDtypeStruct((n, 512), jnp.float32, sharding=rows)
        scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
        step = jax.value_and_grad(lambda *x: contrastive_loss(*x, mesh=mesh, method=method), argnums=(0, 1, 2))
        return jax.jit(step).lower(features, features, scale).compile()

    return compile
