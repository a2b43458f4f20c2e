"""Paths and trees: there and back."""

import jax.numpy as jnp
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from clipjax.trees import flatten, map_with_path, unflatten

NAMES = st.text("abc", min_size=1, max_size=3)
TREES = st.recursive(st.integers(), lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3), max_leaves=8)


@given(st.dictionaries(NAMES, TREES, min_size=1, max_size=3))
def test_unflatten_undoes_flatten(tree):
    assert unflatten(flatten(tree)) == tree


def test_an_nnx_state_has_plain_paths():
    layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    assert sorted(flatten(nnx.state(layer))) == ["bias", "kernel"]
    assert flatten(nnx.state(layer))["kernel"].shape == (2, 3)


def test_a_path_that_is_leaf_and_folder_is_refused():
    with pytest.raises(ValueError, match="a/b"):
        unflatten({"a": 1, "a/b": 2})


def test_map_with_path_sees_every_leaf_once():
    seen = []
    doubled = map_with_path(lambda path, leaf: seen.append(path) or leaf * 2, {"a": [jnp.ones(2), 3], "b": 1})
    assert seen == ["a/0", "a/1", "b"]
    assert doubled["b"] == 2 and doubled["a"][1] == 6
