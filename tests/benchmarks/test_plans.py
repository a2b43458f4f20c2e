"""The plans of the nine models: every setting is one that its slice takes, and the page has a row for each."""

import importlib
import pathlib
import re

import pytest

from clipjax.config import preset_names
from clipjax.planning import plan as room
from clipjax.planning.topology import machine

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def plans(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("plans")


def test_each_of_the_nine_models_has_a_setting_that_its_slice_takes(plans, monkeypatch):
    monkeypatch.setattr(room, "require_libtpu", lambda: None)
    assert {row.model for row in plans.ROWS} == set(preset_names()[:9])
    for row in plans.ROWS:
        config = plans.config(row)
        assert config.batch_size == 32_768
        room.check(config, machine(row.topology))


def test_the_page_has_a_row_for_every_setting_and_each_fits(plans):
    lines = plans.read()
    assert set(lines) == set(plans.ROWS)
    assert not [line for line in lines.values() if "does not fit" in line]
    bounds = {(row.model, row.topology): int(re.search(r"\| (\d+)% \|", line)[1]) for row, line in lines.items()}
    assert bounds["ViT-L/14", "v5e:16x16"] >= 60
