"""One host of two is told to stop: both save, and the run goes on with one host, and with four, to the same end."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from clipjax import checkpoints
from clipjax.trees import flatten

STEPS = 12
CONFIG = f"""
from clipjax.config import default_config

def get_config():
    config = default_config()
    config.model.preset = "tiny"
    config.model.image.image_size = 16
    config.model.text.context_length = 24
    config.batch_size = 16
    config.total_steps = {STEPS}
    config.optimizer.warmup_steps = 2
    config.optimizer.eps = 1e-3  # above the noise of the gradients
    config.checkpoint_every = 0  # what is saved is saved for the signal
    return config
"""


@pytest.fixture
def start(tmp_path, captions):
    """A function that starts a run in so many processes of two devices each, or of one if it is alone."""
    config = tmp_path / "config.py"
    config.write_text(CONFIG)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/xla").symlink_to(pathlib.Path(os.environ["CLIPJAX_CACHE"], "xla"))

    def run(workdir, processes, *overrides):
        command = [sys.executable, "-m", "clipjax", "train", f"--config={config}", f"--workdir={workdir}"]
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        joined = {"CLIPJAX_COORDINATOR": f"127.0.0.1:{port}", "CLIPJAX_PROCESSES": str(processes)}
        return [
            subprocess.Popen(
                [*command, f"--config.data.train={captions}", *overrides],
                env=os.environ
                | {"CLIPJAX_CACHE": f"{tmp_path}/cache", "JAX_NUM_CPU_DEVICES": "2" if processes == 2 else "1"}
                | (joined | {"CLIPJAX_PROCESS_ID": str(number)} if processes > 1 else {}),
            )
            for number in range(processes)
        ]

    return run


def ends(processes):
    return [process.wait() for process in processes]


def rows(workdir):
    path = pathlib.Path(workdir) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize(("prefix", "others", "mesh"), [("", (1, 4), []), ("file://", (1, 2), ["fsdp=4"])])
def test_a_signal_to_one_host_saves_on_all_and_the_run_goes_on_with_other_hosts(start, tmp_path, prefix, others, mesh):
    assert ends(start(tmp_path / "whole", 1)) == [0]

    hosts = start(f"{prefix}{tmp_path}/stopped", 2, *(f"--config.mesh.{size}" for size in mesh))
    began = tmp_path / "stopped" if not prefix else None
    while hosts[0].poll() is None and not first_step(began, tmp_path):
        time.sleep(0.005)
    hosts[1].send_signal(signal.SIGTERM)  # the first, which writes, hears of it from the other
    assert ends(hosts) == [75, 75]
    stopped = checkpoints.read(f"{prefix}{tmp_path}/stopped").step
    assert 0 < stopped < STEPS and rows(tmp_path / "stopped")[-1]["step"] == stopped

    expected, whole = checkpoints.read(tmp_path / "whole"), rows(tmp_path / "whole")
    assert expected.step == STEPS == len(whole)
    for count in others:
        workdir = tmp_path / f"on-{count}"
        shutil.copytree(tmp_path / "stopped", workdir)
        assert ends(start(f"{prefix}{workdir}", count)) == [0] * count
        for one, other in zip(whole, rows(workdir), strict=True):
            assert (one["step"], one["text_length"]) == (other["step"], other["text_length"])
            for name in ("loss", "gradient_norm", "parameter_norm"):
                assert other[name] == pytest.approx(one[name], rel=1e-4), (count, one["step"], name)
        found = flatten(checkpoints.read(f"{prefix}{workdir}").params)
        for path, leaf in flatten(expected.params).items():
            np.testing.assert_allclose(found[path], leaf, rtol=1e-3, atol=1e-5, err_msg=f"{count} {path}")


def first_step(workdir, tmp_path):
    """Whether the metrics of a step are there; those of a run at an address lie in the first host's cache as yet."""
    found = [workdir] if workdir else [path.parent for path in tmp_path.glob("cache/runs/*-0/metrics.jsonl")]
    return any(rows(folder) for folder in found)
