"""Resolving: a config is frozen as it stands, and every mistake names its key."""

import pytest

from clipjax.config import (
    as_configdict,
    as_json,
    default_config,
    from_json,
    judge_devices,
    preset,
    preset_names,
    resolve,
)
from clipjax.config.resolve import split_sources
from clipjax.errors import UserError


@pytest.fixture
def config():
    made = default_config()
    made.total_steps = 10_000
    return made


@pytest.mark.parametrize("name", preset_names())
def test_resolving_the_configdict_of_a_config_gives_the_config_again(config, name):
    config.model.preset = name
    resolved = resolve(config)
    assert resolve(as_configdict(resolved)) == resolved
    assert from_json(as_json(resolved)) == resolved
    assert resolved.model == preset(name)


def test_a_key_beside_the_preset_changes_that_key_alone(config):
    config.model.preset = "ViT-B/16"
    config.model.image.layers = 3
    model = resolve(config).model
    assert (model.image.layers, model.image.patch_size, model.text) == (3, 16, preset("ViT-B/16").text)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.preset", "ViT-B/31", "model.preset: 'ViT-B/31' is none of .*did you mean 'ViT-B/32'"),
        (
            "model.image.patch_size",
            15,
            "model.image.patch_size|model.image.image_size: 224 does not divide by patch_size=15",
        ),
        ("model.text.heads", 7, "model.text.heads: 7 does not divide width=512"),
        ("model.image.stages", (3, 4, 6, 3), "model.image.stages: .3, 4, 6, 3. belong to kind='resnet'"),
        ("model.image.stages", (3, 4, 6.5, 3), "model.image.stages: .3, 4, 6.5, 3. should be a list of ints"),
        ("mesh.tensor", 5, "model.image.heads: 12 does not divide by mesh.tensor=5"),
        ("mesh.data", 7, "batch_size: 256 does not divide by mesh.data=7"),
        ("mesh.fsdp", 0, "mesh.fsdp: 0 should be at least 1"),
        ("precision", "float8", "precision: 'float8' should be 'float32' or 'bfloat16'"),
        ("remat", "all", "remat: 'all' should be"),
        ("optimizer.b1", 1.0, "optimizer.b1: 1.0 should lie in"),
        ("optimizer.learning_rate", -1.0, "optimizer.learning_rate: -1.0 should be at least 0"),
        ("data.augmentation", "flip", "data.augmentation: 'flip' should be"),
        ("data.crop_scale", (0.5, 0.2), "data.crop_scale"),
        ("data.train", 3, "data.train: 3 should be a path, a glob or a list of them"),
        ("total_samples", 5, "total_steps, total_samples: both are set"),
        ("total_steps", None, "total_steps, total_samples: neither is set"),
        ("total_steps", 0, "total_steps: 0 should be at least 1"),
        ("evaluate_every", 5, "evaluate_every: data.evaluate names no folder"),
        ("loss.kind", "hinge", "loss.kind: 'hinge' should be 'softmax' or 'sigmoid'"),
        ("micro_batch_size", 3, "micro_batch_size: 3 does not divide batch_size=256"),
        ("dropout", -0.1, "dropout: -0.1 should be a share of numbers"),
        ("patch_dropout", 1.0, "patch_dropout: 1.0 should be a share of the patches"),
        ("batch_size", 0, "batch_size: 0 should be at least 1"),
        ("model.text.end_token", 2, "model.text.end_token: 2 ends no text.* ends them with 49407"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_its_key(config, key, value, said):
    node = config
    *folders, name = key.split(".")
    for folder in folders:
        node = node[folder]
    with node.ignore_type():
        node[name] = value
    with pytest.raises(UserError, match=said) as caught:
        resolve(config)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_that_the_tokenizer_s_ids_pass_is_refused(config):
    config.model.text.update(vocab_size=1000, end_token=999)
    with pytest.raises(UserError, match="model.text.vocab_size: 1000 is less than the 49408 of CLIP's tokenizer"):
        resolve(config)


def test_all_mistakes_are_told_together_and_unknown_keys_get_a_suggestion(config):
    config.data.wrkers = 3
    config.model.image.layer = 2
    with pytest.raises(
        UserError, match="model.image.layer: no such key .did you mean model.image.layers.*data.wrkers: no such"
    ):
        resolve(config)


def test_total_samples_become_steps(config):
    config.total_steps = None
    config.total_samples = 256 * 3000 + 1
    assert resolve(config).total_steps == 3001


def test_a_warm_up_longer_than_the_run_is_shortened_with_a_line(config, capsys):
    config.total_steps = 100
    assert resolve(config).optimizer.warmup_steps == 10
    assert "optimizer.warmup_steps: 2000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "parts"),
    [("a*.tar", ["a*.tar"]), ("a{1,2}.tar, b", ["a{1,2}.tar", "b"]), ("", []), ("{00..03}.tar,", ["{00..03}.tar"])],
)
def test_commas_part_sources_outside_of_braces(text, parts):
    assert split_sources(text) == parts


@pytest.mark.parametrize(
    ("mesh", "devices", "said"),
    [
        ({"data": -1, "fsdp": 3}, 8, "fsdp=3 x tensor=1 does not divide the 8 devices"),
        ({"data": 2, "fsdp": 2}, 8, "needs 4 devices, but 8 are here"),
        ({"data": -1}, 7, "batch_size: 256 does not divide by mesh.data=7"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(config, mesh, devices, said):
    config.mesh.update(mesh)
    with pytest.raises(UserError, match=said):
        judge_devices(resolve(config), devices)


def test_json_of_something_else_is_refused():
    with pytest.raises(UserError, match="x.json: not a configuration"):
        from_json('{"seeds": 1}', "x.json")
