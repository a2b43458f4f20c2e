"""The plans of the nine models: every setting is one that its slice takes, and the page has a row for each."""

import importlib
import pathlib

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


def test_the_page_has_a_row_for_each_setting_and_all_fit(plans):
    lines = plans.read()
    assert list(lines) == list(plans.ROWS)
    assert not any("does not fit" in line for line in lines.values())


def test_the_main_job_is_bound_above_60_percent(plans):
    place = plans.COLUMNS.index("utilisation")
    shares = [line.split(" | ")[place] for row, line in plans.read().items() if row.model == "ViT-L/14"]
    assert shares and all(int(share.rstrip("%")) >= 60 for share in shares)
