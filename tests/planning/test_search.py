"""The search tries what is generous first, passes over what cannot fit, and returns the fastest that does."""

import dataclasses

import pytest

from clipjax.config import Config, MeshConfig, resolve
from clipjax.errors import UserError
from clipjax.planning import search as search_room
from clipjax.planning.plan import Plan
from clipjax.planning.search import best, describe, levels, search
from clipjax.planning.topology import machine

CONFIG = Config(batch_size=4096, total_steps=10)
PLACE = machine("cpu:16")


@pytest.fixture
def examined(monkeypatch, found, too_large):
    """Stands in for the compiler: `rule(config)` says the seconds of a step, None where it does not fit."""
    seen = []

    def use(rule):
        def examine(config, place, seconds):
            seen.append(config)
            if (time := rule(config)) is None:
                return too_large
            return {**found, "network": time, "traffic": 0, "executed": 0}

        monkeypatch.setattr("clipjax.planning.search.examine", examine)
        return seen

    return use


def test_levels_begin_with_what_computes_least_and_each_with_what_needs_least_memory():
    made = list(levels(CONFIG, PLACE, 16))
    assert [item.mesh.fsdp for item in made[0]] == [16, 1]
    assert made[0][0].remat == "none" and made[0][0].micro_batch_size is None
    assert all(level[0].remat == item.remat for level in made for item in level)
    assert made[-1][0].remat == "block"


def test_a_step_that_fits_at_once_is_compared_with_other_meshes(examined, capsys):
    seen = examined(lambda config: 3.0 if config.mesh.fsdp == 16 else 2.0)
    made = search(CONFIG, "cpu:16")
    assert made.config.mesh.fsdp == 1 and made.step_seconds["total"] == 2.0
    assert "mesh.fsdp=1 micro_batch_size=4096 remat=none: fits" in capsys.readouterr().err
    assert len({(config.remat, config.micro_batch_size) for config in seen}) == 2  # and with the next level


def test_what_does_not_fit_ends_its_level(examined):
    seen = examined(lambda config: 1.0 if config.remat == "block" else None)
    made = search(CONFIG, "cpu:16")
    assert made.fits and made.config.remat == "block"
    assert sum(config.remat == "none" and config.micro_batch_size is None for config in seen) == 1


def test_where_nothing_fits_the_least_large_is_returned(examined):
    examined(lambda config: None)
    assert not search(CONFIG, "cpu:16").fits


def test_time_ends_the_search_once_something_fits(examined, monkeypatch):
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr(search_room.time, "monotonic", lambda: next(clock))
    seen = examined(lambda config: 1.0)
    assert search(CONFIG, "cpu:16", seconds=500).fits
    assert len(seen) < 4


def test_the_best_takes_the_least_time(found, too_large):
    def made(**changes):
        return Plan(CONFIG, "cpu:16", {**found, **changes})

    fast, slow = made(network=2.0), made(network=9.0)
    assert best([slow, fast, Plan(CONFIG, "cpu:16", too_large)]) is fast


def test_the_devices_of_this_machine_are_counted(examined, monkeypatch):
    seen = examined(lambda config: 1.0)
    monkeypatch.setattr(search_room, "devices_here", lambda: 4)
    search(CONFIG, "here")
    assert {config.mesh.fsdp for config in seen} == {4, 1}
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(tensor=3))
    with pytest.raises(UserError, match="tensor=3 does not divide the 4 devices here"):
        search(config, "here")


def test_a_batch_that_no_mesh_divides_is_said(tiny):
    tiny.batch_size = 15
    with pytest.raises(UserError, match="batch_size: 15"):
        search(tiny, "cpu:4")


def test_a_candidate_is_told_in_a_line():
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(fsdp=4), remat="block")
    assert describe(config) == "mesh.fsdp=4 micro_batch_size=4096 remat=block"


@pytest.mark.slow
def test_a_search_for_this_kind_of_machine_ends_with_a_plan(tiny):
    made = search(resolve(tiny), "cpu:2", seconds=60)
    assert made.fits and made.config.batch_size == 16
