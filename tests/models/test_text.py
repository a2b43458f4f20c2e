"""The text tower's own parts: where a caption is read, what cannot change it, initialisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.config import TextConfig
from clipjax.errors import UserError
from clipjax.models.text import TextTransformer
from clipjax.trees import flatten


def tower(config, **options):
    options = dict(activation="quick_gelu", dtype=jnp.float32, remat="none", unroll=1) | options
    return TextTransformer(config, 24, rngs=nnx.Rngs(0), **options)


@pytest.fixture(scope="module")
def model(small):
    return tower(small.text)


def test_cutting_to_the_longest_caption_changes_nothing(model, tokens):
    np.testing.assert_allclose(model(tokens[:, :9]), model(tokens), rtol=0, atol=1e-6)


def test_what_follows_the_end_token_changes_nothing(model, tokens):
    after = jnp.arange(12)[None, :] > jnp.argmax(tokens == 99, axis=1)[:, None]
    for filler in (42, 99):  # another end token too: the first one counts
        np.testing.assert_allclose(model(jnp.where(after, filler, tokens)), model(tokens), rtol=0, atol=1e-6)


def test_every_token_up_to_the_end_token_counts(model, tokens):
    before = model(tokens)[2]
    for position in range(8):
        changed = tokens[2:3].at[0, position].set(60)
        assert jnp.abs(model(changed)[0] - before).max() > 1e-4, position


def test_the_end_token_is_named_not_the_largest_id(small, tokens):
    """As in every vocabulary with tokens above its end token."""
    named = tower(TextConfig(**{**vars(small.text), "vocab_size": 120}))
    changed = tokens.at[:, 0].set(110)
    longer = jnp.where(jnp.arange(12)[None, :] > 8, 7, changed)
    np.testing.assert_allclose(named(longer), named(changed), rtol=0, atol=1e-6)


def test_a_row_without_end_token_is_read_at_its_first_position(model):
    rows = model(jnp.asarray([[98, 1, 2], [98, 3, 4]]))
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)


def test_features_are_float32_rows_even_in_bfloat16(small, tokens):
    features = tower(small.text, dtype=jnp.bfloat16)(tokens)
    assert features.shape == (4, 24) and features.dtype == jnp.float32


def test_a_row_longer_than_the_context_is_refused(model):
    with pytest.raises(UserError, match="13 tokens a row found, at most 12 expected"):
        model(jnp.zeros((2, 13), jnp.int32))


def test_only_tokens_that_occur_get_a_gradient(model, tokens):
    graph, state = nnx.split(model)
    gradient = jax.grad(lambda state: nnx.merge(graph, state)(tokens).sum())(state)["token_embedding"][...]
    touched = np.flatnonzero(np.abs(gradient).max(1))
    assert set(touched) == {98, 99, 5, 7, 1, 2, 3, 4, 6, 50, 40, 30}


def test_initialisation_is_the_release_s():
    width, layers = 128, 3
    config = TextConfig(context_length=40, vocab_size=500, width=width, layers=layers, heads=2, end_token=499)
    state = flatten(nnx.state(tower(config)))
    deviation = {
        "token_embedding": 0.02,
        "positional_embedding": 0.01,
        "projection/kernel": width**-0.5,
        "blocks/attention/qkv/kernel": width**-0.5,
        "blocks/attention/out/kernel": width**-0.5 * (2 * layers) ** -0.5,
        "blocks/mlp/fc/kernel": (2 * width) ** -0.5,
        "blocks/mlp/fc/bias": (3 * width) ** -0.5,
        "blocks/mlp/proj/kernel": width**-0.5 * (2 * layers) ** -0.5,
        "blocks/mlp/proj/bias": (12 * width) ** -0.5,
    }
    for path, leaf in state.items():
        if path in deviation:
            assert np.std(leaf) == pytest.approx(deviation[path], rel=4 / leaf.size**0.5), path
            assert abs(np.mean(leaf)) < 4 * deviation[path] / leaf.size**0.5, path
        else:
            assert (leaf == (1.0 if path.endswith("scale") else 0.0)).all(), path
    for path in ("token_embedding", "blocks/attention/qkv/kernel"):  # normal: some lie past 3 standard deviations
        assert np.mean(np.abs(state[path]) > 3 * deviation[path]) == pytest.approx(0.0027, rel=0.3), path
