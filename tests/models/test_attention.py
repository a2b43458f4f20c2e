"""Attention: the flash kernel is asked for where there is one, by flag, and the products are what it would give."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.models import attention
from clipjax.models.attention import self_attention


def qkv(dtype=jnp.float32, size=8, tokens=7):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(2, tokens, 3, size)), dtype) for _ in range(3)]


def stand_in(monkeypatch):
    """The library does by products what is asked of cuDNN; returns the list of (shape, options) that were asked."""
    library, asked = jax.nn.dot_product_attention, []

    def kernel(q, k, v, **options):
        asked.append((q.shape, options))
        return library(q, k, v, **options | {"implementation": "xla"})

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    return asked


@pytest.mark.parametrize("causal", [False, True])
def test_products_equal_the_library(causal):
    q, k, v = qkv()
    wanted = jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation="xla").reshape(2, 7, 24)
    np.testing.assert_allclose(self_attention(q, k, v, causal=causal), wanted, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_softmax_is_the_librarys_and_keeps_the_result_alone():
    scores, change = jnp.asarray(np.random.default_rng(0).normal(scale=9, size=(2, 2, 3, 5, 7)), jnp.float32)
    mixed, back = jax.vjp(attention._softmax, scores)
    np.testing.assert_array_equal(mixed, jax.nn.softmax(scores))
    np.testing.assert_allclose(back(change)[0], jax.vjp(jax.nn.softmax, scores)[1](change)[0], rtol=1e-5, atol=2e-5)
    assert {id(leaf) for leaf in jax.tree.leaves(back) if leaf.size} == {id(mixed)}


@pytest.mark.parametrize(
    ("platform", "capability", "dtype", "size", "flash"),
    [
        ("gpu", "9.0", jnp.bfloat16, 64, True),
        ("gpu", "8.0", jnp.float16, 128, True),
        ("gpu", "7.5", jnp.float16, 64, False),
        ("gpu", "gfx90a", jnp.bfloat16, 64, False),
        ("gpu", "9.0", jnp.float32, 64, False),
        ("gpu", "9.0", jnp.bfloat16, 20, False),
        ("gpu", "9.0", jnp.bfloat16, 256, False),
        ("tpu", "", jnp.bfloat16, 64, False),
        ("", "9.0", jnp.bfloat16, 64, False),
    ],
)
@pytest.mark.parametrize("causal", [False, True])
def test_the_flash_kernel_is_used_where_it_can_be(monkeypatch, platform, capability, dtype, size, flash, causal):
    """The device and the kernel are stand-ins: what is asked of the library is what is checked."""
    asked = []

    class Device:
        compute_capability = capability

    monkeypatch.setattr(attention, "traced_platform", lambda: platform)
    monkeypatch.setattr(jax, "devices", lambda: [Device])
    asked = stand_in(monkeypatch)
    found = self_attention(*qkv(dtype, size), causal=causal)
    assert [options["is_causal"] for _, options in asked] == [causal] * flash
    assert found.shape == (2, 7, 3 * size) and found.dtype == dtype


@pytest.mark.parametrize("tokens", [7, 8])
@pytest.mark.parametrize("causal", [False, True])
def test_the_flash_kernel_gets_an_even_number_of_tokens_and_gives_what_products_give(monkeypatch, tokens, causal):
    """JAX refuses cuDNN's gradient for an odd number; a token more must change neither values nor gradients."""
    asked = stand_in(monkeypatch)
    q, k, v = qkv(tokens=tokens)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(2, tokens, 24)), jnp.float32)

    def value_and_gradient(attend):
        return jax.value_and_grad(lambda *x: (attend(*x, causal=causal) * weights).sum(), (0, 1, 2))(q, k, v)

    wanted = value_and_gradient(self_attention)
    found = value_and_gradient(lambda q, k, v, causal: attention._flash(q, k, v, causal))
    chex.assert_trees_all_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert {shape for shape, _ in asked} == {(2, 8, 3, 8)}
    assert {options["implementation"] for _, options in asked} == {"cudnn"}


@pytest.mark.parametrize(("tokens", "causal", "by_rows"), [(77, True, False), (50, False, False), (257, False, True)])
def test_rows_are_attended_to_a_few_at_a_time_where_their_scores_have_room_on_the_chip(
    monkeypatch, tokens, causal, by_rows
):
    monkeypatch.setattr(attention, "traced_platform", lambda: "tpu")
    assert attention.suits_rows(jnp.zeros((1, tokens, 8), jnp.bfloat16), causal) == by_rows
    assert not attention.suits_rows(jnp.zeros((1, 577, 8), jnp.bfloat16), False)
    assert not attention.suits_rows(jnp.zeros((1, tokens, 8), jnp.float32), causal)
