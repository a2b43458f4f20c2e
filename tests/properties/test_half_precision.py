"""Runs with half-precision state: resumed to the bit, moved to another mesh or other dtypes, float32 for the world."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clipjax
from clipjax import checkpoints, weights
from clipjax.config import MeshConfig, resolve
from clipjax.parallel.mesh import make_mesh
from clipjax.training.feed import Feed
from clipjax.training.loop import Stopped, train
from clipjax.training.optimizer import make_optimizer
from clipjax.training.state import abstract_state
from clipjax.trees import flatten

RECIPES = {"paper": ("bfloat16", "bfloat16", "bfloat16"), "float16": ("float16", "float16", "float32")}


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """A run takes all devices there are; here that is one."""
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: devices)
    monkeypatch.setattr(jax, "device_count", lambda *_: 1)


def choose(config, precision, moments, text):
    config.precision, config.optimizer.moments_dtype, config.model.text.weights_dtype = precision, moments, text
    return config


def state_of(config, workdir, mesh):
    config = resolve(config)
    saver = checkpoints.Checkpoints(workdir / "checkpoints", config)
    state = saver.restore(saver.latest_step(), abstract_state(config, make_optimizer(config), mesh))
    saver.close()
    return state


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_stopped_run_ends_bit_for_bit_and_its_model_is_float32(tiny, tmp_path, monkeypatch, recipe):
    choose(tiny, *RECIPES[recipe])
    every, eight = make_mesh(MeshConfig(1, 1, 1), jax.devices()), None
    whole = train(tiny, tmp_path / "whole")
    counted, taken = iter(range(100)), Feed.next
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="step 3"):
        patch.setattr(Feed, "next", lambda self, asked: taken(self, next(counted) == 3))
        train(tiny, tmp_path / "parts")
    train(tiny, tmp_path / "parts")
    one, other = (state_of(tiny, tmp_path / name, every) for name in ("whole", "parts"))
    monkeypatch.undo()
    eight = state_of(tiny, tmp_path / "whole", make_mesh(MeshConfig(2, 2, 2)))
    for path, leaf in flatten(one).items():
        for found in (other, eight):
            assert flatten(found)[path].dtype == leaf.dtype
            np.testing.assert_array_equal(flatten(found)[path], leaf, path)
    assert [row["loss"] for row in rows(tmp_path / "whole")] == [row["loss"] for row in rows(tmp_path / "parts")]
    assert all(("loss_scale" in row) == (recipe == "float16") for row in rows(tmp_path / "whole"))
    loaded = clipjax.load(tmp_path / "whole")
    assert loaded.fingerprint == whole.fingerprint
    arrays = loaded.weights().arrays
    assert {leaf.dtype for leaf in arrays.values()} == {np.dtype("float32")}
    loaded.save(tmp_path / "model.pt", "openai")
    exported = weights.read(tmp_path / "model.pt", activation="quick_gelu").arrays
    for path, leaf in arrays.items():
        np.testing.assert_array_equal(exported[path], leaf, path)
    kernel = arrays["text/projection/kernel"]
    assert np.array_equal(kernel.astype(jnp.bfloat16).astype(np.float32), kernel) == (recipe == "paper")


@pytest.mark.slow
def test_a_run_goes_on_in_other_dtypes_and_says_so(tiny, tmp_path, capsys):
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices())
    tiny.total_steps = 2
    train(tiny, tmp_path)
    before = state_of(tiny, tmp_path, mesh)
    tiny.total_steps = 3
    tiny.optimizer.learning_rate = 0.0
    train(choose(tiny, "float16", "float16", "bfloat16"), tmp_path)
    assert "optimizer/moments_dtype float32 -> float16" in capsys.readouterr().err
    after = state_of(tiny, tmp_path, mesh)
    assert after.loss_scale.scale in (2**16, 2**15)  # as it overflowed or not
    for path, leaf in flatten(before.params).items():
        found = np.asarray(flatten(after.params)[path], np.float32)
        np.testing.assert_allclose(found, leaf, rtol=2.0**-7, err_msg=path)
    tiny.total_steps = 4
    train(choose(tiny, "float32", "float32", "float32"), tmp_path)
    assert state_of(tiny, tmp_path, mesh).loss_scale is None
