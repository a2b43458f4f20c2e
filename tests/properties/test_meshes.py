"""A step is the same on any mesh, and its devices send each other what the layout asks for and no more."""

import collections
import dataclasses

import jax
import numpy as np
import pytest

from clipjax.bundle import abstract_module
from clipjax.config import Config, MeshConfig, OptimizerConfig, TextConfig, preset
from clipjax.data.batch import Batch
from clipjax.parallel.mesh import make_mesh, place_rows
from clipjax.planning.collectives import collectives
from clipjax.planning.hlo import parse
from clipjax.training.loop import compile_step
from clipjax.training.optimizer import make_optimizer
from clipjax.training.state import init_state
from clipjax.training.step import make_step
from clipjax.trees import flatten

LAYERS = 3  # two of them in the loop, and the last, which computes one token, after it


def config_of(name, **changes):
    """A small model whose widths, unlike any other sizes, tell the towers apart in a compiled program."""
    model = preset(name)
    text = TextConfig(context_length=12, vocab_size=512, width=192, layers=LAYERS, heads=2, end_token=511)
    if model.image.kind == "vit":
        image = dataclasses.replace(model.image, width=128, layers=LAYERS, heads=2)
    else:
        image = dataclasses.replace(model.image, image_size=32, stages=(2, 1, 1, 1))
    # eps above the noise of the gradients: AdamW turns a gradient of rounding errors into a full step otherwise
    optimizer = OptimizerConfig(warmup_steps=1, learning_rate=1e-3, eps=1e-3)
    model = dataclasses.replace(model, image=image, text=text)
    return dataclasses.replace(Config(), total_steps=10, batch_size=16, model=model, optimizer=optimizer, **changes)


def batch_of(config, seed):
    rng, (size, length) = np.random.default_rng(seed), (config.model.image.image_size, 12)
    tokens = rng.integers(1, 511, (config.batch_size, length)).astype(np.int32)
    tokens[np.arange(config.batch_size), rng.integers(3, length, config.batch_size)] = 511
    return Batch(rng.integers(0, 256, (config.batch_size, size, size, 3), dtype=np.uint8), tokens)


def three_steps(config, devices):
    """(metrics of each step, the state after three steps) on the first devices."""
    mesh, optimizer = make_mesh(config.mesh, jax.devices()[:devices]), make_optimizer(config)
    step = jax.jit(make_step(config, optimizer, abstract_module(config)[0], mesh))
    state, metrics, rows = init_state(config, optimizer, mesh), [], np.arange(config.batch_size)
    for seed in range(3):
        batch = jax.tree.map(lambda leaf: place_rows(mesh, leaf, rows, config.batch_size), batch_of(config, seed))
        state, found = step(state, batch)
        metrics.append(found)
    return metrics, state


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "tiny-resnet"])
def test_data_fsdp_and_tensor_at_once_change_no_number(name):
    config = config_of(name)
    one, alone = three_steps(dataclasses.replace(config, mesh=MeshConfig(1, 1, 1)), 1)
    other, divided = three_steps(dataclasses.replace(config, mesh=MeshConfig(2, 2, 2)), 8)
    for expected, found in zip(one, other, strict=True):
        for key in ("loss", "gradient_norm", "parameter_norm", "recall_at_1"):
            np.testing.assert_allclose(found[key], expected[key], rtol=1e-4, err_msg=key)
    places = flatten(divided.params)
    for path, leaf in flatten(alone.params).items():
        np.testing.assert_allclose(places[path], leaf, rtol=1e-3, atol=1e-5, err_msg=path)
    for path, leaf in flatten(alone.batch_stats).items():
        np.testing.assert_allclose(flatten(divided.batch_stats)[path], leaf, rtol=1e-4, atol=1e-5, err_msg=path)


def exchanges(config):
    """The compiled step's collectives: ({(kind, axis): operations} of the layers of both towers, {kind: operations} of
    what stands outside of their loops: last blocks, loss and what is no block). Sums of scalars do not count."""
    mesh = make_mesh(config.mesh, jax.devices())
    text = compile_step(config, make_optimizer(config), mesh, config.model.text.context_length).as_text()
    layers, outside = collections.Counter(), collections.Counter()
    for item in collectives(parse(text), dict(mesh.shape), mesh.size):
        if item.count == LAYERS - 1:
            layers[item.kind, item.axis] += 1
        elif item.bytes > 64:
            outside[item.kind] += 1
    return dict(layers), dict(outside)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "layers", "outside"),
    [
        # the gradients of each tower's layers are one message
        (MeshConfig(8, 1, 1), {("all-reduce", "data"): 2}, {"all-gather": 1, "all-reduce": 1, "reduce-scatter": 1}),
        # qkv, out, fc and proj are gathered, and once more for the gradient
        (
            MeshConfig(1, 8, 1),
            {("all-gather", "fsdp"): 16, ("all-reduce", "fsdp"): 2},
            {"all-gather": 17, "all-to-all": 2, "all-reduce": 14, "reduce-scatter": 1},
        ),
        # tensor adds up what attention and MLP give, and their gradients; gradients go by how their weights lie
        (
            MeshConfig(2, 2, 2),
            {
                ("all-gather", "fsdp"): 16,
                ("all-reduce", "tensor"): 8,
                ("all-reduce", "fsdp"): 2,
                ("all-reduce", "data"): 2,
                ("all-reduce", "data+fsdp"): 2,
            },
            {"all-gather": 28, "all-to-all": 2, "all-reduce": 15, "reduce-scatter": 1, "collective-permute": 6},
        ),
    ],
)
def test_a_layer_gathers_its_weights_and_exchanges_nothing_else(mesh, layers, outside):
    assert exchanges(config_of("tiny", mesh=mesh)) == (layers, outside)
