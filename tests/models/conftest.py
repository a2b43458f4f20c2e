"""Models small enough to compile in a second, and batches for them."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.config import ImageConfig, ModelConfig, TextConfig
from clipjax.models.clip import CLIP
from clipjax.models.initialise import draw
from clipjax.trees import unflatten


@pytest.fixture(scope="session")
def small():
    """A config with two heads, three layers and unequal widths; end token 99."""
    return ModelConfig(
        embed_dim=24,
        image=ImageConfig(image_size=32, patch_size=8, width=32, layers=3, heads=2),
        text=TextConfig(context_length=12, vocab_size=100, width=48, layers=3, heads=2, end_token=99),
    )


@pytest.fixture(scope="session")
def pixels():
    """Four pictures of 32 x 32."""
    return jnp.asarray(np.random.RandomState(1).randn(4, 32, 32, 3), jnp.float32)


@pytest.fixture(scope="session")
def tokens():
    """Four captions of 2 to 9 tokens in 12 places."""
    return jnp.asarray(
        [
            [98, 99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [98, 5, 7, 99, 0, 0, 0, 0, 0, 0, 0, 0],
            [98, 1, 2, 3, 4, 5, 6, 7, 99, 0, 0, 0],
            [98, 50, 40, 30, 99, 0, 0, 0, 0, 0, 0, 0],
        ],
        jnp.int32,
    )


@pytest.fixture(scope="session")
def drawn():
    """drawn(make, seed=0) -> the module that make() gives, its parameters drawn."""

    def drawn(make, seed=0):
        graph, state = nnx.split(nnx.eval_shape(make))
        return nnx.merge(graph, unflatten({path: jnp.asarray(leaf) for path, leaf in draw(state, seed).items()}))

    return drawn


@pytest.fixture(scope="session")
def build(small, drawn):
    """build(**options) -> CLIP of `small`, with the same parameters whatever the options."""
    return lambda **options: drawn(lambda: CLIP(small, **options))
