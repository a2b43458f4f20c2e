"""The text tower's own parts: where a caption is read, what cannot change it, initialisation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.config import TextConfig
from clipjax.errors import UserError
from clipjax.models.text import TextTransformer
from clipjax.trees import flatten

encode = nnx.jit(lambda tower, tokens: tower(tokens))


@pytest.fixture(scope="module")
def model(build):
    return build().text


@pytest.fixture(scope="module")
def features(model, tokens):
    return encode(model, tokens)


def test_cutting_to_the_longest_caption_changes_nothing(model, tokens, features):
    np.testing.assert_allclose(encode(model, tokens[:, :9]), features, rtol=0, atol=1e-6)


def test_what_follows_the_end_token_changes_nothing(model, tokens, features):
    after = jnp.arange(12)[None, :] > jnp.argmax(tokens == 99, axis=1)[:, None]
    for filler in (42, 99):  # another end token too: the first one counts
        np.testing.assert_allclose(encode(model, jnp.where(after, filler, tokens)), features, rtol=0, atol=1e-6)


def test_every_token_up_to_the_end_token_counts(model, tokens, features):
    for positions in ((0, 1, 2, 3), (4, 5, 6, 7)):
        changed = jnp.stack([tokens[2].at[position].set(60) for position in positions])
        moved = jnp.abs(encode(model, changed) - features[2][None]).max(1)
        assert (moved > 1e-4).all(), (positions, moved)


def test_the_end_token_is_named_by_the_config_not_the_largest_id(small, build, tokens):
    """As in vocabularies with tokens above their end token."""
    model = build().text
    model.config = dataclasses.replace(small.text, end_token=50)  # tokens[3]: 98, 50, 40, 30, 99
    after = jnp.where(jnp.arange(12)[None, :] > 1, 99, tokens)
    np.testing.assert_allclose(encode(model, after)[3], encode(model, tokens)[3], rtol=0, atol=1e-6)


def test_a_row_without_end_token_is_read_at_its_first_position(model):
    rows = encode(model, jnp.asarray([[98, *[filler] * 11] for filler in (1, 2, 3, 4)]))
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)


def test_features_are_float32_rows_even_in_bfloat16(build, tokens):
    features = jax.eval_shape(build(dtype=jnp.bfloat16).text, tokens)
    assert features.shape == (4, 24) and features.dtype == jnp.float32


def test_a_row_longer_than_the_context_is_refused(model):
    with pytest.raises(UserError, match="13 tokens a row found, at most 12 expected"):
        model(jnp.zeros((2, 13), jnp.int32))


def test_initialisation_is_the_release_s(drawn):
    width, layers = 128, 3
    config = TextConfig(context_length=40, vocab_size=500, width=width, layers=layers, heads=2, end_token=499)
    options = dict(activation="gelu", dtype=jnp.float32, remat="none", unroll=1)
    state = flatten(nnx.state(drawn(lambda: TextTransformer(config, 24, **options))))
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
    deviation |= {path.replace("blocks", "last"): value for path, value in deviation.items()}
    for path, leaf in state.items():
        if path in deviation:
            assert np.std(leaf) == pytest.approx(deviation[path], rel=4 / leaf.size**0.5), path
            assert abs(np.mean(leaf)) < 4 * deviation[path] / leaf.size**0.5, path
        else:
            assert (leaf == (1.0 if path.endswith("scale") else 0.0)).all(), path
    for path in ("token_embedding", "blocks/attention/qkv/kernel"):  # normal: some lie past 3 standard deviations
        assert np.mean(np.abs(state[path]) > 3 * deviation[path]) == pytest.approx(0.0027, rel=0.3), path
