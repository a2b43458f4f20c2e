"""Telemetry: whole lines, no step twice, and what the libraries read back."""

import dataclasses
import json
import subprocess
import sys

import pytest

from clipjax.config import StageConfig, resolve
from clipjax.errors import UserError
from clipjax.models.flops import forward_flops
from clipjax.training.telemetry import Telemetry, keep_before, read_metrics


@pytest.fixture
def config(tiny):
    return resolve(tiny)


def test_records_come_back_as_they_were_written(config, tmp_path):
    telemetry = Telemetry(tmp_path, config, 1)
    telemetry.record(1, {"loss": 2.5, "skipped_steps": 0})
    telemetry.record(2, {"loss": 1.5, "skipped_steps": 1})
    telemetry.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 2.5, "skipped_steps": 0},
        {"step": 2, "loss": 1.5, "skipped_steps": 1},
    ]
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_a_full_disk_is_one_line(config, tmp_path):
    telemetry = Telemetry(tmp_path, config, 1)
    telemetry._file.close()
    telemetry._file = open("/dev/full", "a")
    with pytest.raises(UserError, match="/dev/full: cannot be written .No space left on device"):
        telemetry.record(1, {"loss": 2.5})
    telemetry.close()


def test_a_run_starts_without_tensorboard(tmp_path):
    """Where torch is installed tensorboardX imports it, for seconds, beside the tracing of the step."""
    code = f"""
import sys
from clipjax.config import default_config, resolve
from clipjax.training.telemetry import Telemetry
config = default_config()
config.data.train, config.total_steps = "none", 5
telemetry = Telemetry(__import__("pathlib").Path({str(tmp_path)!r}), resolve(config), 1)
assert "tensorboardX" not in sys.modules
telemetry.record(1, {{"loss": 1.0}})
assert "tensorboardX" in sys.modules
telemetry.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_that_makes_no_step_closes_what_it_opened(config, tmp_path):
    Telemetry(tmp_path, config, 1).close()
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_resumed_run_writes_no_step_twice(config, tmp_path):
    for first, last in ((1, 5), (3, 6)):
        telemetry = Telemetry(tmp_path, config, first)
        for step in range(first, last + 1):
            telemetry.record(step, {"loss": 1.0})
        telemetry.close()
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_a_torn_line_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1}) + "\n" + '{"step": 2, "lo')
    keep_before(path, 9)
    assert path.read_text() == '{"step": 1}\n'


def test_a_missing_file_has_no_records(tmp_path):
    keep_before(tmp_path / "none", 1)
    assert read_metrics(tmp_path / "none") == []


def test_utilisation_counts_three_forwards_a_pair(config, tmp_path, monkeypatch):
    telemetry = Telemetry(tmp_path, config, 1)
    assert telemetry.utilisation(100.0, 16, 0) is None  # the peak of a CPU is not known
    monkeypatch.setattr(telemetry, "_peak", 1e12)
    expected = 3 * sum(forward_flops(config.model)) * 100.0 / (8 * 1e12)
    assert telemetry.utilisation(100.0, 16, 0) == pytest.approx(expected)
    assert telemetry.utilisation(100.0, 8, 0) < expected  # texts that were cut are less work
    telemetry.close()


def test_a_frozen_tower_counts_its_forward_pass_alone(config, tmp_path, monkeypatch):
    telemetry = Telemetry(tmp_path, dataclasses.replace(config, freeze="image"), 1)
    monkeypatch.setattr(telemetry, "_peak", 1e12)
    image, text = forward_flops(config.model)
    assert telemetry.utilisation(100.0, 16, 0) == pytest.approx((image + 3 * text) * 100.0 / (8 * 1e12))
    telemetry.close()


def test_a_step_counts_with_the_pictures_of_its_stage(config, tmp_path, monkeypatch):
    stages = (StageConfig(share=0.5, patch_dropout=0.75),)
    telemetry = Telemetry(tmp_path, dataclasses.replace(config, stages=stages), 1)
    monkeypatch.setattr(telemetry, "_peak", 1e12)
    last = config.total_steps - 1
    expected = 3 * sum(forward_flops(config.model, 16, 0.75)) * 100.0 / (8 * 1e12)
    assert telemetry.utilisation(100.0, 16, 0) == pytest.approx(expected)
    assert telemetry.utilisation(100.0, 16, last) == pytest.approx(3 * sum(forward_flops(config.model)) / 8e10)
    assert telemetry.utilisation(100.0, 16, last) > expected
    telemetry.close()


def test_weights_and_biases_absent_is_said(tiny, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    tiny.wandb_project = "mine"
    with pytest.raises(UserError, match="pip install 'clipjax.wandb.'"):
        Telemetry(tmp_path, resolve(tiny), 1)
