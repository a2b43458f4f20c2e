"""The policy knows every precision that a config may name."""

import jax.numpy as jnp
import pytest

from clipjax.parallel.precision import compute_dtype


@pytest.mark.parametrize(("name", "dtype"), [("float32", jnp.float32), ("bfloat16", jnp.bfloat16)])
def test_a_precision_is_a_dtype(name, dtype):
    assert compute_dtype(name) == dtype
