"""ONNX: the converted programs give the model's features; without the converter there is one line that says so."""

import sys

import numpy as np
import pytest

from clipjax.config import preset
from clipjax.errors import UserError
from clipjax.weights import Weights, onnx, parity
from clipjax.weights.program import encoders


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_the_programs_give_the_model_s_features_for_any_number_of_rows(kind, foreign, tmp_path):
    pytest.importorskip("jax2onnx", reason="the converter jax2onnx is not installed")
    weights = foreign(kind)
    onnx.write(tmp_path / "model", weights)
    for ours, theirs, rows in zip(
        encoders(weights), onnx.programs(tmp_path / "model"), parity.inputs(weights.model), strict=True
    ):
        for count in (1, len(rows)):
            np.testing.assert_allclose(theirs(rows[:count]), ours(rows)[:count], rtol=1e-4, atol=1e-5)


def test_an_absent_converter_is_said_with_the_way_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    model = preset("tiny")
    with pytest.raises(UserError, match="jax2onnx cannot be imported.*pip install"):
        onnx.write(tmp_path / "model", Weights({}, model, "x", (), "orbax"))
    assert not (tmp_path / "model").exists()
