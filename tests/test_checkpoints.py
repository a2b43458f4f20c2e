"""Checkpoints: exact on any mesh, the right ones kept, refused when they are not whole."""

import json
import shutil

import fsspec
import jax
import numpy as np
import pytest

from clipjax import checkpoints
from clipjax.config import MeshConfig, default_config, resolve
from clipjax.errors import UserError
from clipjax.parallel.mesh import make_mesh
from clipjax.training.optimizer import make_optimizer
from clipjax.training.state import abstract_state, init_state
from clipjax.trees import flatten, unflatten


@pytest.fixture(scope="module")
def config():
    made = default_config()
    made.model.preset = "tiny"
    made.total_steps = 20
    made.optimizer.warmup_steps = 2
    made.keep_checkpoints = 2
    return resolve(made)


@pytest.fixture(scope="module")
def state(config):
    return init_state(config, make_optimizer(config), make_mesh(MeshConfig()))


@pytest.fixture(scope="module")
def saved(config, state, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    saver = checkpoints.Checkpoints(workdir / "checkpoints", config)
    saver.save(3, state)
    saver.close()
    return workdir


def equal(one, other):
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(a, b) and a.dtype == b.dtype, one, other)))


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(2, 2, 2), MeshConfig(1, 8, 1)])
def test_a_state_is_restored_bit_for_bit_on_any_mesh(config, state, saved, mesh):
    saver = checkpoints.Checkpoints(saved / "checkpoints", config)
    wanted = abstract_state(config, make_optimizer(config), make_mesh(mesh))
    restored = saver.restore(saver.latest_step(), wanted)
    saver.close()
    assert equal(restored, state)
    assert jax.tree.map(lambda leaf: leaf.sharding, restored) == jax.tree.map(lambda leaf: leaf.sharding, wanted)


def test_the_newest_and_the_best_stay_across_a_restart(config, state, tmp_path):
    scores = {1: 0.1, 2: 0.9, 3: 0.2, 4: None, 5: 0.3, 6: 0.1, 7: None}
    for part in ([1, 2, 3, 4, 5], [6, 7]):
        saver = checkpoints.Checkpoints(tmp_path, config)
        for step in part:
            saver.save(step, state, scores[step])
        assert saver.latest_step() == part[-1]
        saver.close()
    assert sorted(int(item.name) for item in tmp_path.iterdir()) == [2, 6, 7]


def test_reading_gives_parameters_and_metadata_alone(config, state, saved):
    found = checkpoints.read(saved)
    assert found.step == 3 and found.config == config
    assert equal(found.params, jax.device_get(state.params))
    assert found.metadata["format_version"] == 2
    assert set(found.metadata) == {"format_version", "step", "config", "tokenizer", "preprocessing", "activation"}


def test_a_checkpoint_can_be_moved_and_read_alone(saved, tmp_path):
    shutil.copytree(saved / "checkpoints" / "3", tmp_path / "mine")
    assert checkpoints.read(tmp_path / "mine").path == tmp_path / "mine"


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="nothing: no such directory"):
        checkpoints.find(tmp_path / "nothing")
    with pytest.raises(UserError, match="no complete checkpoint"):
        checkpoints.find(tmp_path)


def test_an_unfinished_save_is_passed_over(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (tmp_path / "checkpoints" / "8" / "metadata").mkdir(parents=True)
    assert checkpoints.find(tmp_path).name == "3"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda file, text: file.write_text(text[:20]), "cannot be read as JSON"),
        (
            lambda file, text: file.write_text(json.dumps({**json.loads(text), "format_version": 99})),
            "format_version 99",
        ),
        (
            lambda file, text: file.write_text(json.dumps({**json.loads(text), "config": {"x": 1}})),
            "not a configuration",
        ),
        (
            lambda file, text: [item.unlink() for item in (file.parents[1] / "state").rglob("*") if item.is_file()],
            "state",
        ),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_line(saved, tmp_path, harm, said):
    shutil.copytree(saved / "checkpoints" / "3", tmp_path / "3")
    file = tmp_path / "3" / "metadata" / "metadata"
    harm(file, file.read_text())
    with pytest.raises(UserError, match=said) as caught:
        checkpoints.read(tmp_path / "3")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_format_1_is_read_but_not_resumed(saved, tmp_path):
    """It had all layers of a tower in one stack."""
    now = checkpoints.read(saved)
    arrays, one = flatten(now.params), {}
    for path, leaf in arrays.items():
        if "/blocks/" in path:
            one[path] = np.concatenate([leaf, arrays[path.replace("/blocks/", "/last/")][None]])
        elif "/last/" not in path:
            one[path] = leaf
    checkpoints.write(tmp_path / "1", now.config, unflatten(one), {})
    file = tmp_path / "1" / "metadata" / "metadata"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 1}))
    then = flatten(checkpoints.read(tmp_path / "1").params)
    assert then.keys() == arrays.keys()
    assert all(np.array_equal(then[path], leaf) for path, leaf in arrays.items())
    with pytest.raises(UserError, match="an earlier version of this program wrote it"):
        checkpoints.Checkpoints(tmp_path, now.config).restore(1, None)


@pytest.mark.parametrize("name", ["demo", "20250601"])
def test_a_run_at_an_address_may_be_called_by_a_number(saved, tmp_path, monkeypatch, name):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path))
    fsspec.filesystem("memory").put(f"{saved}/", f"memory://runs/{name}/", recursive=True)
    for end in ("", "/checkpoints", "/checkpoints/3"):
        assert checkpoints.read(f"memory://runs/{name}{end}").step == 3
    with pytest.raises(UserError, match="no complete checkpoint is in it"):
        checkpoints.find(f"memory://runs/{name}/checkpoints/4")
    fsspec.filesystem("memory").rm("memory://runs", recursive=True)  # other tests of this process share it


def test_a_model_that_cannot_be_written_is_one_line_and_leaves_nothing(config, state, tmp_path, monkeypatch):
    import orbax.checkpoint as ocp

    def fail(writer, path, *args, **kwargs):
        path.with_name(f"{path.name}.orbax-checkpoint-tmp").mkdir()
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    monkeypatch.setattr(ocp.Checkpointer, "save", fail)
    with pytest.raises(UserError, match=r"new: .*cannot be written .*No space left on device"):
        checkpoints.write(tmp_path / "new", config, jax.device_get(state.params), {})
    assert not list(tmp_path.iterdir())


def test_a_model_alone_has_no_step_whatever_it_is_called(config, state, tmp_path):
    checkpoints.write(tmp_path / "2024", config, jax.device_get(state.params), {})
    assert checkpoints.read(tmp_path / "2024").step is None
    with pytest.raises(UserError, match="gs://bucket/out: an address"):
        checkpoints.write("gs://bucket/out", config, jax.device_get(state.params), {})


def test_a_full_disk_is_one_line_that_says_so(config, state, tmp_path, monkeypatch):
    writer = checkpoints.Checkpoints(tmp_path, config)
    reason = (
        f"RESOURCE_EXHAUSTED: Error writing \"{'params.' * 50}\": No space left on device [os_error_code='28']\nmore"
    )

    def fail(*args, **kwargs):
        raise ValueError(reason)

    monkeypatch.setattr(writer._manager, "wait_until_finished", fail)
    for call in (writer.close, lambda: writer.save(1, state)):  # which waits for the save before
        with pytest.raises(UserError, match=r"cannot be written \(… .*No space left on device.*\)\. Make room") as said:
            call()
        assert "\n" not in str(said.value) and len(str(said.value)) < 300 + len(str(tmp_path))
    monkeypatch.undo()
    writer.close()
