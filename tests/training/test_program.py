"""The compiled step lies as the rules say, and one that cannot fit is refused before it runs."""

import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from clipjax.config import MeshConfig, resolve
from clipjax.errors import UserError
from clipjax.parallel.mesh import make_mesh
from clipjax.training import program as program_module
from clipjax.training.optimizer import make_optimizer
from clipjax.training.program import _writes_loops_out, compile_step, trace_step
from clipjax.training.state import abstract_state

DEVICES = jax.devices()


@pytest.mark.slow
def test_the_compiled_step_keeps_the_layout_that_the_rules_say(tiny):
    tiny.model.image.heads = tiny.model.text.heads = 2
    config, mesh = resolve(tiny), make_mesh(MeshConfig(2, 2, 2), DEVICES)
    optimizer = make_optimizer(config)
    program = compile_step(config, optimizer, mesh, 16)
    said = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, optimizer, mesh))
    for sharding, kept, leaf in zip(
        *map(jax.tree.leaves, (said, program.output_shardings[0], abstract_state(config, optimizer, mesh))), strict=True
    ):
        assert kept.is_equivalent_to(sharding, leaf.ndim)
    assert program.input_shardings[0][1].images.spec == PartitionSpec(("data", "fsdp"))


@pytest.mark.slow
def test_loops_over_layers_are_written_out_on_a_single_cpu_without_checkpoints(tiny):
    tiny.model.image.layers = tiny.model.text.layers = 3

    def loops(devices, remat="none"):
        tiny.remat = remat
        config, mesh = resolve(tiny), make_mesh(MeshConfig(devices), DEVICES[:devices])
        return trace_step(config, make_optimizer(config), mesh, 16).lower().as_text().count("stablehlo.while")

    # What is left are the tiles of the loss; the others are two towers, forward and backward.
    assert loops(1) == loops(2) - 4 == loops(1, "block") - 4


@pytest.mark.parametrize(
    ("platform", "sizes", "written"),
    [
        ("gpu", (1, 1), True),
        ("gpu", (8, 1), True),
        ("gpu", (1, 8), False),
        ("tpu", (1, 1), False),
        ("cpu", (2, 1), False),
    ],
)
def test_loops_are_written_out_where_gpus_hold_the_weights_whole(platform, sizes, written):
    """The mesh is a stand-in: sizes are those of data and fsdp."""
    devices = np.array([SimpleNamespace(platform=platform)] * math.prod(sizes))
    mesh = SimpleNamespace(devices=devices, size=devices.size, shape=dict(zip(("data", "fsdp"), sizes, strict=True)))
    assert _writes_loops_out(mesh) == written


@pytest.mark.parametrize("memory", [10**6, 9 * 10**6], ids=["less than the state", "less than the program"])
def test_a_step_that_does_not_fit_is_refused_with_both_figures(tiny, monkeypatch, memory):
    config, mesh = resolve(tiny), make_mesh(MeshConfig(1), DEVICES[:1])
    monkeypatch.setattr(program_module, "device_limit", lambda mesh: memory)
    with pytest.raises(UserError, match=r"memory: the step needs .* MB a device, .* are there .* remat='block'"):
        compile_step(config, make_optimizer(config), mesh, 16)
