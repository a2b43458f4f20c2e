"""The table of chips is consistent, and a machine that is here can be measured."""

import math

import pytest

from clipjax.planning.chips import GPUS, TPUS, measured, rates


@pytest.mark.parametrize("name", TPUS)
def test_a_chip_is_within_reason(name):
    chip = TPUS[name]
    assert 1e14 < chip.flops < 1e16 and 7e9 < chip.memory < 2e11
    assert 100 < chip.flops / chip.memory_rate < 700  # FLOP a byte
    assert chip.slice_rate < chip.link_rate < chip.memory_rate


@pytest.mark.parametrize("name", TPUS)
def test_the_clock_makes_the_rate_with_a_whole_number_of_matrix_units(name):
    chip = TPUS[name]
    side = 256 if name in ("v6e", "tpu7x") else 128
    units = chip.flops / (chip.clock * 2 * side**2)
    assert math.isclose(units, round(units), rel_tol=0.02) and round(units) % 2 == 0


def test_the_devices_of_a_chip_share_what_it_does():
    assert rates(TPUS["tpu7x"], "here").flops == 2307e12 / 2
    assert rates(GPUS["NVIDIA H200"], "there")._asdict()["source"] == "there"


def test_this_machine_is_measured_and_divided():
    found = measured(4)
    assert 1e8 < found.flops < 1e13 and 1e7 < found.memory < 1e12
    assert "measured" in found.source
