"""The table of rules names every array of the train state, and divides the large ones."""

import dataclasses

import pytest
from jax.sharding import PartitionSpec

from clipjax.config import Config, MeshConfig, preset, preset_names
from clipjax.parallel.mesh import make_mesh
from clipjax.parallel.sharding import RULES, spec_for
from clipjax.training.optimizer import make_optimizer
from clipjax.training.state import abstract_state
from clipjax.trees import flatten


def state_shapes(name, mesh=None):
    config = dataclasses.replace(Config(), total_steps=10_000, model=preset(name))
    return abstract_state(config, make_optimizer(config), mesh or make_mesh(MeshConfig(1, 8, 1)))


@pytest.mark.parametrize("name", preset_names())
def test_every_large_array_of_the_state_is_divided(name):
    for path, leaf in flatten(state_shapes(name)).items():
        if leaf.size >= 2**20:
            assert not leaf.sharding.is_fully_replicated, path


@pytest.mark.parametrize("name", ["tiny", "tiny-resnet"])
def test_moments_lie_as_their_parameter(name):
    shapes = flatten(state_shapes(name, make_mesh(MeshConfig(2, 2, 2))))
    specs = {path: leaf.sharding for path, leaf in shapes.items()}
    params = {path.removeprefix("params/"): spec for path, spec in specs.items() if path.startswith("params/")}
    for path, spec in specs.items():
        if "/mu/" in path or "/nu/" in path:
            assert spec == params[path.split("/mu/")[-1].split("/nu/")[-1]], path


def test_an_array_without_a_rule_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="image/gate/kernel .3, 4."):
        spec_for("params/image/gate/kernel", (3, 4), {"data": 1, "fsdp": 1, "tensor": 1})


def test_an_axis_that_does_not_divide_stays_whole():
    sizes = {"data": 1, "fsdp": 3, "tensor": 2}
    assert spec_for("text/blocks/mlp/fc/kernel", (2, 64, 256), sizes) == PartitionSpec(None, None, "tensor")
    assert spec_for("text/last/mlp/fc/kernel", (64, 256), sizes) == PartitionSpec(None, "tensor")


def test_every_rule_is_used_by_some_preset():
    import re

    paths = [path for name in preset_names() for path in flatten(state_shapes(name))]
    first_rules = {next(i for i, (pattern, _) in enumerate(RULES) if re.search(pattern, path)) for path in paths}
    assert first_rules == set(range(len(RULES)))
