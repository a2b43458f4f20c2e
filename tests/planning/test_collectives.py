"""Each transfer of a step counts once, with its payload, its axis and as often as it runs."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from clipjax.planning import hlo
from clipjax.planning.collectives import collectives, totals

SIZES = {"data": 2, "fsdp": 4}
ROWS = "replica_groups=[2,4]<=[8], use_global_device_ids=true"
P = "%p = f32[8]{0} parameter(0)"
ADD = "%add (a: f32[], b: f32[]) -> f32[] {\n  ROOT %a = f32[] parameter(0)\n}\n"


def rows(made):
    return [
        (row["kind"], row["axis"], row["count"], row["bytes"], row["wire"])
        for row in totals(collectives(made, SIZES, 8))
    ]


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (f"%x = f32[32]{{0}} all-gather(%p), channel_id=1, {ROWS}", ("all-gather", "fsdp", 1, 128, 96)),
        (f"%x = f32[8]{{0}} all-reduce(%p), channel_id=1, {ROWS}, to_apply=%add", ("all-reduce", "fsdp", 1, 32, 48)),
        (f"%x = f32[2]{{0}} reduce-scatter(%p), {ROWS}", ("reduce-scatter", "fsdp", 1, 32, 24)),
        (f"%x = f32[8]{{0}} all-to-all(%p), {ROWS}", ("all-to-all", "fsdp", 1, 32, 24)),
        (
            "%x = f32[8]{0} collective-permute(%p), source_target_pairs={{0,4},{4,0},{1,5},{5,1}}",
            ("collective-permute", "part of data", 1, 32, 32),
        ),
        (
            f"%x = (f32[8]{{0}}, f32[8]{{0}}) all-reduce(%p, /*index=1*/%p), {ROWS}",
            ("all-reduce", "fsdp", 1, 64, 96),
        ),
        (f"%x = (f32[8]{{0}}, f32[32]{{0}}) all-gather-start(%p), {ROWS}", ("all-gather", "fsdp", 1, 128, 96)),
    ],
)
def test_a_collective_counts_with_its_payload(module, line, row):
    assert rows(module(P, line)) == [row]


def between(kind):
    """What the compiler writes for a collective among the same devices of two slices."""
    told = f'is_host_transfer=true, frontend_attributes={{_xla_megascale_transfer_type="{kind}"}}'
    return (
        "%a = token[] after-all()",
        f"%s = (f32[8]{{0}}, u32[], token[]) send(%p, %a), channel_id=3, {told}",
        f"%r = (f32[8]{{0}}, u32[], token[]) recv(%a), channel_id=2, {told}",
        "%t = token[] send-done(%s), channel_id=3, is_host_transfer=true",
        "%d = (f32[8]{0}, token[]) recv-done(%r), channel_id=2, is_host_transfer=true",
    )


def test_what_goes_from_slice_to_slice_counts_as_what_it_stands_for(module):
    for kind, row in (
        ("ALL_REDUCE", ("all-reduce", "data", 1, 32, 32)),
        ("ALL_GATHER", ("all-gather", "data", 1, 64, 32)),
    ):
        found = totals(collectives(module(P, *between(kind)), SIZES, 8, slices=2))
        assert [tuple(item[key] for key in ("kind", "axis", "count", "bytes", "wire")) for item in found] == [row]


def test_what_ends_a_transfer_and_groups_of_one_count_nothing(module):
    lines = (
        f"%s = (f32[8]{{0}}, f32[32]{{0}}) all-gather-start(%p), {ROWS}",
        "%d = f32[32]{0} all-gather-done(%s)",
        "%one = f32[8]{0} all-reduce(%p), replica_groups=[8,1]<=[8]",
    )
    assert rows(module(P, *lines)) == [("all-gather", "fsdp", 1, 128, 96)]


def test_the_channel_is_no_key(module):
    line = f"all-gather(%p), channel_id=1, {ROWS}"
    assert rows(module(P, f"%x = f32[32]{{0}} {line}", f"%y = f32[32]{{0}} {line}"))[0][2] == 2


def fused(name, *lines, head="%q = f32[8]{0} parameter(0)"):
    body = "\n".join(f"  {line}" for line in (head, *lines))
    return f"%{name} (q: f32[8]) -> f32[8] {{\n{body}\n}}\n"


def test_a_reduction_that_is_sliced_is_a_reduce_scatter(module):
    inner = fused("all-reduce-scatter.1", f"%r = f32[8]{{0}} all-reduce(%q), {ROWS}, to_apply=%add")
    made = module(P, "ROOT %f = f32[2]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1", others=ADD + inner)
    assert rows(made) == [("reduce-scatter", "fsdp", 1, 32, 24)]


def test_a_transfer_beside_computations_counts_at_its_start_alone(module):
    gather = f"%g = f32[32]{{0}} all-gather(%q), channel_id=5, {ROWS}"
    call = '%c = f32[32]{0} custom-call(%g), custom_call_target="AsyncCollective%s"'
    others = fused("started", gather, call.replace("%s", "Start")) + fused("ended", gather, call.replace("%s", "Done"))
    others += fused("async_collective_fusion.3", gather)
    made = module(
        P,
        "%s = f32[32]{0} fusion(%p), kind=kCustom, calls=%started",
        "%m = f32[32]{0} fusion(%p), kind=kOutput, calls=%async_collective_fusion.3",
        "%d = f32[32]{0} fusion(%p), kind=kCustom, calls=%ended",
        others=others,
    )
    assert rows(made) == [("all-gather", "fsdp", 1, 128, 96)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%f = f32[8]{0} fusion(%p), kind=kCustom, calls=%strange", "fused in an unknown form"),
        ("%f = f32[8]{0} ragged-all-to-all(%p)", "not known here"),
        ("%f = f32[8]{0} all-reduce(%p), replica_groups=what", "unknown spelling"),
        ("%f = (f32[8]{0}, u32[], token[]) send(%p, %p), channel_id=1", "not known here"),
        (between("GOSSIP")[1].replace("%a", "%p"), "gossip between slices"),
    ],
)
def test_what_is_not_known_is_loud(module, line, said):
    strange = fused("strange", f"%r = f32[8]{{0}} all-reduce(%q), {ROWS}")
    with pytest.raises(ValueError, match=said):
        collectives(module(P, line, others=strange), SIZES, 8)


def test_a_step_for_tpus_sends_what_its_layout_implies(tpu_module):
    """Each of three matrices is gathered forward and backward, its gradient scattered along fsdp, summed along data."""
    matrix = 2 * 1024 * 1024
    assert rows_on(tpu_module, {"data": 4, "fsdp": 4}, 16) == {
        ("all-gather", "fsdp", "bf16", 6, 6 * matrix),
        ("reduce-scatter", "fsdp", "bf16", 3, 3 * matrix),
        ("all-reduce", "data", "bf16", 3, 3 * matrix // 4),
    }


def rows_on(made, sizes, devices):
    return {tuple(row.values())[:5] for row in totals(collectives(made, sizes, devices))}


def test_the_same_step_for_the_cpu_sends_the_same():
    """The step of the fixture, compiled here for 8 devices: other spellings, loops noted, all-reduce in place of a
    scattered sum."""
    path = pathlib.Path(__file__).parent / "fixtures/make_v5e_4x4.py"
    names = {}
    exec(compile(path.read_text(), path, "exec"), names)
    names["compiled"].__globals__["ROWS"], names["compiled"].__globals__["WIDTH"] = 64, 128
    text = names["compiled"](jax.devices()).as_text()
    found = rows_on(hlo.parse(text), {"data": 4, "fsdp": 2}, 8)
    matrix = 4 * 128 * 128  # computed in float32
    gathered = {(kind, axis, count) for kind, axis, _, count, _ in found if kind == "all-gather"}
    assert gathered == {("all-gather", "fsdp", 6)}
    sums = sum(size for kind, axis, _, _, size in found if kind in ("all-reduce", "reduce-scatter"))
    assert sums >= 3 * matrix


@pytest.mark.parametrize("axes", [("data",), ("fsdp",), ("data", "fsdp")])
def test_a_sum_over_axes_is_found_on_them(axes):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    place = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

    def here(x):
        return jax.lax.psum(x, axes)

    rest = PartitionSpec(tuple(axis for axis in ("data", "fsdp") if axis not in axes) or None)
    step = jax.jit(jax.shard_map(here, mesh=mesh, in_specs=place.spec, out_specs=rest))
    x = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=place)
    found = rows_on(hlo.parse(step.lower(x).compile().as_text()), {"data": 4, "fsdp": 2}, 8)
    assert found == {("all-reduce", "+".join(axes), "f32", 1, 8 * 16 * 4)}
