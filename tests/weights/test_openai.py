"""The release's names: features of its own code, sizes told from shapes, files in and out."""

import jax
import numpy as np
import pytest
from flax import nnx

from clipjax import weights
from clipjax.config import preset
from clipjax.errors import UserError
from clipjax.models.clip import CLIP
from clipjax.models.stacking import stack_layers
from clipjax.trees import flatten, unflatten
from clipjax.weights import openai, table, torch_file, torch_write

# Printed by openai/CLIP's own code in float64 for the numbers that `release` fills in; float32 differs by some 7e-6.
TEXT = [
    [-10.33739363, 0.110730461, 3.628114373, 1.673544129, -7.401042963, -1.915190378, 1.021927188, -12.755335545],
    [-1.957874413, 5.135415118, 6.148665716, 4.804684809, -2.578437821, 5.208953795, 5.515171822, 2.058090596],
]
IMAGES = {
    "vit": [
        [-1.860853941, -0.232089002, 0.985497209, -10.411044032, -9.179213611, 2.739329572, 1.036143371, 1.784078826],
        [-1.931849322, -3.22116651, 2.868413633, -2.944196211, -2.697524855, -2.376195383, 4.216825199, 12.406530913],
    ],
    "resnet": [
        [-2.588852975, -0.894181341, 0.910185113, -9.943196364, 1.074240774, -8.443244901, 4.350986585, 1.240768631],
        [-2.950327415, -1.095381367, 1.024970643, -9.841276266, 0.999776625, -8.016342948, 4.462806667, 1.270731268],
    ],
}
LOGITS = {
    "vit": [[2.466634132, 0.45486144], [-5.464336876, 2.626463628]],
    "resnet": [[0.552635842, -4.949290398], [0.768094747, -4.697494446]],
}


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_features_are_those_of_the_release(foreign, kind):
    model = module(foreign(kind))
    size = foreign(kind).model.image.image_size
    pixels = np.random.RandomState(1).uniform(-1, 1, (2, 3, size, size)).transpose(0, 2, 3, 1).astype(np.float32)
    tokens = np.array([[98, 5, 7, 99, 0, 0, 0, 0, 0, 0], [98, *range(1, 9), 99]], np.int32)
    image, text, features = jax.jit(
        lambda: (model.encode_image(pixels), model.encode_text(tokens), model(pixels, tokens))
    )()
    np.testing.assert_allclose(image, IMAGES[kind], atol=5e-5)
    np.testing.assert_allclose(text, TEXT, atol=5e-5)
    np.testing.assert_allclose(features.logit_scale * features.image @ features.text.T, LOGITS[kind], atol=5e-5)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_written_file_is_the_release_s_state_dict_and_comes_back_bit_equal(tmp_path, release, foreign, kind):
    path = tmp_path / "new" / "model.pt"
    weights.write("openai", path, foreign(kind))
    written = torch_file.read(path).tensors
    extras = ["input_resolution", "context_length", "vocab_size"]
    keys = list(release(kind))
    assert list(written) == keys[:3] + extras + keys[3:]
    assert all(
        np.array_equal(written[key], release(kind)[key]) and written[key].dtype == release(kind)[key].dtype
        for key in keys
    )
    size = foreign(kind).model.image.image_size
    assert [int(written[key]) for key in extras] == [size, 10, 100]
    back = weights.read(path)
    assert back.model == foreign(kind).model and back.format == "openai" and back.name == str(path)
    assert_same(back.arrays, foreign(kind).arrays)
    assert any("preprocessing" in note for note in back.notes)


def test_sizes_of_the_nine_models_are_told_from_their_shapes():
    for name in ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"):
        model = preset(name)
        hollow = {
            path: np.broadcast_to(np.float32(0), shape) for path, shape in table.expected_shapes(model, name).items()
        }
        tensors = table.write(openai.TABLE, hollow)
        counters = sum(key.endswith("running_var") for key in tensors)
        assert len(tensors) + counters == {
            "RN50": 489, "RN101": 795, "RN50x4": 669, "RN50x16": 921, "RN50x64": 1353, "ViT-B/32": 302, "ViT-B/16": 302,
            "ViT-L/14": 446, "ViT-L/14@336px": 446,
        }[name]  # fmt: skip
        assert openai.infer(tensors, "quick_gelu", name) == model


def test_heads_of_open_clip_s_vit_h_are_80_wide_and_guesses_are_told(tmp_path, release):
    """open_clip's ViT-H-14.json: vision width 1280, head_width 80."""
    tensors = dict(release("vit"))
    shapes = {
        "visual.conv1.weight": (1280, 3, 14, 14),
        "visual.positional_embedding": (257, 1280),
        "positional_embedding": (77, 1024),
        "token_embedding.weight": (49408, 1024),
        "text_projection": (1024, 1024),
    }
    tensors |= {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    found = openai.infer(tensors, "gelu", "h.bin")
    assert (found.image.heads, found.text.heads) == (16, 16)
    extras = {"input_resolution": np.array(224), "context_length": np.array(77), "vocab_size": np.array(49408)}
    assert openai.infer(tensors | extras, "quick_gelu", "h.pt").image.heads == 20  # as the release's code has it
    torch_write.write(tmp_path / "a.bin", release("vit"))
    notes = weights.read(tmp_path / "a.bin", activation="gelu").notes
    assert any("does not say how many heads attend" in note for note in notes)


def test_a_bare_state_dict_needs_to_be_told_its_activation(tmp_path, release, foreign):
    torch_write.write(tmp_path / "a.bin", release("vit"))
    with pytest.raises(UserError, match=r"a\.bin: does not say which activation.*quick_gelu"):
        weights.read(tmp_path / "a.bin")
    back = weights.read(tmp_path / "a.bin", activation="gelu")
    assert back.model.activation == "gelu"
    assert_same(back.arrays, foreign("vit").arrays)


def test_the_release_s_extras_settle_the_activation(tmp_path, foreign):
    weights.write("openai", tmp_path / "a.pt", foreign("vit"))
    with pytest.raises(UserError, match="computes quick_gelu, activation='gelu' was asked for"):
        weights.read(tmp_path / "a.pt", activation="gelu")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module."])
def test_a_training_checkpoint_is_read_through_its_wrappers(torch_zip, spec, release, foreign, prefix):
    specs, storages = described(spec, release("vit"), prefix)
    path = torch_zip(
        {"epoch": 3, "name": "run", "state_dict": specs, "optimizer": {"lr": 1e-3, "betas": [0.9]}}, storages
    )
    assert_same(weights.read(path, activation="gelu").arrays, foreign("vit").arrays)


def test_a_custom_text_tower_s_keys_are_the_plain_ones_with_a_prefix(tmp_path, release, foreign):
    custom = {("" if key.startswith(("visual", "logit")) else "text.") + key: x for key, x in release("vit").items()}
    torch_write.write(tmp_path / "a.bin", custom)
    assert_same(weights.read(tmp_path / "a.bin", activation="gelu").arrays, foreign("vit").arrays)
    torch_write.write(tmp_path / "b.bin", custom | {"positional_embedding": release("vit")["positional_embedding"]})
    with pytest.raises(UserError, match="positional_embedding is there under two names"):
        weights.read(tmp_path / "b.bin", activation="gelu")


@pytest.mark.parametrize("gelu, activation", [("QuickGELU", "quick_gelu"), ("GELU", "gelu"), (None, "quick_gelu")])
def test_a_torchscript_archive_is_read_by_module_names(torch_zip, spec, release, foreign, gelu, activation):
    specs, storages = described(spec, release("vit"))
    top = {"training": False}
    for key, item in specs.items():
        node = top
        *parents, name = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = item
    if gelu:
        top["transformer"]["resblocks"]["0"]["mlp"]["gelu"] = {}
    path = torch_zip(modules(spec, top, gelu), storages, script=True)
    back = weights.read(path)
    assert back.model.activation == activation
    assert_same(back.arrays, foreign("vit").arrays)
    with pytest.raises(UserError, match="was asked for"):
        weights.read(path, activation={"gelu": "quick_gelu", "quick_gelu": "gelu"}[activation])


def test_half_precision_becomes_float32(torch_zip, spec, release):
    halves = {key: x.astype(np.float16) if x.dtype == np.float32 else x for key, x in release("vit").items()}
    specs, storages = described(spec, halves)
    arrays = weights.read(torch_zip(specs, storages), activation="gelu").arrays
    assert {x.dtype for x in arrays.values()} == {np.dtype(np.float32)}
    assert np.array_equal(arrays["text/token_embedding"], halves["token_embedding.weight"].astype(np.float32))


def test_the_scale_may_be_a_list_of_one_and_masks_are_left_out(tmp_path, release, foreign):
    changed = release("vit") | {"attn_mask": np.zeros((10, 10), np.float32)}
    changed["logit_scale"] = changed["logit_scale"].reshape(1)
    torch_write.write(tmp_path / "a.bin", changed)
    assert_same(weights.read(tmp_path / "a.bin", activation="gelu").arrays, foreign("vit").arrays)


def test_everything_wrong_with_a_file_is_said_at_once(tmp_path, release):
    changed = dict(release("vit"))
    del changed["transformer.resblocks.0.ln_1.bias"], changed["ln_final.bias"]
    changed["visual.ln_post.weight"] = np.zeros(127, np.float32)
    changed["transformer.resblocks.1.mlp.c_fc.bias"] = np.zeros(512, np.int64)
    changed["logit_shift"] = np.zeros((), np.float32)
    torch_write.write(tmp_path / "a.bin", changed)
    with pytest.raises(UserError) as error:
        weights.read(tmp_path / "a.bin", activation="gelu")
    assert str(error.value).startswith(f"{tmp_path}/a.bin: ") and "\n" not in str(error.value)
    for row in (
        "transformer.resblocks.0.ln_1.bias is missing, [128] expected",
        "ln_final.bias is missing",
        "visual.ln_post.weight is [127], [128] expected",
        "transformer.resblocks.1.mlp.c_fc.bias is int64, a float type expected",
        "logit_shift [] is not part of the model",
    ):
        assert row in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: {"bert.pooler.weight": x["ln_final.weight"]}, "not a CLIP"),
        (lambda x: {"text_model.a": x["ln_final.weight"], **x}, "Hugging Face"),
        (
            lambda x: {key: value for key, value in x.items() if key != "visual.conv1.weight"},
            "visual.conv1.weight is m",
        ),
        (lambda x: x | {"visual.conv1.weight": np.zeros((128, 3), np.float32)}, r"\[128, 3\], 4 axes expected"),
        (lambda x: x | {"visual.conv1.weight": np.zeros((96, 3, 16, 16), np.float32)}, "96: not a multiple of 64"),
        (lambda x: x | {"transformer.resblocks.99999999.ln_1.bias": x["ln_final.bias"]}, "should be at most 1024"),
        (
            lambda x: x | {"visual.positional_embedding": np.zeros((8, 128), np.float32)},
            r"is \[8, 128\], \[5, 128\] ex",
        ),
        (lambda x: {k: v for k, v in x.items() if ".resblocks.1." not in k}, "."),
    ],
)
def test_what_is_no_clip_is_refused_in_one_line(tmp_path, release, change, message):
    torch_write.write(tmp_path / "a.bin", change(release("vit")))
    if message == ".":  # one layer fewer is a model too
        assert weights.read(tmp_path / "a.bin", activation="gelu").model.text.layers == 1
        return
    with pytest.raises(UserError, match=message) as error:
        weights.read(tmp_path / "a.bin", activation="gelu")
    assert "\n" not in str(error.value) and len(str(error.value)) < 3000


def test_what_the_release_s_code_cannot_compute_is_not_written(tmp_path, foreign):
    from dataclasses import replace

    model = foreign("vit").model
    other = replace(
        model, activation="gelu", image=replace(model.image, mean=(0.5,) * 3), text=replace(model.text, heads=4)
    )
    with pytest.raises(UserError, match="activation is 'gelu'.*image.mean is .*text.heads is 4, the release has 2"):
        weights.write("openai", tmp_path / "a.pt", foreign("vit")._replace(model=other))
    assert not list(tmp_path.iterdir())


def described(spec, tensors, prefix=""):
    """Specs and storages of tensors for `torch_zip`."""
    kinds = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}
    specs = {}
    for index, (key, x) in enumerate(tensors.items()):
        stride = tuple(step // x.itemsize for step in x.strides)
        specs[prefix + key] = spec(str(index), x.size, 0, x.shape, stride, kinds[x.dtype.name])
    return specs, {str(index): x.tobytes() for index, x in enumerate(tensors.values())}


def modules(spec, node, gelu, path="Multimodal"):
    """Nested dicts as TorchScript objects, each of a class of its own."""
    name = f"__torch__.model.___torch_mangle_7 {gelu if path == 'gelu' else 'M' + path}"
    return spec.module(
        name, {key: modules(spec, item, gelu, key) if isinstance(item, dict) else item for key, item in node.items()}
    )


def module(given):
    """The CLIP of Weights, in evaluation mode."""
    graph, params, stats = nnx.split(nnx.eval_shape(lambda: CLIP(given.model)), nnx.Param, nnx.BatchStat)
    stacked = stack_layers(given.arrays)
    halves = [{path: stacked[path] for path in flatten(half)} for half in (params, stats)]
    model = nnx.merge(graph, *map(unflatten, halves))
    model.eval()
    return model


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for path, x in expected.items():
        assert found[path].dtype == np.float32 and found[path].shape == x.shape and np.array_equal(found[path], x), path
