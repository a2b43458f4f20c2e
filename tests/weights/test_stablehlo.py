"""The exported programs give the model's own features, for any number of rows, to a program that has jax alone."""

import json
import subprocess
import sys

import numpy as np
import pytest

from clipjax.weights import parity, stablehlo
from clipjax.weights.program import encoders


@pytest.fixture(scope="module", params=["vit", "resnet"])
def weights(request, foreign):
    return foreign(request.param)


@pytest.fixture(scope="module")
def folder(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model"
    stablehlo.write(path, weights)
    return path


def test_the_programs_give_the_model_s_features_for_any_number_of_rows(weights, folder):
    for ours, theirs, rows in zip(
        encoders(weights), stablehlo.programs(folder), parity.inputs(weights.model), strict=True
    ):
        for count in (1, len(rows)):
            np.testing.assert_allclose(theirs(rows[:count]), ours(rows)[:count], rtol=1e-5, atol=1e-5)


def test_they_are_made_for_cpu_cuda_and_tpu(folder):
    from jax import export

    for name in ("image", "text"):
        exported = export.deserialize((folder / f"{name}.stablehlo").read_bytes())
        assert set(exported.platforms) == {"cpu", "cuda", "tpu"}


def test_the_config_says_what_the_inputs_must_be(folder):
    described = json.loads((folder / "config.json").read_text())
    assert {"mean", "std", "interpolation", "image_size"} <= described["model"]["image"].keys()
    assert described["tokenizer"]["context_length"] == described["model"]["text"]["context_length"]


@pytest.mark.slow
def test_the_loader_needs_jax_alone(weights, folder, tmp_path):
    pixels, tokens = parity.inputs(weights.model)
    np.savez(tmp_path / "rows.npz", pixels=pixels, tokens=tokens)
    program = f"""
import sys
class Only:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("clipjax", "flax", "optax", "orbax", "grain", "PIL"):
            raise ImportError(name)
sys.meta_path.insert(0, Only())
sys.path.insert(0, {str(folder)!r})
import numpy as np
from load import load
model, rows = load({str(folder)!r}), np.load("rows.npz")
np.savez("features.npz", image=model.image(rows["pixels"]), text=model.text(rows["tokens"]), scale=model.logit_scale)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    found = np.load(tmp_path / "features.npz")
    image, text = encoders(weights)
    np.testing.assert_allclose(found["image"], image(pixels), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["text"], text(tokens), rtol=1e-5, atol=1e-5)
    assert float(found["scale"]) == pytest.approx(1 / 0.07, rel=1e-5)
