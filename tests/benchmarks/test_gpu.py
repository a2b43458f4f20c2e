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
def test_a_model_gets_a_row_at_once_and_one_in_micro_batches(gpu, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "largest_batch", lambda *arguments: 12)
    gpu.main("--models=tiny --batch=16 --side=64 --steps=1".split())
    figures = r" +([\d.]+)" * 3
    rows = re.findall(rf"^tiny +clipjax +(\d+) +(\d+){figures} +([\d.]+)%$", capsys.readouterr().out, re.M)
    assert [row[:2] for row in rows] == [("12", "12"), ("16", "8")]
    assert all(float(row[2]) > 0 for row in rows)


def test_the_largest_batch_is_what_the_memory_of_the_device_holds(gpu, monkeypatch):
    from clipjax.errors import UserError
    from clipjax.training import memory

    def program(config, mesh, optimizer):
        needed = 1000 + 10 * config.batch_size + (5 if config.batch_size > 100 else 0)
        if needed > 3400:
            raise UserError("memory")
        return needed

    monkeypatch.setattr(gpu, "_program", program)
    monkeypatch.setattr(memory, "program_bytes", lambda needed: needed)
    monkeypatch.setattr(memory, "device_limit", lambda mesh: 3400)
    assert gpu.largest_batch("tiny", "none", 8, 10_000) == 224  # 240 was foretold, and refused
    assert gpu.largest_batch("tiny", "none", 8, 64) == 64
