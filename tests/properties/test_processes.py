"""Several processes: two of two devices each end where one process with one device ends, and stop together."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from clipjax import checkpoints
from clipjax.trees import flatten

ROOT = pathlib.Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHON": sys.executable}
CONFIG = """
from clipjax.config import default_config

def get_config():
    config = default_config()
    config.model.preset = "tiny"
    config.model.image.image_size = 16
    config.model.text.context_length = 24  # captions of one process may need more than those of another
    config.batch_size = 16
    config.total_steps = 3
    config.optimizer.warmup_steps = 1
    config.optimizer.eps = 1e-3  # above the noise of the gradients
    return config
"""


@pytest.fixture
def arguments(tmp_path, captions):
    config = tmp_path / "config.py"
    config.write_text(CONFIG)
    return ["train", f"--config={config}", f"--config.data.train={captions}"]


def local(*arguments):
    command = [str(ROOT / "launch/local.sh"), "--processes=2", "--devices=2", *arguments]
    return subprocess.Popen(command, env=ENVIRONMENT)


def rows(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 2])
def test_two_processes_of_two_devices_equal_one_device(tmp_path, arguments, colour_folders, fsdp):
    alone = [sys.executable, "-m", "clipjax", *arguments, f"--workdir={tmp_path}/one"]
    subprocess.run(alone, env=ENVIRONMENT, check=True)
    scored = [f"--config.data.evaluate={colour_folders}", "--config.evaluate_every=3"]
    several = local(*arguments, f"--workdir={tmp_path}/four", f"--config.mesh.fsdp={fsdp}", *scored)
    assert several.wait() == 0
    for one, four in zip(rows(tmp_path / "one"), rows(tmp_path / "four"), strict=True):
        assert four["text_length"] == one["text_length"]
        for name in ("loss", "gradient_norm", "parameter_norm"):
            assert four[name] == pytest.approx(one[name], rel=2e-5), name
    expected, found = (flatten(checkpoints.read(tmp_path / run).params) for run in ("one", "four"))
    for path, leaf in expected.items():
        np.testing.assert_allclose(found[path], leaf, rtol=1e-4, atol=2e-6, err_msg=path)
    assert (tmp_path / "four/evaluations/3/report.json").is_file()


@pytest.mark.slow
def test_processes_stop_together_and_go_on(tmp_path, arguments):
    arguments = [*arguments, f"--workdir={tmp_path}/run", "--config.total_steps=4000"]
    process = local(*arguments)
    while process.poll() is None and len(rows(tmp_path / "run")) < 3:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    step = checkpoints.read(tmp_path / "run").step
    assert step == rows(tmp_path / "run")[-1]["step"]
    arguments[-1] = f"--config.total_steps={step + 2}"
    assert local(*arguments).wait() == 0
    assert checkpoints.read(tmp_path / "run").step == step + 2


@pytest.mark.slow
def test_a_mistake_ends_all_processes_with_exit_code_2(tmp_path, arguments):
    assert local(*arguments, f"--workdir={tmp_path}/run", "--config.batch_size=6").wait() == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "--processes='' should be a whole number"),
        (["--processes=two"], "--processes='two' should be a whole number"),
        (["--processes=2"], "no command given"),
    ],
)
def test_the_launcher_names_what_is_wrong(given, said):
    done = subprocess.run([ROOT / "launch/local.sh", *given], capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr
