"""A working directory belongs to one run: what its arrays depend on stays, other changes are said."""

import dataclasses

import pytest

from clipjax.config import Config, LossConfig, OptimizerConfig, from_json, preset
from clipjax.errors import UserError
from clipjax.training.claim import check_claim, claim


@pytest.fixture
def config():
    return Config(model=preset("tiny"), total_steps=3)


@pytest.fixture
def run(config, tmp_path):
    (tmp_path / "a/run/checkpoints").mkdir(parents=True)
    claim(tmp_path / "a/run", config)
    return tmp_path / "a/run"


def test_the_config_is_kept_and_the_same_one_says_nothing(config, run, capsys):
    assert from_json((run / "config.json").read_text()) == config
    check_claim(run, config)
    assert capsys.readouterr().err == ""


def test_what_may_change_is_said(config, run, capsys):
    text = dataclasses.replace(config.model.text, weights_dtype="bfloat16")
    model = dataclasses.replace(config.model, text=text)
    check_claim(run, dataclasses.replace(config, optimizer=OptimizerConfig(weight_decay=0.3), model=model))
    said = capsys.readouterr().err
    assert "optimizer/weight_decay 0.2 -> 0.3" in said and "weights_dtype float32 -> bfloat16" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": LossConfig("sigmoid")}, "loss/kind was softmax, is sigmoid"),
        ({"model": preset("tiny-resnet")}, "model/image/kind was vit, is resnet"),
        ({"freeze": "image", "init_from": "elsewhere"}, "freeze was none, is image"),
    ],
)
def test_what_the_state_depends_on_is_refused_once_there_is_one(config, run, changes, said):
    other = dataclasses.replace(config, **changes)
    with pytest.raises(UserError, match=f"the run began with another model, loss or freezing .*{said}"):
        check_claim(run, other)
    (run / "checkpoints").rmdir()
    check_claim(run, other)
