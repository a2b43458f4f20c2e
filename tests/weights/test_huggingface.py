import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_dtypes import bfloat16
from safetensors.numpy import load_file, save_file

from clipjax import bundle, weights
from clipjax.config import Config, ImageConfig, ModelConfig, TextConfig
from clipjax.errors import UserError
from clipjax.models.stacking import stack_layers, unstack_layers
from clipjax.trees import unflatten
from clipjax.weights import huggingface
from clipjax.weights.table import write as write_table

FOLDER = pathlib.Path(__file__).parents[1] / "fixtures/huggingface"  # made by fixtures/make_huggingface.py
KEPT = ("config.json", "preprocessor_config.json", "model.safetensors")


@pytest.fixture(scope="module")
def loaded():
    return weights.read(FOLDER)


@pytest.fixture(scope="module")
def expected():
    return dict(np.load(FOLDER / "outputs.npz"))


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in KEPT:
        shutil.copy(FOLDER / name, folder)
    return folder


def _change(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _features(stacked, model, pairs):
    return bundle.merge(Config(model=model), unflatten(stacked), {})(pairs["pixels"], pairs["tokens"])


def test_the_config_is_read_whole(loaded):
    assert loaded.model == ModelConfig(
        preset="",
        embed_dim=12,
        image=ImageConfig(image_size=16, patch_size=4, width=24, layers=3, heads=3),
        text=TextConfig(context_length=10, vocab_size=100, width=16, layers=2, heads=2, end_token=99),
    )
    assert loaded.notes[0] == "no tokenizer files: CLIP's own tokenizer is used"
    assert loaded.format == "huggingface"


def test_features_loss_and_gradients_are_those_of_transformers(loaded, expected):
    def loss(params):
        features = _features(params, loaded.model, expected)
        logits = features.logit_scale * features.image @ features.text.T
        diagonal = jnp.diagonal(logits)
        halves = [jax.nn.logsumexp(logits, axis=axis) - diagonal for axis in (0, 1)]
        return (halves[0] + halves[1]).mean() / 2, (features, logits)

    (value, (features, logits)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        stack_layers(loaded.arrays)
    )
    ours = {"image": features.image, "text": features.text, "logits": logits, "loss": value}
    for name, array in ours.items():
        np.testing.assert_allclose(array, expected[f"quick_gelu/{name}"], atol=1e-5, rtol=0, err_msg=name)
    theirs = write_table(huggingface.TABLE, unstack_layers(jax.tree.map(np.asarray, gradients)))
    for key, gradient in theirs.items():
        wanted = expected[f"quick_gelu/gradient/{key}"]
        distance = np.linalg.norm(gradient - wanted)
        if key.endswith("k_proj.bias"):  # truly zero: one bias for all keys moves no softmax
            assert distance < 1e-6, key
        else:
            assert distance < 1e-4 * np.linalg.norm(wanted), key


def test_the_configs_activation_is_followed(copy, expected):
    config = json.loads((copy / "config.json").read_text())
    for tower in ("text_config", "vision_config"):
        config[tower]["hidden_act"] = "gelu"
    (copy / "config.json").write_text(json.dumps(config))
    found = weights.read(copy)
    features = jax.jit(lambda params: _features(params, found.model, expected))(stack_layers(found.arrays))
    np.testing.assert_allclose(features.image, expected["gelu/image"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(features.text, expected["gelu/text"], atol=1e-5, rtol=0)
    assert np.abs(expected["gelu/image"] - expected["quick_gelu/image"]).max() > 1e-4
    with pytest.raises(UserError, match="hidden_act is 'gelu', activation='quick_gelu' was asked for"):
        weights.read(copy, activation="quick_gelu")


def _equal(found, loaded):
    assert found.keys() == loaded.arrays.keys()
    for path, array in found.items():
        np.testing.assert_array_equal(array, loaded.arrays[path], strict=True, err_msg=path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "flax_model.msgpack"])
def test_older_files_of_the_same_weights_are_equal(name, copy, loaded):
    (copy / "model.safetensors").unlink()
    shutil.copy(FOLDER / name, copy)
    _equal(weights.read(copy).arrays, loaded)
    _equal(weights.read(copy / name).arrays, loaded)


def _shard(folder, names=("model-1-of-2.safetensors", "model-2-of-2.safetensors")):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    keys = sorted(tensors)
    parts = dict(zip(names, (keys[::2], keys[1::2]), strict=True))
    for name, part in parts.items():
        save_file({key: tensors[key] for key in part}, folder / name)
    where = {key: name for name, part in parts.items() for key in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def test_shards_are_read_together(copy, loaded):
    _shard(copy)
    _equal(weights.read(copy).arrays, loaded)


@pytest.mark.parametrize("dtype", [np.float16, bfloat16, np.float64])
def test_other_float_types_become_float32(dtype, copy, loaded):
    tensors = {key: tensor.astype(dtype) for key, tensor in load_file(copy / "model.safetensors").items()}
    save_file(tensors, copy / "model.safetensors")
    for path, array in weights.read(copy).arrays.items():
        np.testing.assert_array_equal(array, loaded.arrays[path].astype(dtype).astype(np.float32), strict=True)


def test_buffers_of_older_files_are_left_out(copy, loaded):
    tensors = load_file(copy / "model.safetensors")
    tensors["text_model.embeddings.position_ids"] = np.arange(10)[None]
    save_file(tensors, copy / "model.safetensors")
    _equal(weights.read(copy).arrays, loaded)


def test_a_written_folder_reads_back_bit_for_bit(loaded, tmp_path):
    weights.write("huggingface", tmp_path / "out", loaded)
    found = weights.read(tmp_path / "out")
    assert found.model == loaded.model
    _equal(found.arrays, loaded)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", FOLDER))
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key], strict=True)


def test_a_model_with_clips_vocabulary_is_written_with_its_tokenizer(loaded, tmp_path):
    words = TextConfig(context_length=10, vocab_size=49408, width=16, layers=2, heads=2)
    arrays = {**loaded.arrays, "text/token_embedding": np.zeros((49408, 16), np.float32)}
    model = ModelConfig(preset="", embed_dim=12, image=loaded.model.image, text=words)
    weights.write("huggingface", tmp_path / "out", loaded._replace(arrays=arrays, model=model))
    found = weights.read(tmp_path / "out")
    assert (found.model, found.notes) == (model, ())
    assert json.loads((tmp_path / "out/tokenizer_config.json").read_text())["model_max_length"] == 10


def test_a_processor_file_of_newer_versions_comes_first(copy):
    nested = {**json.loads((FOLDER / "preprocessor_config.json").read_text()), "resample": 2}
    (copy / "processor_config.json").write_text(json.dumps({"image_processor": nested}))
    assert weights.read(copy).model.image.interpolation == "bilinear"
    (copy / "processor_config.json").write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    assert weights.read(copy).model.image.interpolation == "bicubic"


def test_without_a_preprocessor_file_clips_own_is_used_and_said(copy):
    (copy / "preprocessor_config.json").unlink()
    assert weights.read(copy).notes[0] == "no preprocessor file: CLIP's own preprocessing is used"


def _without_config(folder):
    (folder / "config.json").unlink()


def _without_weights(folder):
    (folder / "model.safetensors").rename(folder / "model.safetensors.index.json")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')


def _outside(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../model.safetensors"}}')


def _twice(folder):
    _shard(folder)
    shutil.copy(folder / "model-1-of-2.safetensors", folder / "model-2-of-2.safetensors")


def _missing_key(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("logit_scale")
    tensors["text_projection.weight"] = tensors["text_projection.weight"].T.copy()
    tensors["logit_bias"] = np.zeros((), np.float32)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    "change, reason",
    [
        (_without_config, "has no config.json"),
        (_without_weights, "lists model-1.safetensors, which is not there"),
        (_outside, "a is in '../model.safetensors', which is no file's name"),
        (_twice, "is in model-2-of-2.safetensors and in another shard"),
        (
            _missing_key,
            "logit_scale is missing.*logit_bias.*not part.*text_projection.weight is .16, 12., .12, 16. exp",
        ),
        (lambda folder: _change(folder / "config.json", model_type="siglip"), "'siglip', a model that is not CLIP"),
        (
            lambda folder: _change(folder / "config.json", projection_dim=13),
            "visual_projection.weight is .12, 24., .13",
        ),
        (lambda folder: _change(folder / "preprocessor_config.json", size=224), "size is 224, 16 expected"),
        (lambda folder: (folder / "vocab.json").write_text("{}"), "this program reads CLIP's tokenizer only"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_in_one_line(change, reason, copy):
    change(copy)
    with pytest.raises(UserError, match=reason) as caught:
        weights.read(copy)
    assert "\n" not in str(caught.value) and "model" in str(caught.value)


def test_a_resnet_is_not_written(loaded, tmp_path):
    resnet = ModelConfig(image=ImageConfig(kind="resnet", stages=(1, 1, 1, 1), layers=0))
    with pytest.raises(UserError, match="has a ResNet as image tower, which transformers' CLIPModel does not have"):
        weights.write("huggingface", tmp_path / "out", loaded._replace(model=resnet))
    assert not list(tmp_path.iterdir())
