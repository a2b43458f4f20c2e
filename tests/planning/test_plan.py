"""A plan adds up, names what limits it, and says what to turn where it does not fit."""

import dataclasses
import importlib.util
import json

import pytest

import clipjax
from clipjax.config import Config, MeshConfig, resolve
from clipjax.errors import UserError
from clipjax.planning.plan import Plan, check, plan
from clipjax.planning.topology import machine

NAMES = [
    *("fits", "chip_memory_bytes", "bytes_per_chip", "flops_per_step", "step_seconds", "utilisation"),
    *("utilisation_serial", "compiler_seconds", "collectives", "mesh", "micro_batch_size", "advice"),
]
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")


@pytest.fixture
def made(found):
    return Plan(Config(batch_size=64, total_steps=10), "v5e:2x2", found)


def test_the_kinds_of_bytes_add_up(made):
    sizes = made.bytes_per_chip
    assert sizes.pop("total") == sum(sizes.values()) == 12 * 10**9
    assert sizes == {
        "parameters": 2 * 10**9,
        "moments": 4 * 10**9,
        "activations": 21 * 10**8,
        "temporaries": 39 * 10**8,
    }


def test_the_longest_term_is_the_time_and_the_utilisation_follows(made):
    assert made.step_seconds == {"compute": 1.0, "memory": 2.0, "network": 0.5, "total": 2.0}
    useful = min(made.flops_per_step, 4e12) / 4e12  # no more than what is executed
    assert made.utilisation == useful / 2.0
    assert made.utilisation_serial == useful / 3.5
    assert made.compiler_seconds == 4.0


def test_collectives_are_summed_over_types(made):
    assert made.collectives == [
        {"kind": "all-gather", "axis": "fsdp", "count": 8, "bytes": 11 * 10**8},
        {"kind": "all-reduce", "axis": "data", "count": 3, "bytes": 10**8},
    ]


def test_the_object_has_the_names_that_others_rely_on(made, too_large):
    for each in (made, Plan(made.config, "v5e:2x2", too_large)):
        assert list(json.loads(json.dumps(each.as_dict()))) == NAMES


def test_what_does_not_fit_says_how_large_it_is_and_what_to_turn(too_large):
    large = Plan(Config(batch_size=64), "v5e:2x2", too_large)
    assert not large.fits
    assert large.bytes_per_chip["total"] == 20 * 10**9
    assert large.step_seconds == {"compute": 1.0, "memory": None, "network": None, "total": None}
    assert large.utilisation is large.utilisation_serial is large.compiler_seconds is None
    assert any("remat='block'" in row for row in large.advice)
    assert any("micro_batch_size=32" in row for row in large.advice)
    assert any("mesh.fsdp=4" in row for row in large.advice)


def test_where_compilers_do_not_judge_the_memory_does(made):
    small = {**made.found, "judged": False, "limit": 11 * 10**9}
    assert not Plan(made.config, "cpu:4", small).fits
    assert Plan(made.config, "cpu:4", {**small, "limit": 12 * 10**9}).fits


def test_what_is_close_to_a_limit_or_not_donated_is_said(made):
    assert made.advice == []
    close = Plan(made.config, "v5e:2x2", {**made.found, "apart": 15.5e9})
    assert close.fits and "at the edge: arguments and temporaries are 15.50 GB of 16.00 GB" in close.advice[0]
    copied = Plan(made.config, "v5e:2x2", {**made.found, "aliased": 0})
    assert "not donated" in copied.advice[0]


def test_what_cannot_run_is_said_before_anything_is_compiled(tiny, monkeypatch):
    monkeypatch.setattr("clipjax.planning.plan.examine", None)
    config = resolve(tiny)
    with pytest.raises(UserError, match="topology: 'v5e:4' has 1 sizes"):
        plan(config, "v5e:4")
    with pytest.raises(UserError, match="mesh: data=1 x fsdp=1 x tensor=1 needs 1 devices, but 8"):
        plan(config, "cpu:8")
    seven = dataclasses.replace(config, mesh=MeshConfig(data=-1))
    with pytest.raises(UserError, match="batch_size: 16 does not divide by mesh.data=7"):
        plan(seven, "cpu:7")
    half = dataclasses.replace(seven, precision="float16")
    check(half, machine("cpu:8"))
    monkeypatch.setattr("clipjax.planning.plan.require_libtpu", lambda: None)
    with pytest.raises(UserError, match="precision: float16 is not what TPUs multiply in"):
        check(half, machine("v5e:2x4"))


def test_a_mesh_may_span_slices(tiny, monkeypatch, found):
    asked = []
    monkeypatch.setattr("clipjax.planning.plan.examine", lambda config, place, seconds: asked.append(config) or found)
    monkeypatch.setattr("clipjax.planning.plan.require_libtpu", lambda: None)
    tiny.batch_size, tiny.mesh.data, tiny.mesh.num_slices = 32, -1, 2
    plan(tiny, "v5e:4x4")
    tiny.batch_size = 16
    with pytest.raises(UserError, match="batch_size: 16 does not divide by mesh.data=32"):
        plan(tiny, "v5e:4x4")
    assert len(asked) == 1


@pytest.mark.slow
def test_a_plan_for_cpus_is_that_of_the_step_that_trains(tiny):
    tiny.mesh.data = -1
    tiny.mesh.fsdp = 2
    made = clipjax.plan(tiny, "cpu:4")
    sizes = made.bytes_per_chip
    assert made.fits and made.as_dict()["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    assert made.found["arguments"] == pytest.approx(made.found["state"] + made.found["batch"], rel=0.01)
    assert sizes["moments"] == pytest.approx(2 * sizes["parameters"], rel=0.01)
    assert 0 < made.utilisation_serial < made.utilisation
    assert {row["axis"] for row in made.collectives} <= {"data", "fsdp", "data+fsdp"}
    assert made.compiler_seconds is None and made.advice == []


@needs_libtpu
@pytest.mark.slow
def test_a_plan_for_tpus_that_are_not_here(tiny):
    tiny.batch_size, tiny.mesh.data, tiny.precision = 256, -1, "bfloat16"
    made = plan(tiny, "v5e:2x2")
    assert made.fits and made.found["judged"] and made.found["aliased"] >= 0.99 * made.found["state"]
    assert made.found["arguments"] == pytest.approx(
        made.found["state"] + made.found["batch"], rel=0.05
    )  # tiles pad small arrays
    assert made.compiler_seconds > 0
    gradients = sum(row["bytes"] for row in made.collectives if row["kind"] in ("all-reduce", "reduce-scatter"))
    assert gradients >= made.bytes_per_chip["parameters"] / 2 * 0.9  # reduced in bfloat16 or float32


@needs_libtpu
@pytest.mark.slow
def test_a_step_over_two_slices_compiles_and_sends_between_them_what_data_parallel_needs(tiny):
    tiny.batch_size, tiny.precision = 64, "bfloat16"
    tiny.mesh.data, tiny.mesh.fsdp, tiny.mesh.num_slices = -1, 4, 2
    made = plan(tiny, "v5e:2x2")
    assert made.fits and made.as_dict()["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1}
    moved = {row["kind"]: row["bytes"] for row in made.collectives if row["axis"] == "data"}
    gradients = 0.9 * made.bytes_per_chip["parameters"] / 2  # in bfloat16 at least, divided over fsdp as they are
    assert moved["all-reduce"] + moved.get("reduce-scatter", 0) >= gradients
    assert any(row["axis"] == "fsdp" and row["kind"] == "all-gather" for row in made.collectives)


@needs_libtpu
@pytest.mark.slow
def test_no_activation_travels_where_the_devices_of_a_mesh_are_in_another_order_than_the_slices(tiny):
    """The order of a v5p:4x4x4 once made XLA exchange every query, key and value (`models/row_attention.py`)."""
    tiny.batch_size, tiny.precision, tiny.mesh.data = 512, "bfloat16", -1
    tiny.model.image = {"image_size": 224, "patch_size": 16, "width": 768, "heads": 12, "layers": 2}
    made = plan(tiny, "v5p:4x4x4")
    gradients = made.bytes_per_chip["parameters"]  # in float32 at most; beside them the loss exchanges features
    assert sum(row["bytes"] for row in made.collectives) <= 1.2 * gradients, made.collectives


@needs_libtpu
@pytest.mark.slow
def test_a_slice_that_libtpu_does_not_know_and_a_step_that_does_not_fit(tiny):
    tiny.mesh.data, tiny.batch_size = -1, 9 * 1024
    with pytest.raises(UserError, match="'v5e:3x3' is no slice that libtpu knows .*There are: v5e, v6e as"):
        plan(tiny, "v5e:3x3")
    tiny.batch_size, tiny.model.preset = 2048, "ViT-L/14"
    tiny.model.image.image_size = 224
    large = plan(tiny, "v5e:2x2")
    assert not large.fits and large.bytes_per_chip["total"] > large.chip_memory_bytes > 16 * 10**9
    assert any("remat" in row for row in large.advice) and any("micro_batch_size" in row for row in large.advice)
