"""A bare file of weights, which does not say its activation, is scored once the user says it and not before."""

import json

import pytest

from clipjax import cli
from clipjax.bundle import Bundle, abstract_module, merge
from clipjax.config import Config, preset
from clipjax.models.initialise import draw
from clipjax.trees import unflatten


@pytest.fixture
def bare(tmp_path):
    config = Config(model=preset("tiny"))
    _, params, _ = abstract_module(config)
    Bundle(merge(config, unflatten(draw(params, 0)), {}), config).save(tmp_path / "folder", "open_clip")
    return (tmp_path / "folder/open_clip_model.safetensors").rename(tmp_path / "weights.safetensors")


def test_evaluate_takes_a_bare_file_with_its_activation(bare, colour_folders, tmp_path, capsys):
    arguments = ["evaluate", f"--checkpoint={bare}", f"--data={colour_folders}", f"--out={tmp_path}/report"]
    assert cli.main(arguments) == 2
    assert "activation" in capsys.readouterr().err.splitlines()[-1]
    assert cli.main([*arguments, "--activation=quick_gelu"]) == 0
    assert json.loads((tmp_path / "report/report.json").read_text())["results"]
