"""The table of rules names every array of the train state, and divides the large ones."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from clipjax.config import Config, MeshConfig, preset, preset_names
from clipjax.parallel.mesh import make_mesh, replicated, traced_on
from clipjax.parallel.sharding import RULES, by_rows, laid_out, spec_for
from clipjax.training.optimizer import make_optimizer
from clipjax.training.state import abstract_state
from clipjax.trees import flatten


def state_shapes(name, mesh=None):
    config = dataclasses.replace(Config(), total_steps=10_000, model=preset(name))
    return abstract_state(config, make_optimizer(config), mesh or make_mesh(MeshConfig(1, 8, 1)))


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)])
@pytest.mark.parametrize("name", preset_names())
def test_every_large_array_of_the_state_is_divided(name, sizes):
    mesh, large = make_mesh(MeshConfig(*sizes)), 0
    for path, leaf in flatten(state_shapes(name, mesh)).items():
        layers = leaf.shape[0] if "/blocks/" in path else 1
        if leaf.size > 2**16 * layers:  # a layer's vectors would cost a message each for next to nothing
            large += 1
            assert leaf.sharding.shard_shape(leaf.shape) != leaf.shape, path
            divided = leaf.size // math.prod(leaf.sharding.shard_shape(leaf.shape))
            assert divided == sizes[1] * sizes[2] or not re.search("/(blocks|first|token_embedding)/", path), path
    assert large > 3 or name.startswith("tiny")


@pytest.mark.parametrize("name", ["ViT-L/14", "RN50x64"])
def test_tensor_alone_divides_what_blocks_hold(name):
    for path, leaf in flatten(state_shapes(name, make_mesh(MeshConfig(2, 1, 4)))).items():
        if "/blocks/" in path and leaf.size > 2**16 * leaf.shape[0]:
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
    paths = [path for name in preset_names() for path in flatten(state_shapes(name))]
    first_rules = {next(i for i, (pattern, _) in enumerate(RULES) if re.search(pattern, path)) for path in paths}
    assert first_rules == set(range(len(RULES)))


@pytest.mark.parametrize(
    ("function", "shape", "spec"),
    [
        (by_rows, (4, 2), (("data", "fsdp"),)),
        (lambda x: by_rows(x, "tensor"), (8, 3), (("data", "fsdp", "tensor"),)),
        (lambda x: by_rows(x, "tensor"), (4, 3), (("data", "fsdp"),)),  # eight do not divide four
        (lambda x: by_rows(x, "tensor"), (2, 3), ("data",)),
        (by_rows, (1, 3), ()),
        (lambda x: laid_out(x, "data", None, ("fsdp", "tensor")), (2, 3, 8), ("data", None, ("fsdp", "tensor"))),
    ],
)
def test_activations_are_divided_as_far_as_the_mesh_divides_them(function, shape, spec):
    mesh = make_mesh(MeshConfig(2, 2, 2))

    def traced(x):
        with traced_on(mesh):
            return function(x)

    x = jax.device_put(jnp.arange(float(math.prod(shape))).reshape(shape), replicated(mesh))
    found = jax.jit(traced)(x)
    assert found.sharding.is_equivalent_to(jax.NamedSharding(mesh, PartitionSpec(*spec)), len(shape))
    assert (found == x).all()


def test_without_a_mesh_or_on_another_one_activations_stay_as_they_are():
    x = jnp.ones((8, 2))
    assert by_rows(x) is x
    with jax.set_mesh(jax.make_mesh((8,), ("batch",))):
        assert by_rows(x) is x
