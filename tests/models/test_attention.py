"""Attention: the flash kernel is asked for where there is one, by flag, and the products are what it would give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.models import attention
from clipjax.models.attention import self_attention


def qkv(dtype=jnp.float32, size=8):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(2, 7, 3, size)), dtype) for _ in range(3)]


@pytest.mark.parametrize("causal", [False, True])
def test_products_equal_the_library(causal):
    q, k, v = qkv()
    wanted = jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation="xla").reshape(2, 7, 24)
    np.testing.assert_allclose(self_attention(q, k, v, causal=causal), wanted, rtol=1e-5, atol=1e-6)


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

    def kernel(q, k, v, **options):
        asked.append(options)
        return library(q, k, v, is_causal=options["is_causal"])

    library = jax.nn.dot_product_attention
    monkeypatch.setattr(attention, "traced_platform", lambda: platform)
    monkeypatch.setattr(jax, "devices", lambda: [Device])
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    found = self_attention(*qkv(dtype, size), causal=causal)
    assert asked == ([{"is_causal": causal, "implementation": "cudnn"}] if flash else [])
    assert found.shape == (2, 7, 3 * size) and found.dtype == dtype


@pytest.mark.parametrize(("tokens", "causal", "by_rows"), [(77, True, False), (50, False, False), (257, False, True)])
def test_rows_are_attended_to_a_few_at_a_time_where_their_scores_have_room_on_the_chip(
    monkeypatch, tokens, causal, by_rows
):
    monkeypatch.setattr(attention, "traced_platform", lambda: "tpu")
    assert attention.suits_rows(jnp.zeros((1, tokens, 8), jnp.bfloat16), causal) == by_rows
    assert not attention.suits_rows(jnp.zeros((1, 577, 8), jnp.bfloat16), False)
    assert not attention.suits_rows(jnp.zeros((1, tokens, 8), jnp.float32), causal)
