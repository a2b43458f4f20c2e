"""open_clip's folders: configs followed or refused by name, both key forms, and the way back."""

import dataclasses
import json

import numpy as np
import pytest

from clipjax import weights
from clipjax.config import preset
from clipjax.errors import UserError
from clipjax.weights import open_clip, safetensors, torch_write

VIT = {
    "model_cfg": {
        "embed_dim": 8,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 128, "patch_size": 16},
        "text_cfg": {"context_length": 10, "vocab_size": 100, "width": 128, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


@pytest.fixture
def folder(tmp_path, release):
    """`folder(config, tensors, file)`: a folder with these, by default of the small ViT."""

    def make(config=VIT, tensors=None, file="open_clip_model.safetensors"):
        if config is not None:
            (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        (tmp_path / file).unlink(missing_ok=True)
        writer = safetensors if file.endswith(".safetensors") else torch_write
        writer.write(tmp_path / file, release("vit") if tensors is None else tensors)
        return tmp_path

    return make


def changed(section, **keys):
    """VIT's config with other keys in a section, "model_cfg.vision_cfg" for example."""
    config = json.loads(json.dumps(VIT))
    node = config
    for name in section.split("."):
        node = node[name]
    node.update(keys)
    return config


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(found[path].dtype == np.float32 and np.array_equal(found[path], x) for path, x in expected.items())


@pytest.mark.parametrize("file", open_clip.WEIGHTS)
def test_a_folder_is_read_by_any_of_open_clip_s_file_names(folder, foreign, file):
    path = folder(file=file)
    found = weights.read(path)
    assert found.model == foreign("vit").model and found.format == "open_clip" and found.name == str(path)
    assert_same(found.arrays, foreign("vit").arrays)
    assert found.notes == (
        "no tokenizer files: CLIP's own tokenizer is used",
        "a vocabulary of 100, CLIP's tokenizer has 49408: give token ids, not texts",
    )
    assert weights.is_foreign(path)


def test_a_file_named_within_its_folder_is_read_by_the_folder_s_config(folder, foreign):
    path = folder() / "open_clip_model.safetensors"
    assert weights.read(path).model == foreign("vit").model


def test_files_are_looked_for_in_open_clip_s_order(folder, release, foreign):
    wrong = {key: np.zeros_like(x) for key, x in release("vit").items()}
    for file in open_clip.WEIGHTS[1:]:
        folder(tensors=wrong, file=file)
    assert_same(weights.read(folder()).arrays, foreign("vit").arrays)


def test_custom_text_keys_are_read_as_the_plain_ones(folder, release, foreign):
    custom = {("" if key.startswith(("visual", "logit")) else "text.") + key: x for key, x in release("vit").items()}
    path = folder(changed("model_cfg", custom_text=True, init_logit_scale=2.0), custom)
    assert_same(weights.read(path).arrays, foreign("vit").arrays)


def test_what_leaves_the_model_as_it_is_may_be_said(folder, foreign):
    vision = {"mlp_ratio": 4.0, "ls_init_value": None, "norm_kwargs": {}, "act_kwargs": None, "image_size": [32, 32]}
    vision |= {"timm_model_name": None, "timm_pool": "avg", "pool_type": "tok", "patch_dropout": 0.5, "head_width": 64}
    config = changed("model_cfg.vision_cfg", **vision)
    config["model_cfg"]["text_cfg"] |= {"pool_type": "argmax", "pad_id": 0, "eos_id": 2, "norm_kwargs": {"eps": 1e-5}}
    assert weights.read(folder(config)).model == foreign("vit").model


@pytest.mark.parametrize(
    "section, key, value",
    [
        ("model_cfg", "multimodal_cfg", {"width": 3}),
        ("model_cfg", "invented", True),
        ("model_cfg.vision_cfg", "timm_model_name", "vit_base"),
        ("model_cfg.vision_cfg", "ls_init_value", 1e-5),
        ("model_cfg.vision_cfg", "attentional_pool", True),
        ("model_cfg.vision_cfg", "no_ln_pre", True),
        ("model_cfg.vision_cfg", "pool_type", "avg"),
        ("model_cfg.vision_cfg", "mlp_ratio", 4.9231),
        ("model_cfg.vision_cfg", "qk_norm", True),
        ("model_cfg.vision_cfg", "norm_kwargs", {"eps": 1e-6}),
        ("model_cfg.vision_cfg", "invented", 1),
        ("model_cfg.text_cfg", "hf_model_name", "roberta-base"),
        ("model_cfg.text_cfg", "hf_tokenizer_name", "bert-base-uncased"),
        ("model_cfg.text_cfg", "proj_bias", True),
        ("model_cfg.text_cfg", "proj_type", "none"),
        ("model_cfg.text_cfg", "no_causal_mask", True),
        ("model_cfg.text_cfg", "embed_cls", True),
        ("model_cfg.text_cfg", "pool_type", "last"),
        ("model_cfg.text_cfg", "act_kwargs", {"approximate": "tanh"}),
        ("model_cfg.text_cfg", "tokenizer_kwargs", {"clean": "canonicalize"}),
    ],
)
def test_what_the_model_cannot_follow_is_refused_by_name(folder, section, key, value):
    with pytest.raises(UserError, match=f"open_clip_config.json: {section}.{key} is ") as error:
        weights.read(folder(changed(section, **{key: value})))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "section, keys, message",
    [
        ("model_cfg", {"embed_dim": None}, "model_cfg.embed_dim is None, a whole number expected"),
        ("model_cfg", {"embed_dim": "8"}, "model_cfg.embed_dim is '8'"),
        ("model_cfg", {"quick_gelu": "false"}, "quick_gelu is 'false'"),
        ("model_cfg", {"vision_cfg": "ViT"}, "vision_cfg is 'ViT'"),
        ("model_cfg.vision_cfg", {"image_size": [32, 48]}, r"image_size is \[32, 48\]"),
        ("model_cfg.vision_cfg", {"head_width": 60}, "head_width is 60, which does not divide width 128"),
        ("model_cfg.vision_cfg", {"layers": 10**9}, "image layers: 1000000000 should be at most"),
        ("model_cfg.vision_cfg", {"layers": [1, 2, "x", 1]}, "whole numbers expected"),
        ("model_cfg.vision_cfg", {"layers": [1, 2]}, "stages"),
        ("model_cfg.text_cfg", {"width": True}, "text_cfg.width is True"),
        ("model_cfg.text_cfg", {"pool_type": "eos", "eos_id": 100}, "end_token: 100 is outside of vocab_size=100"),
        ("preprocess_cfg", {"mean": [0.5, 0.5]}, "mean is .*three numbers expected"),
        ("preprocess_cfg", {"std": [0.5, "a", 0.5]}, "std is"),
        ("preprocess_cfg", {"interpolation": "random"}, "interpolation: 'random' should be"),
        ("preprocess_cfg", {"resize_mode": "longest"}, "resize_mode: 'longest' should be"),
        ("preprocess_cfg", {"mode": "L"}, "mode is 'L'"),
    ],
)
def test_wrong_values_are_refused_by_name(folder, section, keys, message):
    with pytest.raises(UserError, match=message) as error:
        weights.read(folder(changed(section, **keys)))
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_their_config_are_named(folder):
    path = folder(changed("model_cfg.vision_cfg", patch_size=8))
    with pytest.raises(UserError, match=r"visual.conv1.weight is \[128, 3, 16, 16\], \[128, 3, 8, 8\] expected"):
        weights.read(path)


def test_the_activation_is_the_config_s_and_nobody_may_say_another(folder, tmp_path, foreign):
    config = changed("model_cfg")
    del config["model_cfg"]["quick_gelu"]
    path = folder(config)
    assert weights.read(path).model.activation == weights.read(path, activation="gelu").model.activation == "gelu"
    with pytest.raises(UserError, match="says gelu, .* quick_gelu"):
        weights.read(path, activation="quick_gelu")
    (path / "open_clip_model.safetensors").unlink()
    weights.write("openai", path / "open_clip_pytorch_model.bin", foreign("vit"))
    with pytest.raises(UserError, match="says gelu, .*open_clip_pytorch_model.bin computes quick_gelu"):
        weights.read(path)


def test_a_folder_without_config_is_a_bare_file(folder, foreign):
    path = folder(config=None)
    with pytest.raises(UserError, match="does not say which activation"):
        weights.read(path)
    found = weights.read(path, activation="gelu")
    assert found.format == "open_clip" and found.model.activation == "gelu"
    assert_same(found.arrays, foreign("vit").arrays)


def test_preprocessing_is_read(folder):
    found = weights.read(folder(changed("preprocess_cfg", mean=0.5, std=[0.5, 0.5, 0.25], resize_mode="squash")))
    image = found.model.image
    assert (image.mean, image.std, image.resize_mode) == ((0.5,) * 3, (0.5, 0.5, 0.25), "squash")


def test_the_absence_of_preprocessing_is_said(folder):
    found = weights.read(folder({"model_cfg": VIT["model_cfg"]}))
    assert any("no preprocess_cfg in open_clip_config.json: CLIP's own" in note for note in found.notes)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_written_folder_is_read_back_bit_equal_whatever_the_model(tmp_path, foreign, kind):
    given = foreign(kind)
    model = dataclasses.replace(
        given.model,
        activation="gelu",
        image=dataclasses.replace(
            given.model.image, heads=8, mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bilinear", resize_mode="squash"
        ),
        text=dataclasses.replace(given.model.text, heads=4, end_token=7),
    )
    path = tmp_path / "new"
    weights.write("open_clip", path, given._replace(model=model))
    assert {file.name for file in path.iterdir()} == {"open_clip_config.json", "open_clip_model.safetensors"}
    found = weights.read(path)
    assert found.model == model
    assert_same(found.arrays, given.arrays)


def test_a_written_file_has_the_release_s_keys(tmp_path, release, foreign):
    weights.write("open_clip", tmp_path / "new", foreign("resnet"))
    found = safetensors.read(tmp_path / "new" / "open_clip_model.safetensors")
    assert found.keys() == release("resnet").keys()
    assert all(np.array_equal(found[key], x) for key, x in release("resnet").items())


@pytest.mark.parametrize("name", ["RN50", "RN50x4", "RN50x64", "ViT-B/32", "ViT-L/14@336px"])
def test_a_model_s_config_is_that_of_open_clip(tmp_path, foreign, name, monkeypatch):
    """Sizes as open_clip's model_configs state them."""
    monkeypatch.setattr(safetensors, "write", lambda *_: None)
    open_clip.write(tmp_path / "new", foreign("vit")._replace(model=preset(name)))
    config = json.loads((tmp_path / "new" / "open_clip_config.json").read_text())
    vision, text = config["model_cfg"]["vision_cfg"], config["model_cfg"]["text_cfg"]
    assert (vision["image_size"], vision["layers"], vision["width"], vision["head_width"], vision["patch_size"]) == {
        "RN50": (224, [3, 4, 6, 3], 64, 64, None),
        "RN50x4": (288, [4, 6, 10, 6], 80, 64, None),
        "RN50x64": (448, [3, 15, 36, 10], 128, 64, None),
        "ViT-B/32": (224, 12, 768, 64, 32),
        "ViT-L/14@336px": (336, 24, 1024, 64, 14),
    }[name]
    assert "pool_type" not in text and config["model_cfg"]["quick_gelu"] is True
    assert open_clip.model_config(config, "x") == preset(name)


def test_a_folder_without_weights_is_refused(folder):
    path = folder()
    (path / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights, expected one of open_clip_model.safetensors"):
        weights.read(path)


def test_another_tokenizer_is_refused(folder):
    path = folder()
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    with pytest.raises(UserError, match="tokenizer_class is 'T5Tokenizer'; this program reads CLIP's tokenizer only"):
        weights.read(path)


def test_a_logit_bias_is_written_and_read_back(tmp_path, foreign):
    given = foreign("vit")
    given = given._replace(arrays={**given.arrays, "logit_bias": np.float32(-12.5)})
    weights.write("open_clip", tmp_path / "new", given)
    assert json.loads((tmp_path / "new" / "open_clip_config.json").read_text())["model_cfg"]["init_logit_bias"] == -10
    assert safetensors.read(tmp_path / "new" / "open_clip_model.safetensors")["logit_bias"].shape == ()
    assert_same(weights.read(tmp_path / "new").arrays, given.arrays)


@pytest.mark.parametrize("format", ["openai", "flax", "huggingface"])
def test_a_format_without_a_logit_bias_leaves_it_out_and_says_so(tmp_path, foreign, format, capsys):
    given = foreign("vit")
    weights.write(format, tmp_path / "new", given._replace(arrays={**given.arrays, "logit_bias": np.float32(-12.5)}))
    assert f"{format} holds no logit_bias" in capsys.readouterr().err
    found = weights.read(tmp_path / "new", activation="quick_gelu")
    assert_same(found.arrays, given.arrays)
