"""Bytes of main memory that operations move: slices for themselves, updates in place, nothing on the chip."""

import jax
import jax.numpy as jnp
import pytest

from clipjax.planning import hlo
from clipjax.planning.traffic import estimated_cycles, host_bytes, memory_bytes

P = "%p = f32[1024]{0} parameter(0)"
STACK = "%s = f32[24,1024]{1,0} parameter(1)"
CUT = """
%cut (a: f32[24,1024], b: s32[]) -> f32[1,1024] {
  %a = f32[24,1024]{1,0} parameter(0)
  %b = s32[] parameter(1)
  %c = f32[24,1024]{1,0} bitcast(%a)
  ROOT %d = f32[1,1024]{1,0} dynamic-slice(%c, %b, %b), dynamic_slice_sizes={1,1024}
}
%whole (a: f32[24,1024], b: s32[]) -> f32[24,1024] {
  %a = f32[24,1024]{1,0} parameter(0)
  %b = s32[] parameter(1)
  %d = f32[1,1024]{1,0} dynamic-slice(%a, %b, %b), dynamic_slice_sizes={1,1024}
  ROOT %e = f32[24,1024]{1,0} add(%a, %a)
}
%update (a: f32[24,1024], b: f32[1,1024], c: s32[]) -> f32[24,1024] {
  %a = f32[24,1024]{1,0} parameter(0)
  %b = f32[1,1024]{1,0} parameter(1)
  %c = s32[] parameter(2)
  ROOT %d = f32[24,1024]{1,0} dynamic-update-slice(%a, %b, %c, %c)
}
%nested (a: f32[24,1024], b: s32[]) -> f32[1,1024] {
  %a = f32[24,1024]{1,0} parameter(0)
  %b = s32[] parameter(1)
  ROOT %d = f32[1,1024]{1,0} fusion(%a, %b), kind=kLoop, calls=%cut
}
"""
ROW, ALL = 4 * 1024, 24 * 4 * 1024


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        ("%x = f32[1024]{0} sine(%p)", 2 * ROW),
        ("%x = f32[1024]{0:T(1024)S(1)} sine(%p)", ROW),
        ("%x = f32[1024]{0} bitcast(%p)", 0),
        ("%x = (f32[1024]{0:S(1)}, f32[1024]{0}, u32[]{:S(2)}) copy-start(%p)", ROW),
        ("%x = f32[1024]{0} copy-done(%p)", 0),
        ("%x = ((f32[24,1024]{1,0}), f32[4,1024]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%s), slice={[0:4]}", 4 * ROW),
        (
            "%x = ((f32[24,1024]{1,0:S(5)}, s32[]), f32[1,1024]{1,0}, u32[]{:S(2)}) dynamic-slice-start(%s, %p)",
            ROW,
        ),
        ("%x = f32[2,1024]{1,0} slice(%s), slice={[0:2], [0:1024]}", 4 * ROW),
        ("%x = f32[24,1024]{1,0} dynamic-update-slice(%s, %p, %p)", 2 * ROW),
        ("%x = f32[1,1024]{1,0} fusion(%s, %p), kind=kLoop, calls=%cut", 2 * ROW + ROW),
        ("%x = f32[1,1024]{1,0} fusion(%s, %p), kind=kLoop, calls=%nested", 2 * ROW + ROW),
        ("%x = f32[24,1024]{1,0} fusion(%s, %p), kind=kLoop, calls=%whole", 2 * ALL + ROW),
        ("%x = f32[24,1024]{1,0} fusion(%s, %p, %p), kind=kLoop, calls=%update", ROW + 2 * ROW),
    ],
)
def test_an_operation_moves_what_it_reads_and_writes(module, line, moved):
    index = 0 if "calls" not in line else ROW  # the index is made by hand as long as a row, and read whole or cut with
    assert abs(memory_bytes(module(P, STACK, line, others=CUT)) - moved) <= index


def test_what_goes_to_the_host_and_comes_back_counts_apart(module):
    lines = (
        "%h = ((f32[24,1024]{1,0:S(5)}, f32[1,1024]{1,0}, s32[]), f32[24,1024]{1,0:S(5)}, u32[]{:S(2)}) "
        "dynamic-update-slice-start(%s, %p, %p)",
        "%c = (f32[1024]{0:S(1)}, f32[1024]{0}, u32[]{:S(2)}) copy-start(%p)",
    )
    assert host_bytes(module(P, STACK, *lines)) == ROW
    assert memory_bytes(module(P, STACK, *lines)) == 2 * ROW


def test_loops_move_as_often_as_they_run():
    x, w = jax.ShapeDtypeStruct((256, 256), jnp.float32), jax.ShapeDtypeStruct((16, 256, 256), jnp.float32)
    program = jax.jit(lambda x, w: jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]).lower(x, w).compile()
    moved, matrix = memory_bytes(hlo.parse(program.as_text())), 4 * 256**2
    assert 16 * 3 * matrix <= moved <= 16 * 10 * matrix  # x, w and the product at least; not 16 x 16 matrices


def test_a_program_for_tpus_reads_its_parameters_once_a_use(tpu_module):
    shard = 2 * 1024 * 256  # of one matrix, along fsdp of 4: read forward, backward and for the update, written once
    inputs = 2 * 256 * 1024
    assert memory_bytes(tpu_module) == pytest.approx(3 * 4 * shard + inputs, rel=1e-3)


def test_cycles_are_those_the_compiler_notes_times_the_rounds_of_its_loops(module, tpu_module):
    line = '%x = f32[1024]{0} sine(%p), backend_config={"window_config":{"estimated_cycles":"100"}}'
    assert estimated_cycles(module(P, line)) == 100
    products = 2 * 3 * (1 + 2 + 1) * 256 * 1024 * 1024  # forward, again, and two for the gradient
    least = products / (4 * 2 * 128**2)
    assert least < estimated_cycles(tpu_module) < 8 * least
