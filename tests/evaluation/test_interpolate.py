"""Interpolation: the ends are the checkpoints themselves, and what lies between is the mean of their numbers."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from clipjax.bundle import Bundle, abstract_module, load, merge
from clipjax.config import Config, LossConfig, preset
from clipjax.errors import UserError
from clipjax.evaluation import interpolate as module
from clipjax.evaluation.interpolate import interpolate, mixtures, parse_alphas
from clipjax.evaluation.suite import evaluate_live
from clipjax.models.initialise import draw
from clipjax.trees import unflatten


def bundle_of(seed, name="tiny", kind="softmax", **changes):
    model = dataclasses.replace(preset(name), **changes)
    precision, loss = "bfloat16" if seed else "float32", LossConfig(kind)
    config = Config(total_steps=9000, model=model, precision=precision, loss=loss)
    params, stats = (unflatten(draw(half, seed)) for half in abstract_module(config)[1:])
    stats = jax.tree.map(lambda leaf: leaf + np.float32(seed), stats)
    return Bundle(merge(config, params, stats), config, name=f"seed {seed}")


@pytest.fixture(scope="module")
def ends():
    return bundle_of(0), bundle_of(1)


def scores(record, alpha):
    return [{k: v for k, v in row.items() if k != "alpha"} for row in record["results"] if row["alpha"] == alpha]


def test_the_curve_starts_and_ends_at_the_checkpoints_own_scores(ends, class_folder, retrieval_folder, tmp_path):
    data = [class_folder, retrieval_folder]
    record = interpolate(*ends, data, tmp_path / "out", alphas=(1, 0.5, 0))
    assert json.loads((tmp_path / "out/report.json").read_text()) == record
    for alpha, bundle in zip((0.0, 1.0), ends, strict=True):
        own = [result.row() for result in evaluate_live(bundle, data, tmp_path, write=False)]
        assert scores(record, alpha) == own
    assert [row["metric"] for row in scores(record, 0.5)] == [row["metric"] for row in scores(record, 0.0)]
    assert (record["zero"], record["fine"]) == ("seed 0", "seed 1")
    assert "<svg" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize("name", ["tiny", "tiny-resnet"])
def test_between_the_ends_lies_their_weighted_mean_running_averages_too(name, tmp_path):
    zero, fine = bundle_of(0, name), bundle_of(1, name)
    ((_, low), (_, mixed), (_, high)) = mixtures(zero, fine, (0, 0.25, 1))
    assert low is zero and high is fine
    found, theirs, ours = (bundle.weights().arrays for bundle in (mixed, zero, fine))
    assert any(path.endswith("bn1/mean") for path in found) == (name == "tiny-resnet")
    for path, leaf in found.items():
        np.testing.assert_allclose(leaf, 0.75 * theirs[path] + 0.25 * ours[path], rtol=1e-6, atol=1e-7, err_msg=path)
    mixed.save(tmp_path / "mixed")
    assert load(tmp_path / "mixed").fingerprint == mixed.fingerprint


@pytest.mark.parametrize("kinds", [("softmax", "sigmoid"), ("sigmoid", "softmax")])
def test_the_bias_of_one_loss_alone_is_that_of_the_second_checkpoint(kinds):
    zero, fine = (bundle_of(seed, kind=kind) for seed, kind in enumerate(kinds))
    ((_, mixed),) = mixtures(zero, fine, (0.25,))
    found, theirs = mixed.weights().arrays, fine.weights().arrays
    assert found.keys() == theirs.keys() and ("logit_bias" in found) == (kinds[1] == "sigmoid")
    np.testing.assert_array_equal(found.get("logit_bias", 0), theirs.get("logit_bias", 0))


def test_prompts_are_embedded_with_the_mixed_text_tower(ends):
    ((_, mixed),) = mixtures(*ends, (0.5,))
    alone = Bundle(mixed.model, mixed.config)
    rows = [bundle.encode_text(["a red picture"]) for bundle in (mixed, alone, *ends)]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert not np.allclose(rows[0], rows[2], atol=1e-3) and not np.allclose(rows[0], rows[3], atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"activation": "gelu"}, "model.activation is quick_gelu and gelu"),
        ({"embed_dim": 48}, "model.embed_dim is 32 and 48"),
    ],
)
def test_another_model_is_refused(ends, changes, said):
    with pytest.raises(UserError, match=said):
        next(mixtures(ends[0], bundle_of(1, **changes), (0.5,)))


@pytest.mark.parametrize("alphas", [(0.5, 1.1), (-0.1,), (float("nan"),), ()])
def test_alphas_lie_between_the_ends(ends, alphas, tmp_path):
    with pytest.raises(UserError, match="alphas"):
        interpolate(*ends, tmp_path, tmp_path / "out", alphas=alphas)


def test_alphas_are_read_from_a_list():
    assert parse_alphas("1,0.5,0") == [0.0, 0.5, 1.0]
    for text in ("half", "0,,1", "0,2"):
        with pytest.raises(UserError, match="alphas"):
            parse_alphas(text)


def test_eleven_models_are_the_default():
    assert module.ALPHAS == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
