"""A run that is killed, or asked to stop, goes on to the very end that it would have reached."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from clipjax import checkpoints
from clipjax.trees import flatten

CONFIG = """
from clipjax.config import default_config

def get_config():
    config = default_config()
    config.model.preset = "tiny-resnet"  # whose running averages have to come back too
    config.model.image.image_size = 32
    config.batch_size = 16
    config.total_steps = 40
    config.optimizer.warmup_steps = 2
    config.checkpoint_every = 10
    return config
"""


@pytest.fixture
def start(tmp_path, shards):
    """A function that starts a run in a process of its own."""
    config = tmp_path / "config.py"
    config.write_text(CONFIG)

    def run(workdir, *overrides):
        command = [sys.executable, "-m", "clipjax", "train", f"--config={config}", f"--workdir={tmp_path / workdir}"]
        return subprocess.Popen([*command, f"--config.data.train={shards}", *overrides])

    return run


def rows(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def wait_for_step(process, workdir, step):
    while process.poll() is None and not any(row["step"] >= step for row in rows(workdir)):
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be stopped"


def assert_same_end(one, other):
    saved, found = checkpoints.read(one), checkpoints.read(other)
    assert saved.step == found.step == 40
    assert saved.batch_stats
    for path, leaf in flatten((saved.params, saved.batch_stats)).items():
        np.testing.assert_array_equal(flatten((found.params, found.batch_stats))[path], leaf, path)
    assert _state_bytes(saved.path) == _state_bytes(found.path)
    assert [row["loss"] for row in rows(one)] == [row["loss"] for row in rows(other)]


def _state_bytes(step_directory):
    """Every array of the saved state, moments included, as bytes by path."""
    import jax
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as reader:
        shapes = reader.metadata(step_directory / "state").item_metadata.tree
        kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        found = reader.restore(step_directory / "state", args=ocp.args.PyTreeRestore(restore_args=kinds))
    return {path: np.asarray(leaf).tobytes() for path, leaf in flatten(found).items()}


@pytest.mark.slow
def test_a_killed_run_ends_bit_for_bit_like_one_that_was_not(start, tmp_path):
    assert start("whole").wait() == 0
    killed = start("killed")
    wait_for_step(killed, tmp_path / "killed", 25)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert checkpoints.read(tmp_path / "killed").step < 40
    assert start("killed").wait() == 0
    assert_same_end(tmp_path / "whole", tmp_path / "killed")

    stopped = start("stopped")
    wait_for_step(stopped, tmp_path / "stopped", 13)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait() == 75
    assert checkpoints.read(tmp_path / "stopped").step == rows(tmp_path / "stopped")[-1]["step"]
    assert start("stopped", "--config.data.workers=0").wait() == 0
    assert_same_end(tmp_path / "whole", tmp_path / "stopped")
