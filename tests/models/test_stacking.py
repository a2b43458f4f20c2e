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
        last = f"{blocks.removesuffix('/blocks')}/last/{rest}"
        apart = "stage" not in blocks  # the last layer of a transformer
        assert (last in stacked) == apart
        if layers > apart:
            assert stacked[f"{blocks}/{rest}"].shape == (layers - apart, 2, 3)
        top = stacked[last] if apart else stacked[f"{blocks}/{rest}"][-1]
        assert (top == table[f"{blocks}/{layers - 1}/{rest}"]).all()
    back = unstack_layers(stacked)
    assert back.keys() == table.keys()
    assert all(np.array_equal(back[path], table[path]) for path in table)


def test_a_stack_of_all_layers_as_format_1_had_it_comes_apart_too():
    table = {"text/blocks/bias": np.arange(6).reshape(3, 2)}
    again = stack_layers(unstack_layers(table))
    assert again.keys() == {"text/blocks/bias", "text/last/bias"}
    assert (again["text/blocks/bias"] == table["text/blocks/bias"][:2]).all() and (
        again["text/last/bias"] == [4, 5]
    ).all()


def test_a_missing_layer_is_named():
    with pytest.raises(ValueError, match=r"text/blocks/bias: layers \[0, 2\] found, 0 to 1 expected"):
        stack_layers({"text/blocks/0/bias": np.zeros(2), "text/blocks/2/bias": np.zeros(2)})
