"""Layer decay: AdamW with a learning rate a layer, written out on a table with one entry a layer."""

import dataclasses
import re

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from clipjax.bundle import abstract_module
from clipjax.config import Config, MeshConfig, OptimizerConfig, preset
from clipjax.models.stacking import stack_layers, unstack_layers
from clipjax.parallel.mesh import make_mesh
from clipjax.training.layer_decay import layer_scales
from clipjax.training.optimizer import decays, make_optimizer
from clipjax.training.state import abstract_state
from clipjax.trees import flatten, unflatten

DECAY = 0.5
# powers of the factor, from the top: what the docstring says, for the tiny presets, by hand
VIT = {  # two blocks a tower
    r"image/(patch|ln_pre|class_embedding|positional_embedding)": 3,
    r"text/(token|positional)_embedding": 3,
    r"(image|text)/blocks/0/": 2,
    r"(image|text)/blocks/1/": 1,
    r"(image|text)/(ln_post|ln_final|projection)|logit_scale": 0,
}
RESNET = {  # stages of 2, 1, 1, 1 blocks
    r"image/stem/": 6,
    r"image/stage1/first/": 5,
    r"image/stage1/blocks/0/": 4,
    r"image/stage2/first/": 3,
    r"image/stage3/first/": 2,
    r"image/stage4/first/": 1,
    r"image/pool/": 0,
    **{pattern: power for pattern, power in VIT.items() if "image" not in pattern or "text" in pattern},
}


def config_of(name, **options):
    model = preset(name)
    model = dataclasses.replace(model, text=dataclasses.replace(model.text, vocab_size=50, end_token=49))
    options = {"learning_rate": 0.1, "warmup_steps": 0, "weight_decay": 0.3, "eps": 1e-3} | options
    return Config(total_steps=10, model=model, optimizer=OptimizerConfig(**options))


def tables(config):
    """Random parameters and two gradients, one entry a layer."""
    shapes = flatten(nnx.to_pure_dict(abstract_module(config)[1]))
    rng = np.random.default_rng(0)
    return [
        unstack_layers({path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in shapes.items()})
        for _ in range(3)
    ]


def trained(optimizer, params, *gradients):
    """The parameters after a step with each gradient."""

    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = jax.tree.map(np.add, params, updates)
    return params


def power(rules, path):
    found = [value for pattern, value in rules.items() if re.match(pattern, path)]
    assert len(found) == 1, path
    return found[0]


@pytest.mark.parametrize(("name", "rules"), [("tiny", VIT), ("tiny-resnet", RESNET)])
def test_updates_are_those_of_a_learning_rate_a_layer(name, rules):
    config = config_of(name, layer_decay=DECAY)
    params, *gradients = tables(config)
    nested = [unflatten(stack_layers(table)) for table in (params, *gradients)]
    found = unstack_layers(flatten(trained(make_optimizer(config), *nested)))

    decayed = flatten(decays(nested[0]))
    mask = {path: decayed[re.sub(r"/blocks/\d+/", "/blocks/", path)] for path in params}
    groups = {path: power(rules, path) for path in params}
    alone = {
        group: optax.adamw(
            optax.cosine_decay_schedule(0.1 * DECAY**group, 10),
            0.9,
            0.98,
            1e-3,
            weight_decay=0.3,
            mask=lambda tree: {path: mask[path] for path in tree},
        )
        for group in set(groups.values())
    }
    expected = trained(optax.multi_transform(alone, groups), params, *gradients)
    for path, leaf in expected.items():
        np.testing.assert_allclose(found[path], leaf, rtol=1e-5, atol=1e-6, err_msg=path)


def test_a_factor_a_layer_multiplies_with_a_stacked_parameter():
    config = config_of("tiny")
    params = nnx.to_pure_dict(abstract_module(config)[1])
    scales = flatten(layer_scales(config.model, DECAY, params))
    assert scales["text/blocks/mlp/fc/kernel"].tolist() == [[[0.25]]] and scales["text/last/mlp/fc/kernel"] == 0.5
    for path, leaf in flatten(params).items():
        assert np.broadcast_shapes(scales[path].shape, leaf.shape) == leaf.shape, path


def test_one_changes_nothing_and_the_state_has_the_same_arrays():
    plain, decaying = config_of("tiny"), config_of("tiny", layer_decay=DECAY)
    mesh = make_mesh(MeshConfig(2, 2, 2))
    shapes = [abstract_state(config, make_optimizer(config), mesh) for config in (plain, decaying)]
    for one, other in zip(*map(jax.tree.leaves, shapes), strict=True):
        assert (one.shape, one.sharding) == (other.shape, other.sharding)
