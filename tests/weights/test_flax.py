import dataclasses
import json

import numpy as np
import pytest
from flax import serialization

from clipjax import text, weights
from clipjax.config import ImageConfig, ModelConfig, TextConfig
from clipjax.errors import UserError
from clipjax.trees import flatten
from clipjax.weights.table import expected_shapes

WORDS = TextConfig(context_length=8, vocab_size=60, width=16, layers=2, heads=2, end_token=59)
MODELS = {
    "vit": ModelConfig("", 12, "gelu", ImageConfig(16, 8, 24, 2, 3, interpolation="bilinear"), WORDS),
    "resnet": ModelConfig(
        "", 12, "quick_gelu", ImageConfig(32, 32, 8, 0, 4, kind="resnet", stages=(2, 1, 1, 1)), WORDS
    ),
}


def _filled(model):
    rng = np.random.default_rng(0)
    shapes = expected_shapes(model, "test")
    arrays = {path: rng.standard_normal(shape, np.float32) for path, shape in shapes.items()}
    arrays["text/ln_final/bias"][:3] = -0.0, np.inf, np.nan
    return weights.Weights(arrays, model, "test", (), "test")


@pytest.fixture(scope="module", params=MODELS)
def export(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flax") / request.param
    filled = _filled(MODELS[request.param])
    weights.write("flax", folder, filled)
    return folder, filled


@pytest.fixture
def copy(tmp_path):
    weights.write("flax", tmp_path / "model", _filled(MODELS["vit"]))
    return tmp_path / "model"


def test_an_export_reads_back_bit_for_bit(export):
    folder, filled = export
    for path in (folder, folder / "clipjax_flax.msgpack"):
        found = weights.read(path)
        assert (found.model, found.format) == (filled.model, "flax")
        assert found.arrays.keys() == filled.arrays.keys()
        for name, array in filled.arrays.items():
            assert found.arrays[name].tobytes() == np.asarray(array).tobytes()
            assert (found.arrays[name].shape, found.arrays[name].dtype) == (np.shape(array), np.float32)


def test_flax_itself_reads_the_tree(export):
    folder, filled = export
    tree = serialization.msgpack_restore((folder / "clipjax_flax.msgpack").read_bytes())
    found = {**flatten(tree["params"]), **flatten(tree.get("batch_stats", {}))}
    assert found.keys() == filled.arrays.keys()
    assert ("batch_stats" in tree) == (filled.model.image.kind == "resnet")
    if "batch_stats" in tree:
        assert set(flatten(tree["batch_stats"])) == {path for path in found if path.endswith(("/mean", "/var"))}


def test_the_config_says_format_preprocessing_and_tokenizer(export):
    folder, filled = export
    described = json.loads((folder / "config.json").read_text())
    assert (described["format"], described["format_version"]) == ("clipjax_flax", 1)
    assert described["preprocessing"]["interpolation"] == filled.model.image.interpolation
    assert described["tokenizer"] == {**text.identity(), "context_length": 8}


def _edit(path, *keys, value):
    whole = json.loads(path.read_text())
    section = whole
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    path.write_text(json.dumps(whole))


@pytest.mark.parametrize(
    "keys, value, reason",
    [
        (("format",), "other", "format is 'other', 'clipjax_flax' expected"),
        (("format_version",), 2, "format_version is 2, this program reads 1"),
        (("tokenizer", "sha256"), "0", "tokenizer.sha256 is '0', '9"),
        (("preprocessing", "mean"), [0, 0, 0], r"preprocessing.mean is \[0, 0, 0\], \[0.48145466"),
        (
            ("model", "image", "interpolation"),
            "bicubic",
            "preprocessing.interpolation is 'bilinear', 'bicubic' expected",
        ),
        (("model", "image", "widht"), 3, "model.image.widht: no such key"),
        (("model", "image", "width"), "3", "model.image.width: '3' should be a whole number"),
        (("model", "image", "width"), 48, r"params/image/blocks/0/attention/out/bias is \[24\], \[48\] expected"),
        (("model", "text", "layers"), 3, "params/text/blocks/2/attention/out/bias is missing"),
        (("model", "text", "layers"), 0, "layers: 0 should be at least 1"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_one_line(keys, value, reason, copy):
    _edit(copy / "config.json", *keys, value=value)
    with pytest.raises(UserError, match=reason) as caught:
        weights.read(copy)
    assert "\n" not in str(caught.value)


def test_a_config_without_activation_is_refused(copy):
    whole = json.loads((copy / "config.json").read_text())
    whole["model"].pop("activation")
    (copy / "config.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match="model.activation is missing"):
        weights.read(copy)


def test_another_activation_is_refused(copy):
    assert weights.read(copy, activation="gelu").model.activation == "gelu"
    with pytest.raises(UserError, match="activation is 'gelu', activation='quick_gelu' was asked for"):
        weights.read(copy, activation="quick_gelu")


def test_a_file_alone_says_what_it_lacks(copy):
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match="config.json: cannot be read .No such file"):
        weights.read(copy / "clipjax_flax.msgpack")


def test_bfloat16_becomes_float32(copy):
    from ml_dtypes import bfloat16

    tree = serialization.msgpack_restore((copy / "clipjax_flax.msgpack").read_bytes())
    tree["params"]["text"]["projection"]["kernel"] = np.full((16, 12), 1.5, bfloat16)
    (copy / "clipjax_flax.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    kernel = weights.read(copy).arrays["text/projection/kernel"]
    assert kernel.dtype == np.float32 and (kernel == 1.5).all()


def test_presets_keep_their_name(tmp_path):
    model = dataclasses.replace(MODELS["vit"], preset="mine")
    weights.write("flax", tmp_path / "out", _filled(model))
    assert weights.read(tmp_path / "out").model.preset == "mine"
