"""The policy: what a config computes in and stores in, and what is float32 whatever it says."""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from clipjax.bundle import abstract_module
from clipjax.config import Config, MeshConfig, preset
from clipjax.data.batch import batch_spec
from clipjax.errors import UserError
from clipjax.parallel.mesh import make_mesh
from clipjax.parallel.precision import check_platform, policy
from clipjax.training.optimizer import make_optimizer
from clipjax.training.state import abstract_state
from clipjax.training.step import make_step
from clipjax.trees import flatten

HALVES = (jnp.bfloat16, jnp.float16)


def config_of(name="tiny", precision="float32", moments="float32", text="float32"):
    model = preset(name)
    model = dataclasses.replace(model, text=dataclasses.replace(model.text, weights_dtype=text))
    config = Config(batch_size=16, total_steps=9000, precision=precision, model=model)
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, moments_dtype=moments))


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_precision_is_what_the_towers_compute_in(name):
    found = policy(config_of(precision=name))
    assert (found.compute, found.output, found.parameters) == (jnp.dtype(name), jnp.float32, jnp.float32)
    model = abstract_module(config_of(precision=name))
    assert {leaf.dtype for leaf in jax.tree.leaves(model[1])} == {jnp.dtype("float32")}


def test_the_kernels_and_the_token_embedding_are_halved_and_nothing_else():
    config = config_of("tiny-resnet", moments="float16", text="bfloat16")
    state = flatten(abstract_state(config, make_optimizer(config), make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])))
    large = {path for path in state if path.endswith(("kernel", "token_embedding"))}
    halved = {dtype: {path for path, leaf in state.items() if leaf.dtype == dtype} for dtype in HALVES}
    assert halved[jnp.bfloat16] == {path for path in large if path.startswith("params/text/")}
    assert halved[jnp.float16] == {path for path in large if path.startswith("opt_state/")}
    assert len(halved[jnp.bfloat16]) == 10 and len(halved[jnp.float16]) > 50


@pytest.mark.parametrize("name", ["RN50", "ViT-B/32", "ViT-L/14"])
def test_what_is_halved_is_nearly_everything(name):
    config = config_of(name, moments="bfloat16")
    state = flatten(abstract_state(config, make_optimizer(config), make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])))
    moments = [leaf for path, leaf in state.items() if path.startswith("opt_state/") and leaf.size > 1]
    halved = sum(leaf.size for leaf in moments if leaf.dtype == jnp.bfloat16)
    assert halved > 0.997 * sum(leaf.size for leaf in moments)


def equations(jaxpr):
    """Every equation of a jaxpr and of those inside of it."""
    for equation in jaxpr.eqns:
        yield equation
        inside = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr))
        for value in inside:
            if isinstance(value, ClosedJaxpr | Jaxpr):
                yield from equations(value.jaxpr if isinstance(value, ClosedJaxpr) else value)


# What sums many numbers, or what softmax, logsumexp, normalisation and the update are made of. Matrix products sum in
# float32 inside; `logistic` and `erf` are the towers' activations.
DELICATE = "reduce_sum reduce_max cumsum exp exp2 log log1p rsqrt sqrt div integer_pow psum".split()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["tiny", "tiny-resnet"])
def test_no_sum_or_statistic_of_a_step_is_in_half_precision(name, precision):
    config = config_of(name, precision, moments="bfloat16", text="bfloat16")
    mesh, optimizer = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]), make_optimizer(config)
    step = make_step(config, optimizer, abstract_module(config)[0], mesh)
    batch = batch_spec(config)
    jaxpr = jax.make_jaxpr(step)(abstract_state(config, optimizer, mesh), batch)
    seen, half, tables = Counter(), [], []
    for equation in equations(jaxpr.jaxpr):
        arrays = [x.aval for x in [*equation.invars, *equation.outvars]]
        sizes = {x.size for x in arrays}  # a sum from one shape to another of the same size only drops axes
        seen[equation.primitive.name] += 1
        if equation.primitive.name in DELICATE and any(x.dtype in HALVES for x in arrays):
            if equation.primitive.name != "reduce_sum" or len(sizes) > 1:
                half.append((equation.primitive.name, *map(str, arrays)))
        if equation.primitive.name == "scatter-add" and arrays[0].shape == (49408, 64):
            tables.append(arrays[0].dtype)
    assert seen["dot_general"] > 20 and seen["exp"] and seen["rsqrt"] and seen["reduce_sum"] > 20
    assert half == []
    assert tables == [jnp.float32]  # a frequent token's row is the sum of thousands


def test_float16_is_refused_where_it_is_not_computed():
    with pytest.raises(UserError, match="precision: float16 .* precision=.bfloat16"):
        check_platform(config_of(precision="float16"), "tpu")
    for precision, platform in (("float16", "gpu"), ("float16", "cpu"), ("bfloat16", "tpu")):
        check_platform(config_of(precision=precision), platform)
