"""Every spelling of replica groups means the same devices, and finds its axis of the mesh."""

import itertools

import numpy as np
import pytest

from clipjax.planning.groups import along_axes, axis_name, between_slices, replica_groups

DATA = frozenset(map(frozenset, ([0, 4], [1, 5], [2, 6], [3, 7])))
FSDP = frozenset(map(frozenset, ([0, 1, 2, 3], [4, 5, 6, 7])))
SIZES = {"data": 2, "fsdp": 4, "tensor": 1}


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true", FSDP),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", DATA),
        ("replica_groups=[2,4]<=[8], dimensions={0}", FSDP),
        ("replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}", DATA),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, to_apply=%add", FSDP),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", DATA),
        ("replica_groups=mesh['axis_0'=1,'axis_1'=4,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_1'}", FSDP),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_1'}", DATA),
        ("replica_groups={}", frozenset([frozenset(range(8))])),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}", frozenset([frozenset(range(8))])),
        ("source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}", FSDP),
    ],
)
def test_every_spelling_is_read(text, groups):
    assert replica_groups(text, 8) == groups


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1,2,3}}", FSDP),
        ("replica_groups=[1,4]<=[4]", FSDP),
        ("source_target_pairs={{0,1},{1,2},{2,3},{3,0}}", FSDP),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", DATA),
    ],
)
def test_what_the_first_of_two_slices_does_the_other_does_too(text, groups):
    assert replica_groups(text, 8, slices=2) == groups


def test_devices_in_the_same_place_of_each_slice_are_a_group():
    assert between_slices(8, 2) == DATA


@pytest.mark.parametrize(
    "text",
    ["replica_groups=(0:4)", "nothing", "replica_groups={{0,1},{2,3}}", "replica_groups=mesh['a'=2,'b'=4] {'b':(1)2}"],
)
def test_an_unknown_spelling_is_loud(text):
    with pytest.raises(ValueError, match="replica groups"):
        replica_groups(text, 8)


def test_groups_are_named_by_the_axes_that_they_run_along():
    assert axis_name(DATA, SIZES) == "data"
    assert axis_name(FSDP, SIZES) == "fsdp"
    assert axis_name(frozenset([frozenset(range(8))]), SIZES) == "data+fsdp"
    assert axis_name(frozenset([frozenset(range(8))]), {"data": 8, "fsdp": 1, "tensor": 1}) == "data"


def test_groups_inside_of_an_axis_are_a_part_of_it():
    halves = frozenset(map(frozenset, ([0, 1], [2, 3], [4, 5], [6, 7])))
    assert axis_name(halves, SIZES) == "part of fsdp"
    crossing = frozenset(map(frozenset, ([0, 5], [1, 4], [2, 7], [3, 6])))
    assert axis_name(crossing, SIZES) == "part of data+fsdp"


def test_all_sets_of_axes_are_told_apart():
    sizes = {"a": 2, "b": 3, "c": 4}
    ids = np.arange(24).reshape(2, 3, 4)
    for count in (1, 2, 3):
        for chosen in itertools.combinations(range(3), count):
            assert axis_name(along_axes(ids, list(chosen)), sizes) == "+".join("abc"[axis] for axis in chosen)
