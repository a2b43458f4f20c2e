"""A run at an address ends as one in a folder ends, goes on from what is stored, and is complete or not there."""

import json

import fsspec
import jax
import numpy as np
import pytest

import clipjax
from clipjax import checkpoints
from clipjax.config import resolve
from clipjax.data import storage
from clipjax.errors import UserError
from clipjax.parallel.mesh import make_mesh
from clipjax.training.feed import Feed
from clipjax.training.loop import Stopped, train
from clipjax.training.optimizer import make_optimizer
from clipjax.training.state import abstract_state, init_state
from clipjax.training.stored import StoredCheckpoints, StoredRun
from clipjax.trees import flatten

URL = "memory://bucket/run"


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "_PAUSES", (0, 0))
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def make(config):
    """A config, a fresh state on all eight devices, and what it looks like."""
    config.mesh.data, config.mesh.fsdp, config.keep_checkpoints = 2, 4, 2
    config = resolve(config)
    mesh, optimizer = make_mesh(config.mesh), make_optimizer(config)
    return config, init_state(config, optimizer, mesh), abstract_state(config, optimizer, mesh)


@pytest.fixture
def made(tiny):
    return make(tiny)


def steps():
    return list(checkpoints.stored_steps(f"{URL}/checkpoints"))


@pytest.mark.parametrize("half", [False, True])
def test_a_state_comes_back_bit_for_bit_where_it_lay(tiny, half):
    if half:
        tiny.precision, tiny.optimizer.moments_dtype, tiny.model.text.weights_dtype = "float16", "float16", "bfloat16"
    config, state, abstract = make(tiny)
    saver = StoredCheckpoints(StoredRun(URL), config)
    assert saver.latest_step() is None
    saver.save(3, state)
    saver.close()
    found = StoredCheckpoints(StoredRun(URL), config).restore(3, abstract)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.sharding == other.sharding and one.dtype == other.dtype
    saved = checkpoints.read(URL)
    assert saved.step == 3 and saved.config == config
    for path, leaf in flatten(state.params).items():
        np.testing.assert_array_equal(flatten(saved.params)[path], leaf)


def test_the_newest_and_the_best_stay(made):
    config, state, _ = made
    saver = StoredCheckpoints(StoredRun(URL), config)
    for step, score in ((1, 0.5), (2, 0.9), (3, None), (4, 0.1), (5, 0.2)):
        saver.save(step, state, score)
    saver.close()
    assert steps() == [2, 4, 5]
    again = StoredCheckpoints(StoredRun(URL), config)
    again.save(6, state, 0.95)
    again.close()
    assert steps() == [5, 6]


def test_a_step_without_its_last_file_is_none(made, memory):
    config, state, _ = made
    saver = StoredCheckpoints(StoredRun(URL), config)
    for step in (1, 2):
        saver.save(step, state)
    saver.close()
    memory.rm(f"{URL}/checkpoints/2/{checkpoints.LAST_STORED}")
    assert saver.latest_step() == 1 == checkpoints.read(URL).step
    with pytest.raises(UserError, match="no complete checkpoint is in it"):
        checkpoints.read(f"{URL}/checkpoints/2")
    assert checkpoints.read(f"{URL}/checkpoints/1").step == 1


def test_the_last_file_is_stored_last(made, memory, monkeypatch):
    config, state, _ = made
    put, names = type(memory).put_file, []

    def noted(self, path, url, **options):
        names.append(url)
        put(self, path, url, **options)

    monkeypatch.setattr(type(memory), "put_file", noted)
    saver = StoredCheckpoints(StoredRun(URL), config)
    saver.save(1, state)
    saver.close()
    assert names[-1].endswith(f"1/{checkpoints.LAST_STORED}") and len(names) > 3


def test_what_is_complete_is_not_stored_again(made, memory, monkeypatch):
    """A stop right after a save saves the same step: killed meanwhile, half of it would be new and all called whole."""
    config, state, _ = made
    saver = StoredCheckpoints(StoredRun(URL), config)
    saver.save(1, state, 0.5)
    saver.close()
    before = memory.find(f"{URL}/checkpoints")
    saver.save(1, state)
    saver.close()
    again = StoredCheckpoints(StoredRun(URL), config)
    assert again.latest_step() == 1
    again.save(1, state)
    again.close()
    assert memory.find(f"{URL}/checkpoints") == before


def test_a_store_that_fails_is_told_in_a_line(made, memory, monkeypatch):
    config, state, _ = made
    saver = StoredCheckpoints(StoredRun(URL), config)

    def refuse(*_, **__):
        raise PermissionError("403 Forbidden")

    monkeypatch.setattr(type(memory), "put_file", refuse)
    saver.save(1, state)
    with pytest.raises(UserError, match="cannot be written .403 Forbidden.. Check the address, the network"):
        saver.close()
    assert steps() == []


@pytest.mark.slow
def test_a_run_at_an_address_equals_one_in_a_folder_and_goes_on(tiny, tmp_path, colour_folders, monkeypatch, capsys):
    tiny.mesh.data = 8
    tiny.evaluate_every, tiny.data.evaluate = 6, str(colour_folders)
    train(tiny, tmp_path / "whole")
    counted, taken = iter(range(100)), Feed.next
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="step 3"):
        patch.setattr(Feed, "next", lambda self, asked: taken(self, next(counted) == 3))
        train(tiny, URL)
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "another-host"))
    bundle = train(tiny, URL)
    assert f"resuming {URL} at step 3" in capsys.readouterr().err
    expected, found = checkpoints.read(tmp_path / "whole"), checkpoints.read(URL)
    assert expected.step == found.step == 6
    for path, leaf in flatten(expected.params).items():
        np.testing.assert_array_equal(flatten(found.params)[path], leaf)
    stored = storage.list_below(URL)
    assert {"config.json", "metrics.jsonl", "evaluations/6/report.json", "evaluations/6/report.html"} <= stored.keys()
    storage.fetch(stored["metrics.jsonl"], tmp_path / "metrics.jsonl")
    rows = [
        [(row["step"], row["loss"]) for row in map(json.loads, path.read_text().splitlines())]
        for path in (tmp_path / "metrics.jsonl", tmp_path / "whole/metrics.jsonl")
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 6
    loaded = clipjax.load(URL)
    np.testing.assert_array_equal(loaded.encode_text(["a red picture"]), bundle.encode_text(["a red picture"]))
    tiny.model.image.layers = 1
    with pytest.raises(UserError, match="model/image/layers was 2, is 1"):
        train(tiny, URL)
