"""Freezing: what is frozen stays to the bit, has no moments and costs no backward pass; the rest trains as ever."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from clipjax.bundle import abstract_module
from clipjax.config import Config, MeshConfig, OptimizerConfig, preset
from clipjax.data.batch import Batch
from clipjax.parallel.mesh import make_mesh
from clipjax.training.freeze import join, split
from clipjax.training.optimizer import make_optimizer
from clipjax.training.state import abstract_state, init_state
from clipjax.training.step import make_step
from clipjax.trees import flatten

OPTIMIZER = OptimizerConfig(learning_rate=1e-3, warmup_steps=0, eps=1e-3)
ONE = make_mesh(MeshConfig(), jax.devices()[:1])


def config_of(name="tiny", **changes):
    model = preset(name)
    text = dataclasses.replace(model.text, vocab_size=500, end_token=499)
    image = dataclasses.replace(model.image, image_size=16) if name == "tiny" else model.image
    model = dataclasses.replace(model, text=text, image=image)
    return Config(total_steps=10, batch_size=8, init_from="x", model=model, optimizer=OPTIMIZER, **changes)


def batch_of(config):
    rng = np.random.default_rng(0)
    size, length = config.model.image.image_size, config.model.text.context_length
    tokens = rng.integers(1, 400, (config.batch_size, length)).astype(np.int32)
    tokens[:, 5] = config.model.text.end_token
    return Batch(rng.integers(0, 256, (config.batch_size, size, size, 3), dtype=np.uint8), tokens)


def lowered(config, mesh):
    """The traced step."""
    optimizer = make_optimizer(config)
    state = abstract_state(config, optimizer, mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_step(config, optimizer, abstract_module(config)[0], mesh)
    return jax.jit(step, out_shardings=(places, None)).lower(state, batch_of(config))


def one_step(config, mesh=ONE):
    """Parameters and running averages before and after one step, and its metrics."""
    state = init_state(config, make_optimizer(config), mesh)
    after, metrics = lowered(config, mesh).compile()(state, batch_of(config))
    return flatten((state.params, state.batch_stats)), flatten((after.params, after.batch_stats)), metrics


def moved(before, after):
    return {path for path, leaf in before.items() if not np.array_equal(leaf, after[path])}


@pytest.fixture(scope="module")
def free():
    """One step of the tiny model with nothing frozen."""
    return one_step(config_of())


@pytest.mark.parametrize("changes", [{"freeze": "image"}, {"freeze": "text"}, {"freeze_batch_norm": True}])
@pytest.mark.parametrize("name", ["tiny", "tiny-resnet"])
def test_every_parameter_is_either_trained_or_frozen(name, changes):
    config = config_of(name, **changes)
    params = nnx.to_pure_dict(abstract_module(config)[1])
    trained, frozen = split(config, params)
    assert join(trained, frozen) == params
    frozen = set(flatten(frozen))
    if tower := changes.get("freeze"):
        assert frozen == {path for path in flatten(params) if path.startswith(f"{tower}/")}
        assert f"{tower}/projection/kernel" in frozen or f"{tower}/pool/projection/kernel" in frozen
    else:
        gains = {path for path in flatten(params) if "/bn" in path}
        assert frozen == gains and bool(gains) == (name == "tiny-resnet")


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_frozen_tower_stays_and_the_other_one_trains_as_if_it_were_free(tower, free):
    before, after, metrics = one_step(config_of(freeze=tower))
    start, unfrozen, _ = free
    kept = {path for path in before if f"/{tower}/" in path}
    assert moved(before, after) == moved(start, unfrozen) - kept and kept <= moved(start, unfrozen)
    for path in before.keys() - kept:
        np.testing.assert_allclose(after[path], unfrozen[path], rtol=1e-5, atol=1e-6, err_msg=path)
    assert metrics["gradient_finite"].shape == (len(before) - len(kept),)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_frozen_tower_has_no_moments(tower):
    config = config_of(freeze=tower)
    opt_state = flatten(abstract_state(config, make_optimizer(config), ONE).opt_state)
    assert any(path.endswith("logit_scale") for path in opt_state)
    assert not [path for path in opt_state if f"{tower}/" in path]


def test_the_backward_pass_of_a_frozen_tower_is_not_computed():
    wide = config_of()  # an image tower that dwarfs the other, so that its share of the work shows
    image = dataclasses.replace(wide.model.image, image_size=64, width=256, heads=4)
    wide = dataclasses.replace(wide, model=dataclasses.replace(wide.model, image=image))

    def flops(**changes):
        return lowered(dataclasses.replace(wide, **changes), ONE).cost_analysis()["flops"]

    assert flops(freeze="image") < 0.36 * flops()


@pytest.mark.slow
def test_a_frozen_step_is_the_same_on_a_mesh():
    """Also: every array of the smaller optimizer state has its rule."""
    two = config_of(freeze="image")
    towers = {tower: dataclasses.replace(getattr(two.model, tower), heads=2) for tower in ("image", "text")}
    two = dataclasses.replace(two, model=dataclasses.replace(two.model, **towers))
    (_, one, _), (_, eight, _) = one_step(two), one_step(two, make_mesh(MeshConfig(2, 2, 2)))
    for path, leaf in one.items():
        np.testing.assert_allclose(eight[path], leaf, rtol=1e-4, atol=2e-6, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "averages", "gains", "kernels"),
    [
        ({"freeze_batch_norm": True}, False, False, True),
        ({"freeze": "image"}, False, False, False),
        ({"freeze": "text"}, True, True, True),
    ],
)
def test_a_resnets_batch_norms_are_frozen_with_it_or_alone(changes, averages, gains, kernels):
    before, after, _ = one_step(config_of("tiny-resnet", **changes))
    changed = moved(before, after)
    assert any(path.endswith(("mean", "var")) for path in changed) == averages
    assert any("/bn" in path and path.endswith(("scale", "bias")) for path in changed) == gains
    assert any(path.startswith("0/image") and path.endswith("kernel") for path in changed) == kernels
    assert any(path.startswith("0/text") for path in changed) == (changes.get("freeze") != "text")
    assert "0/logit_scale" in changed
