"""Groups send at the rate of the links that they span."""

import itertools

import pytest

from clipjax.planning.chips import TPUS, rates
from clipjax.planning.groups import along_axes
from clipjax.planning.network import coordinates, wire_rate
from clipjax.planning.topology import machine

LINK = 50e9


def rate(name, groups, slices=1):
    place = machine(name)
    places = [
        (number, *spot)
        for number in range(slices)
        for spot in itertools.product(*(range(size) for size in place.shape))
    ]
    return wire_rate(frozenset(map(frozenset, groups)), places, place, rates(place.chip, ""))


def grid(*sizes, axes):
    import numpy as np

    ids = np.arange(int(np.prod(sizes))).reshape(sizes)
    return along_axes(ids, axes)


@pytest.mark.parametrize(
    ("name", "groups", "links"),
    [
        ("v5e:16x16", grid(16, 16, axes=[1]), 2),  # a ring, both ways
        ("v5e:16x16", grid(16, 16, axes=[0, 1]), 4),
        ("v5e:4x4", grid(4, 4, axes=[1]), 1),  # a line
        ("v5e:16x16", grid(16, 4, 4, axes=[2]), 1),  # a part of a ring
        ("v5e:8x16", grid(8, 16, axes=[0, 1]), 3),
    ],
)
def test_each_axis_of_the_torus_adds_its_links(name, groups, links):
    assert rate(name, groups) == links * LINK


def test_between_slices_the_slow_network_decides():
    assert rate("v5e:4x4", [list(range(32))], slices=2) == TPUS["v5e"].slice_rate
    assert rate("v5e:4x4", [range(16), range(16, 32)], slices=2) == 2 * LINK


def test_devices_outside_of_a_torus_have_their_link():
    place = machine("cpu:4")
    assert wire_rate(frozenset([frozenset(range(4))]), [()] * 4, place, rates(TPUS["v5e"], "")) == LINK


def test_a_device_tells_its_place():
    class Core:
        coords, slice_index = [1, 2, 0], 3

    assert coordinates(Core()) == (3, 1, 2, 0)
    assert coordinates(object()) == ()
