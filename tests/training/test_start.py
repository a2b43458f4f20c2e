"""The start: weights of another checkpoint, fitted where that is possible and refused by name where it is not."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from flax import nnx

from clipjax import checkpoints, weights
from clipjax.bundle import abstract_module, load
from clipjax.config import Config, LossConfig, MeshConfig, preset
from clipjax.errors import UserError
from clipjax.models.initialise import draw
from clipjax.parallel.mesh import make_mesh
from clipjax.training.optimizer import make_optimizer
from clipjax.training.start import check_start, start_state
from clipjax.training.state import init_state
from clipjax.trees import flatten, unflatten

ONE = make_mesh(MeshConfig(), jax.devices()[:1])


def changed(model, *, image=None, text=None, **changes):
    parts = {"image": dataclasses.replace(model.image, **(image or {}))}
    parts["text"] = dataclasses.replace(model.text, **(text or {}))
    return dataclasses.replace(model, **parts, **changes)


def config_of(name="tiny", **changes):
    return Config(total_steps=9000, model=preset(name), **changes)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """source(name): an orbax checkpoint of that preset with numbers of seed 3."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("source") / name
            config = config_of(name)
            params, stats = (unflatten(draw(half, 3)) for half in abstract_module(config)[1:])
            stats = jax.tree.map(lambda leaf: leaf + np.float32(0.25), stats)
            checkpoints.write(made[name], config, params, stats)
        return str(made[name])

    return make


def start(config, mesh=ONE):
    state = start_state(config, make_optimizer(config), mesh)
    return state, flatten((state.params, state.batch_stats))


@pytest.mark.parametrize("name", ["tiny", "tiny-resnet"])
@pytest.mark.parametrize("mesh", [ONE, make_mesh(MeshConfig(2, 4, 1))], ids=["one", "eight"])
def test_a_run_starts_at_the_weights_of_a_checkpoint(source, name, mesh, capsys):
    state, found = start(config_of(name, init_from=source(name), seed=1), mesh)
    saved = checkpoints.read(source(name))
    expected = flatten((saved.params, saved.batch_stats))
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, path)
    assert int(state.step) == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))
    assert f"init_from: starting from {source(name)}" in capsys.readouterr().err


def test_without_a_source_it_is_drawn():
    config = config_of(seed=4)
    for one, other in zip(
        *map(jax.tree.leaves, (start(config)[0], init_state(config, make_optimizer(config), ONE))), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("format", ["openai", "open_clip", "flax"])
def test_weights_of_other_programs_are_a_start_too(source, format, tmp_path):
    load(source("tiny")).save(tmp_path / "other", format)
    ours, theirs = (start(config_of(init_from=str(place)))[1] for place in (source("tiny"), tmp_path / "other"))
    for path, leaf in ours.items():
        np.testing.assert_array_equal(theirs[path], leaf, path)


@pytest.mark.parametrize(
    ("name", "image", "path", "shape"),
    [
        ("tiny", {"image_size": 48}, "0/image/positional_embedding", (37, 64)),
        ("tiny-resnet", {"image_size": 96}, "0/image/pool/positional_embedding", (10, 256)),
    ],
)
def test_another_picture_size_and_context_are_fitted_and_said(source, name, image, path, shape, capsys):
    model = changed(preset(name), image=image, text={"context_length": 12})
    _, found = start(Config(total_steps=9000, model=model, init_from=source(name)))
    _, before = start(config_of(name, init_from=source(name)))
    assert found[path].shape == shape
    np.testing.assert_array_equal(found[path][0], before[path][0])
    np.testing.assert_array_equal(found["0/text/positional_embedding"], before["0/text/positional_embedding"][:12])
    for other in found.keys() - {path, "0/text/positional_embedding"}:
        np.testing.assert_array_equal(found[other], before[other], other)
    said = capsys.readouterr().err
    assert "bicubic" in said and "12 positions of 16 kept" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"image": {"width": 96, "heads": 3}, "embed_dim": 64},
            [
                "model.embed_dim is 32, the config says 64",
                "model.image.width is 64, the config says 96",
                "model.image.heads is 1, the config says 3",
                r"Set model.preset='tiny'\.",
            ],
        ),
        ({"image": {"mean": (0.5, 0.5, 0.5)}}, [r"model.image.mean is \(0.48145466, .*the config says \(0.5, 0.5"]),
        ({"image": {"interpolation": "bilinear"}}, ["model.image.interpolation is bicubic"]),
        ({"image": {"resize_mode": "squash"}}, ["model.image.resize_mode is shortest"]),
        (
            {"activation": "gelu", "embed_dim": 48},
            ["model.activation is quick_gelu, the config says gelu", "model.embed_dim is 32, the config says 48"],
        ),
    ],
)
def test_another_model_is_refused_with_all_that_differs(source, changes, said):
    config = Config(total_steps=9000, model=changed(preset("tiny"), **changes), init_from=source("tiny"))
    with pytest.raises(UserError) as error:
        start(config)
    assert "\n" not in str(error.value) and source("tiny") in str(error.value)
    for part in said:
        assert re.search(part, str(error.value))


def test_a_model_of_no_preset_is_met_key_by_key(tmp_path):
    model = changed(preset("tiny"), embed_dim=48)
    config = Config(total_steps=9000, model=model)
    _, params, stats = abstract_module(config)
    checkpoints.write(tmp_path / "odd", config, unflatten(draw(params, 0)), nnx.to_pure_dict(stats))
    with pytest.raises(UserError, match=r"Set model\.embed_dim=48\.$"):
        start(config_of(init_from=str(tmp_path / "odd")))


def test_an_activation_that_a_file_does_not_share_is_refused(source, tmp_path):
    bundle = load(source("tiny"))
    found = bundle.weights()
    gelu = found._replace(model=dataclasses.replace(found.model, activation="gelu"))
    weights.write("open_clip", tmp_path / "gelu", gelu)
    with pytest.raises(UserError, match="^init_from: .*gelu"):
        start(config_of(init_from=str(tmp_path / "gelu")))


def test_a_config_that_wants_a_source_says_so_before_anything_is_opened():
    with pytest.raises(UserError, match="--config.init_from=CHECKPOINT"):
        check_start(config_of(init_from=""))
    check_start(config_of())
    check_start(config_of(init_from="anything"))


def test_a_logit_bias_begins_at_minus_ten_for_the_sigmoid_loss_and_is_left_out_for_the_softmax(
    source, tmp_path, capsys
):
    sigmoid = config_of(init_from=source("tiny"), loss=LossConfig("sigmoid"))
    state, found = start(sigmoid)
    assert float(state.params["logit_bias"]) == -10 and "it has no logit_bias" in capsys.readouterr().err
    checkpoints.write(tmp_path / "sigmoid", sigmoid, state.params, state.batch_stats)
    assert float(load(tmp_path / "sigmoid").model.logit_bias[...]) == -10
    _, again = start(config_of(init_from=str(tmp_path / "sigmoid")))
    assert "its logit_bias is left out" in capsys.readouterr().err
    assert found.keys() - again.keys() == {"0/logit_bias"} and not again.keys() - found.keys()
