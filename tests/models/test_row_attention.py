"""Attention by rows of the batch equals the products, whatever the rows at a time, the odd tokens and the mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.config import MeshConfig
from clipjax.models import attention, row_attention
from clipjax.models.attention import attend
from clipjax.models.layers import uniform
from clipjax.models.row_attention import attend_by_rows, by_lanes
from clipjax.models.transformer import Attention, BlockInit
from clipjax.parallel.mesh import make_mesh, traced_on


def value_and_gradients(function, *arrays):
    def waves(*arrays):
        return jnp.sin(3 * function(*arrays)).sum()

    return jax.jit(jax.value_and_grad(waves, argnums=tuple(range(len(arrays)))))(*arrays)


def products(q, k, v):
    """The same of [n, K, D, T] by `attend`."""
    n, heads, size, tokens = q.shape
    mixed = attend(*(x.transpose(0, 3, 1, 2) for x in (q, k, v)), None)  # [n, T, K D]
    return mixed.reshape(n, tokens, heads, size).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("mesh", [None, MeshConfig(2, 2, 2)])
@pytest.mark.parametrize(("tokens", "kilobytes"), [(128, 10**4), (129, 10**3), (133, 1), (140, 700)])
def test_rows_equal_products(monkeypatch, tokens, kilobytes, mesh):
    """129 and 133 tokens have 1 and 5 odd ones; a row has some 300 kB of scores."""
    monkeypatch.setattr(row_attention, "_SCORE_BYTES", kilobytes * 1000)
    rng = np.random.default_rng(tokens)
    arrays = [jnp.asarray(rng.normal(size=(8, 4, 16, tokens)), jnp.float32) for _ in range(3)]

    def function(*arrays):
        if mesh is None:
            return attend_by_rows(*map(by_lanes, arrays))
        with traced_on(make_mesh(mesh)):
            return attend_by_rows(*arrays)

    if mesh is not None:
        arrays = jax.device_put(arrays, jax.NamedSharding(make_mesh(mesh), jax.P(("data", "fsdp"), "tensor")))
    value, gradients = value_and_gradients(products, *arrays)
    found, others = value_and_gradients(function, *arrays)
    np.testing.assert_allclose(found, value, rtol=1e-4)
    for one, other in zip(gradients, others, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def test_the_module_gives_the_same_by_rows(monkeypatch, drawn):
    init = BlockInit(*[uniform(0.3)] * 4)
    module = drawn(lambda: Attention(32, 2, causal=False, init=init, dtype=jnp.bfloat16))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 130, 32)), jnp.bfloat16)
    one = nnx.jit(lambda module, x: module(x))(module, x)
    monkeypatch.setattr(attention, "traced_platform", lambda: "tpu")
    other = nnx.jit(lambda module, x: module(x))(module, x)
    assert other.dtype == one.dtype and not np.array_equal(one, other)  # it was another way
    np.testing.assert_allclose(other.astype(jnp.float32), one.astype(jnp.float32), rtol=0.05, atol=0.02)
