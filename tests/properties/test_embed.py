"""Embedding on several devices, killed and started again, ends in the bytes of an undisturbed run."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import clipjax
from clipjax import checkpoints
from clipjax.config import MeshConfig, resolve
from clipjax.data.sources import open_source
from clipjax.evaluation import stored
from clipjax.images.decode import decode
from clipjax.parallel.mesh import make_mesh
from clipjax.training.optimizer import make_optimizer
from clipjax.training.state import init_state

PROGRAM = """
import os, signal, sys
from clipjax.parallel import runtime
runtime.start()
from clipjax.cli import main
from clipjax.evaluation import export, stored

export._PART, left, save = 8, [int(sys.argv[1])], stored.save_part

def save_and_die(path, part):
    save(path, part)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)

stored.save_part = save_and_die
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def workdir(tiny, tmp_path):
    config = resolve(tiny)
    saver = checkpoints.Checkpoints(tmp_path / "run" / "checkpoints", config)
    saver.save(3, init_state(config, make_optimizer(config), make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])))
    saver.close()
    return tmp_path / "run"


@pytest.mark.slow
def test_killed_twice_and_started_again_it_ends_in_the_same_bytes(workdir, shards, tiny, tmp_path):
    def embed(name, dies_after):
        command = [sys.executable, "-c", PROGRAM, str(dies_after), "embed", f"--checkpoint={workdir}"]
        command += [f"--data={shards}", f"--out={tmp_path}/{name}.npz", "--texts", "--batch-size=2"]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4"}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    whole = embed("whole", 0)
    assert whole.returncode == 0, whole.stderr
    assert "40 pictures and 80 captions, 32 numbers each" in whole.stdout
    assert [embed("cut", times).returncode for times in (1, 2, 0)] == [-9, -9, 0]
    assert (tmp_path / "cut.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()

    file, source = stored.read(tmp_path / "cut.npz"), open_source((shards,), resolve(tiny).data)
    expected = clipjax.load(workdir).encode_image([decode(source[place].image, "x") for place in range(40)])
    np.testing.assert_allclose(file.images, expected, rtol=0, atol=2e-6)
