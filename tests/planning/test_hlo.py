"""The text of a program is read as its compilers print it, and loops are counted as often as they run."""

import jax
import jax.numpy as jnp
import pytest

from clipjax.planning import hlo

LOOP = """
%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  ROOT %p = (s32[], f32[8]{0}) parameter(0)
}

%cond (q: (s32[], f32[8])) -> pred[] {
  %q = (s32[], f32[8]{0}) parameter(0)
  %n = s32[]{:T(128)} constant(24)
  %i = s32[] get-tuple-element(%q), index=0
  ROOT %lt = pred[] compare(%i, %n), direction=LT, metadata={op_name="a (b" }
}
"""
WHILE = "%w = (s32[], f32[8]{0}) while(%t), condition=%cond, body=%body"


def test_a_type_names_its_arrays_and_their_memory():
    text = "(bf16[128,17,3,64]{0,3,2,1:T(8,128)(2,1)S(1)}, /*index=5*/f32[], pred[4]{0}, u32[]{:S(2)})"
    assert hlo.arrays(text) == (
        hlo.Array("bf16", (128, 17, 3, 64), 1, (128, 17, 3, 64)),
        hlo.Array("f32", ()),
        hlo.Array("pred", (4,)),
        hlo.Array("u32", (), 2),
    )
    assert [array.bytes for array in hlo.arrays(text)] == [2 * 128 * 17 * 3 * 64, 4, 4, 4]


def test_an_array_is_stored_in_whole_tiles():
    (scores,) = hlo.arrays("f32[128,16,257,257]{2,3,1,0:T(8,128)}")
    assert scores.bytes == 4 * 128 * 16 * 257 * 257
    assert scores.stored == 4 * 128 * 16 * 384 * 264  # the first axis of the layout is the minor one
    assert [array.stored for array in hlo.arrays("(f32[1000]{0:T(1024)}, f32[1000]{0}, f32[]{:T(128)})")] == [
        4096,
        4000,
        4,
    ]


def test_an_unknown_type_is_not_passed_over():
    with pytest.raises(ValueError, match="unknown type"):
        hlo.Array("mystery", (3,)).bytes  # noqa: B018


def test_operations_are_read_with_their_operands_and_attributes(module):
    made = module(
        "%p = f32[8]{0} parameter(0)",
        '%c = f32[8]{0:T(128)} custom-call(%p, %p), custom_call_target="a)(", calls=%x.1',
        "ROOT %t = (f32[8]{0}, /*index=1*/f32[8]{0}) tuple(%p, /*index=1*/%c)",
    )
    p, c, t = made.computations["main"].values()
    assert (c.kind, c.operands, c.attribute("calls")) == ("custom-call", ("p", "p"), "x.1")
    assert t.root and t.operands == ("p", "c") and len(t.types) == 2
    assert p.inner == "0"


def test_a_loop_runs_as_often_as_its_condition_says(module):
    made = module("%z = s32[] constant(0)", "%t = (s32[], f32[8]) tuple(%z, %z)", WHILE, others=LOOP)
    assert hlo.executions(made) == {"main": 1, "body": 24, "cond": 24}


def test_a_counter_may_begin_above_zero_and_behind_copies(module):
    lines = ("%z = s32[] constant(4)", "%y = s32[] copy(%z)", "%t = (s32[], f32[8]) tuple(%y, %z)", WHILE)
    assert hlo.executions(module(*lines, others=LOOP))["body"] == 20


def test_the_compilers_own_note_comes_first(module):
    noted = WHILE + ', backend_config={"known_trip_count":{"n":"7"}}'
    assert hlo.executions(module("%t = s32[] constant(0)", noted, others=LOOP))["body"] == 7


def test_a_fused_condition_is_read_too(module):
    fused = """
%compare (a: s32[], b: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %c = pred[] compare(%a, %b), direction=LT
}
"""
    others = fused + LOOP.replace("compare(%i, %n), direction=LT", "fusion(%i, %n), kind=kLoop, calls=%compare")
    assert hlo.executions(module("%t = s32[] constant(0)", WHILE, others=others))["body"] == 24


@pytest.mark.parametrize("change", [("direction=LT", "direction=NE"), ("constant(24)", "parameter(1)")])
def test_a_loop_of_unknown_length_is_not_guessed(module, change):
    with pytest.raises(ValueError, match="loop w: its condition cond"):
        hlo.executions(module("%t = s32[] constant(0)", WHILE, others=LOOP.replace(*change)))


def test_branches_and_calls_are_followed(module):
    other = "%{0} (p: f32[8]) -> f32[8] {{\n  ROOT %p{0} = f32[8] parameter(0)\n}}\n"
    made = module(
        "%p = f32[8] parameter(0)",
        "%a = f32[8] conditional(%p, %p, %p), branch_computations={%one, %two}",
        "%b = f32[8] conditional(%p, %p, %p), true_computation=%one, false_computation=%three",
        "ROOT %c = f32[8] call(%b), to_apply=%three",
        others="".join(other.format(name) for name in ("one", "two", "three")),
    )
    assert hlo.executions(made) == {"main": 1, "one": 2, "two": 1, "three": 2}


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="no entry computation"):
        hlo.parse("HloModule nothing")


def test_loops_of_a_program_compiled_here_are_counted():
    def outer(x, _):
        return jax.lax.scan(lambda x, _: (jnp.sin(x @ x), None), x, None, length=5)[0], None

    x = jax.ShapeDtypeStruct((32, 32), jnp.float32)
    program = jax.jit(lambda x: jax.lax.scan(outer, x, None, length=3)[0]).lower(x).compile()
    assert 15 in hlo.executions(hlo.parse(program.as_text())).values()


def test_loops_of_a_program_for_tpus_are_counted(tpu_module):
    counts = sorted(hlo.executions(tpu_module).values())
    assert counts == [1, 3, 3, 3, 3]  # two loops of three layers, each a body and a condition
