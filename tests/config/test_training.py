"""The defaults of a run pass their own checks, and the top level names what is wrong."""

import pytest

from clipjax.config import Config, LossConfig


def test_the_defaults_are_sound():
    assert Config().mistakes() + LossConfig().mistakes() == []


@pytest.mark.parametrize(
    "change",
    [
        {"seed": -1},
        {"keep_checkpoints": 0},
        {"max_skipped_steps": 0},
        {"remat": "some"},
        {"freeze": "both", "init_from": "x"},
        {"micro_batch_size": 0},
        {"micro_batch_size": 3},
        {"dropout": 1.0},
    ],
)
def test_a_wrong_value_is_named(change):
    assert [row.split(":")[0] for row in Config(**change).mistakes()] == list(change)[:1]


@pytest.mark.parametrize("change", [{"freeze": "image"}, {"freeze_batch_norm": True}])
def test_nothing_is_frozen_at_a_random_start(change):
    assert ["init_from" in row for row in Config(**change).mistakes()] == [True]
    assert Config(**change, init_from="runs/a").mistakes() == []


def test_a_wrong_loss_is_named():
    assert [row.split(":")[0] for row in LossConfig(method="tree", block_size=0).mistakes()] == ["method", "block_size"]
