"""`benchmarks/gpu.py` runs to its end without a GPU, on small models, and its table says what was done."""

import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("gpu")
    monkeypatch.setattr(module, "_alone", lambda function, *arguments: function(*arguments))
    return module


@pytest.mark.slow
def test_a_model_gets_a_row_at_once_and_one_in_micro_batches(gpu, capsys):
    gpu.main("--models=tiny --batch=16 --rows=12 --side=64 --steps=1".split())
    figures = r" +([\d.]+)" * 3
    rows = re.findall(rf"^tiny +clipjax +(\d+) +(\d+){figures} +([\d.]+)%$", capsys.readouterr().out, re.M)
    assert [row[:2] for row in rows] == [("12", "12"), ("16", "8")]
    assert all(float(row[2]) > 0 for row in rows)


@pytest.mark.parametrize(("memory", "rows"), [(5000, 208), (1700, None), (1730, 8), (10**9, 320)])
def test_the_largest_batch_is_what_the_memory_of_the_device_holds(gpu, monkeypatch, memory, rows):
    from clipjax.errors import UserError
    from clipjax.training import memory as module

    def program(config, mesh, optimizer):
        needed = 3 * 400 + 400 + 15 * config.batch_size + (50 if config.batch_size > 200 else 0)
        if needed > memory:
            raise UserError("memory")
        return needed

    monkeypatch.setattr(gpu, "_program", program)
    monkeypatch.setattr(module, "program_bytes", lambda needed: needed)
    monkeypatch.setattr(module, "shard_bytes", lambda tree: 1200)
    monkeypatch.setattr(module, "device_limit", lambda mesh: memory)
    if rows is None:  # too little for the few units that are tried first, and for one
        with pytest.raises(UserError, match="memory"):
            gpu.largest_batch("tiny", "none", 8, 320)
    else:
        assert gpu.largest_batch("tiny", "none", 8, 320) == rows  # of 5000 bytes, 224 are foretold and refused


def test_long_steps_are_repeated_less(gpu):
    def made(seconds):
        found = []
        while not gpu._enough(found, 5):
            found.append(seconds)
        return len(found)

    assert (made(0.1), made(13.0), made(50.0)) == (7, 2, 1)
    seconds = [9.0, 5.0, 1.0, 2.0, 3.0]
    assert [gpu._median(seconds[:count]) for count in (1, 2, 5)] == [9.0, 5.0, 2.0]
