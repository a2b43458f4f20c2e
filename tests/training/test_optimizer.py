"""AdamW as the paper has it: the schedule, and which tensors decay."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.bundle import abstract_module
from clipjax.config import Config, OptimizerConfig, preset
from clipjax.training.optimizer import decays, learning_rate, make_optimizer
from clipjax.trees import flatten


def config_of(total=100, **options):
    section = OptimizerConfig(**{"warmup_steps": 10, "learning_rate": 1.0, **options})
    return dataclasses.replace(Config(), total_steps=total, optimizer=section, model=preset("tiny"))


def test_the_rate_rises_linearly_and_falls_as_a_cosine_to_zero():
    schedule = learning_rate(config_of())
    rates = np.array([float(schedule(step)) for step in range(101)])
    assert 0 < rates[0] <= 0.1 + 1e-6 and rates.argmax() == 10 and rates[10] == 1.0
    np.testing.assert_allclose(np.diff(rates[:11]), 0.09, rtol=1e-4)
    cosine = [0.5 * (1 + math.cos(math.pi * (step - 10) / 90)) for step in range(10, 101)]
    np.testing.assert_allclose(rates[10:], cosine, atol=1e-6)


def test_without_warm_up_the_rate_starts_at_its_peak():
    assert float(learning_rate(config_of(warmup_steps=0))(0)) == 1.0


@pytest.mark.parametrize("name", ["tiny", "tiny-resnet"])
def test_only_weights_decay(name):
    config = dataclasses.replace(config_of(), model=preset(name))
    params = nnx.to_pure_dict(abstract_module(config)[1])
    decayed = {path for path, yes in flatten(decays(params)).items() if yes}
    kernels = {path for path in flatten(params) if path.endswith("kernel")}
    assert decayed == kernels | {"text/token_embedding"}
    assert "logit_scale" in flatten(params) and "logit_scale" not in decayed


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_an_update_is_adamw_written_out(clip):
    config = config_of(warmup_steps=0, weight_decay=0.1, clip_norm=clip, b1=0.9, b2=0.98, eps=1e-6)
    params = {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([3.0])}
    gradient = {"kernel": jnp.array([0.5, 2.0]), "bias": jnp.array([-1.0])}
    optimizer = make_optimizer(config)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    norm = math.sqrt(0.25 + 4 + 1)
    factor = min(1, clip / norm) if clip else 1
    for name, decay in (("kernel", 0.1), ("bias", 0.0)):
        g = np.asarray(gradient[name]) * factor
        expected = -(g / (np.abs(g) + 1e-6) + decay * np.asarray(params[name]))  # first step: m and v are unbiased to g
        np.testing.assert_allclose(updates[name], expected, rtol=1e-5)
