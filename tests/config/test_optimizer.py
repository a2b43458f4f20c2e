"""The optimizer section refuses values outside of AdamW's range."""

import pytest

from clipjax.config import OptimizerConfig


@pytest.mark.parametrize(
    "change",
    [
        {"b1": 1.0},
        {"b2": -0.1},
        {"learning_rate": -1.0},
        {"clip_norm": -1.0},
        {"moments_dtype": "int8"},
        {"layer_decay": 0.0},
        {"layer_decay": 1.1},
    ],
)
def test_a_wrong_value_is_named(change):
    assert OptimizerConfig().mistakes() == []
    assert [row.split(":")[0] for row in OptimizerConfig(**change).mistakes()] == list(change)
