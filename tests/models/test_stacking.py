"""Stacking and its inverse, on tables of any depth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.models.stacking import stack_layers, unstack_layers

names = st.sampled_from(["image/blocks", "text/blocks", "image/stage1/blocks"])
rests = st.sampled_from(["ln/scale", "attention/qkv/kernel", "conv1/kernel"])


@given(st.dictionaries(st.tuples(names, rests), st.integers(1, 12)), st.booleans())
def test_there_and_back_is_the_same_table(rows, reverse):
    table = {"logit_scale": np.float32(1), "image/blocksize": np.arange(3)}
    for number, ((blocks, rest), layers) in enumerate(rows.items()):
        table |= {f"{blocks}/{i}/{rest}": np.full((2, 3), 100 * number + i) for i in range(layers)}
    if reverse:
        table = dict(reversed(table.items()))
    stacked = stack_layers(table)
    for (blocks, rest), layers in rows.items():
        assert stacked[f"{blocks}/{rest}"].shape == (layers, 2, 3)
        assert (stacked[f"{blocks}/{rest}"][-1] == table[f"{blocks}/{layers - 1}/{rest}"]).all()
    back = unstack_layers(stacked)
    assert back.keys() == table.keys()
    assert all(np.array_equal(back[path], table[path]) for path in table)


def test_a_missing_layer_is_named():
    with pytest.raises(ValueError, match=r"text/blocks/bias: layers \[0, 2\] found, 0 to 1 expected"):
        stack_layers({"text/blocks/0/bias": np.zeros(2), "text/blocks/2/bias": np.zeros(2)})
