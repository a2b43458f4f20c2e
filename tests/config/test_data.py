"""The data section refuses what no pipeline can do."""

import pytest

from clipjax.config import DataConfig


@pytest.mark.parametrize(
    "change",
    [
        {"workers": -1},
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (1.0,)},
        {"max_unreadable": 1.5},
        {"augmentation": "x"},
    ],
)
def test_a_wrong_value_is_named(change):
    assert DataConfig().mistakes() == []
    assert [row.split(":")[0] for row in DataConfig(**change).mistakes()] == list(change)
