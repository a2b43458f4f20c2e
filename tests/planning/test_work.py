"""FLOP and kept bytes of the step, counted in its jaxpr, against the formula and against XLA."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from clipjax.config import Config, MeshConfig, preset
from clipjax.models.flops import forward_flops
from clipjax.parallel.mesh import make_mesh
from clipjax.planning.work import executed_flops, kept_bytes, useful_flops
from clipjax.training.optimizer import make_optimizer
from clipjax.training.program import trace_step

X = jax.ShapeDtypeStruct((64, 64), jnp.float32)


def jaxpr_of(function, *arguments):
    return jax.make_jaxpr(function)(*arguments).jaxpr


def traced(remat="none", model="ViT-B/16", batch=64):
    config = Config(batch_size=batch, total_steps=10_000, remat=remat, model=preset(model), precision="bfloat16")
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    step = trace_step(config, make_optimizer(config), mesh, config.model.text.context_length)
    return config, step.jaxpr.jaxpr


def test_products_and_loops_are_counted():
    product = 2 * 64**3
    assert executed_flops(jaxpr_of(lambda x: x @ x @ x, X), 1) == 2 * product
    loop = jaxpr_of(lambda x: jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=7)[0], X)
    assert executed_flops(loop, 1) == 7 * product
    assert executed_flops(loop, 1, once=True) == product
    written_out = jaxpr_of(lambda x: jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=7, unroll=True)[0], X)
    assert executed_flops(written_out, 1) == executed_flops(written_out, 1, once=True) == 7 * product
    branch = jaxpr_of(lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, x), X)
    assert executed_flops(branch, 1) == 2 * product


def test_what_is_written_for_a_platform_counts_on_it_alone():
    product = 2 * 64**3
    both = jaxpr_of(
        lambda x: jax.lax.platform_dependent(x, cpu=lambda x: x @ x @ x, cuda=lambda x: x, default=lambda x: x @ x), X
    )
    assert [executed_flops(both, 1, name) / product for name in ("cpu", "cuda", "tpu")] == [2, 0, 1]


def test_every_device_counts():
    mesh = make_mesh(MeshConfig(), jax.devices())
    here = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"))
    assert executed_flops(jaxpr_of(here, X), 8) == 8 * 2 * 8 * 8 * 64


def test_a_loop_without_length_is_not_guessed():
    loop = jaxpr_of(lambda x: jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x @ x, x), X)
    with pytest.raises(ValueError, match="without a length"):
        executed_flops(loop, 1)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_and_its_gradients_cost_the_same_each(stride):
    x, k = jax.ShapeDtypeStruct((4, 32, 32, 8), jnp.float32), jax.ShapeDtypeStruct((3, 3, 8, 16), jnp.float32)

    def convolve(x, k):
        return jax.lax.conv_general_dilated(x, k, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    one = 2 * 4 * (32 // stride) ** 2 * 16 * 9 * 8
    assert executed_flops(jaxpr_of(convolve, x, k), 1) == one
    gradient = jaxpr_of(jax.grad(lambda x, k: (convolve(x, k) ** 2).sum(), argnums=(0, 1)), x, k)
    assert executed_flops(gradient, 1) == pytest.approx(3 * one, rel=0.1)  # borders apart


def test_a_step_is_worth_three_forward_passes_and_a_frozen_tower_one():
    config = Config(batch_size=8, model=preset("ViT-B/32"))
    image, text = forward_flops(config.model)
    assert useful_flops(config) == 8 * 3 * (image + text)
    assert useful_flops(dataclasses.replace(config, freeze="image", init_from="x")) == 8 * (image + 3 * text)


def test_the_step_executes_what_the_formula_says():
    """But for the last block of each tower, which computes one token, and the pixels, which get no gradient."""
    config, jaxpr = traced()
    ratio = executed_flops(jaxpr, 1) / useful_flops(config)
    assert 1 - 1 / 12 < ratio < 1


def test_block_remat_computes_each_block_again_but_for_its_last_product():
    config, once = traced()
    _, again = traced("block")
    image, text = config.model.image, config.model.text
    added = 0
    for layers, width, tokens in ((image.layers, image.width, 197), (text.layers, text.width, text.context_length)):
        added += (layers - 1) * (16 * tokens * width**2 + 4 * tokens**2 * width)  # the last layer is not repeated
    assert executed_flops(again, 1) - executed_flops(once, 1) == pytest.approx(config.batch_size * added, rel=0.01)


def test_block_remat_keeps_the_input_of_each_block():
    config, jaxpr = traced("block")
    image, text = config.model.image, config.model.text
    kept = (image.layers - 1) * 197 * image.width + (text.layers - 1) * text.context_length * text.width
    assert kept_bytes(jaxpr) == 2 * config.batch_size * kept
    assert kept_bytes(traced()[1]) > 10 * kept_bytes(jaxpr)


@pytest.mark.slow
def test_xla_counts_the_same_with_each_loop_body_once():
    config, jaxpr = traced("block", batch=16)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    program = trace_step(config, make_optimizer(config), mesh, 77).lower().compile()
    assert executed_flops(jaxpr, 1, once=True) == pytest.approx(program.cost_analysis()["flops"], rel=0.06)
