"""Three of the kills that `benchmarks/soak.py` makes fifty of, and whether it would notice another end."""

import importlib
import json
import pathlib
import shutil

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("soak")


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_bytes(benchmark, tmp_path):
    counts = benchmark.soak(tmp_path, kills=3, seed=4)
    assert counts.total() == 3
    assert {kind.split()[0] for kind in counts} == {"SIGKILL", "SIGTERM"}

    steps = benchmark.STEPS_A_KILL * 4
    metrics = tmp_path / "killed/metrics.jsonl"
    whole = metrics.read_text()
    lines = whole.splitlines()
    metrics.write_text("\n".join([*lines[:-1], json.dumps(json.loads(lines[-1]) | {"loss": 0.0})]))
    with pytest.raises(AssertionError, match="the losses differ"):
        benchmark._assert_same_end(tmp_path / "alone", tmp_path / "killed", steps)
    metrics.write_text(whole)
    earlier = min(int(path.name) for path in (tmp_path / "killed/checkpoints").iterdir())
    shutil.rmtree(tmp_path / f"killed/checkpoints/{steps}")
    shutil.copytree(tmp_path / f"killed/checkpoints/{earlier}", tmp_path / f"killed/checkpoints/{steps}")
    with pytest.raises(AssertionError, match="the ends differ"):
        benchmark._assert_same_end(tmp_path / "alone", tmp_path / "killed", steps)
