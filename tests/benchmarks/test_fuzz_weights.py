"""A few hundred of the damaged files that `benchmarks/fuzz_weights.py` makes, and whether it would notice."""

import importlib
import pathlib
import random

import pytest

from clipjax import weights
from clipjax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
FORMATS = ("torchscript", "state_dict", "safetensors", "huggingface", "huggingface_flax", "open_clip", "flax")


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("fuzz_weights")


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_loads_or_is_refused_in_one_line(name, fuzz):
    counts, faults = fuzz.run(name, range(300), seed=1)
    assert not faults
    assert counts["refused"] > 200 and counts.total() == 300


def test_every_format_is_damaged(fuzz):
    assert tuple(fuzz.FORMATS) == FORMATS


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), UserError(""), RuntimeWarning("overflow")])
def test_anything_but_a_line_is_a_fault(error, fuzz, monkeypatch):
    read, calls = weights.read, []

    def broken(source, **options):
        calls.append(source)
        if len(calls) > 1:
            raise error
        return read(source, **options)

    monkeypatch.setattr(weights, "read", broken)
    counts, faults = fuzz.run("safetensors", range(2))
    assert counts == {"FAULT": 2} and "safetensors case 0 (state.safetensors)" in faults[0]


def test_a_command_that_was_executed_stops_it(fuzz, monkeypatch):
    read, calls = weights.read, []

    def hostile(source, **options):
        calls.append(source)
        if len(calls) > 1:
            pathlib.Path(fuzz.CANARY).touch()
        return read(source, **options)

    monkeypatch.setattr(weights, "read", hostile)
    with pytest.raises(SystemExit, match="a command in it was executed"):
        fuzz.run("safetensors", range(2))


def test_damage_is_a_function_of_the_seed(fuzz):
    content = bytes(range(200))
    assert len({fuzz.damage("x.bin", content, random.Random(seed)) for seed in range(50)}) > 40
    assert fuzz.damage("x.bin", content, random.Random(7)) == fuzz.damage("x.bin", content, random.Random(7))
