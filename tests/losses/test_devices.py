"""How a loss lies over devices. That it is the same on all of them is asserted in test_contrastive.py."""

import jax.numpy as jnp
import pytest

from clipjax.losses.devices import lay_out


@pytest.mark.parametrize(
    "n, dtype, method", [(16384, "float32", "gather"), (16512, "float32", "ring"), (21760, "bfloat16", "gather")]
)
def test_auto_gathers_while_texts_and_their_gradient_fit_into_64_mib(n, dtype, method, mesh_of):
    features = jnp.zeros((n, 512), dtype)
    assert lay_out(features, features, mesh_of(data=4, fsdp=2), 1024, "auto").method == method


@pytest.mark.parametrize(
    "n, axes, method, keeps",
    [
        (8192, None, "auto", True),
        (8193, None, "auto", False),
        (23168, dict(data=4, fsdp=2), "gather", True),
        (23176, dict(data=4, fsdp=2), "gather", False),
        (1024, dict(data=4, fsdp=2), "ring", False),
    ],
)
def test_a_device_keeps_cosines_with_all_columns_while_they_fit_into_256_mib(n, axes, method, keeps, mesh_of):
    features = jnp.zeros((n, 8))
    assert lay_out(features, features, axes and mesh_of(**axes), 512, method).keeps_cosines is keeps


def test_one_device_has_nothing_to_exchange(mesh_of):
    features = jnp.zeros((64, 8))
    assert lay_out(features, features, mesh_of(data=1, fsdp=1, tensor=2), 1024, "ring").method == "gather"
    assert lay_out(features, features, None, 1024, "ring").axes == ()
