"""The step: the loss of the global batch, the same on any mesh, and harmless when something is not finite."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.bundle import abstract_module, merge
from clipjax.config import MeshConfig, resolve
from clipjax.data.batch import Batch
from clipjax.images.preprocess import normalize
from clipjax.parallel.mesh import make_mesh
from clipjax.training.loss_scale import LossScale
from clipjax.training.optimizer import make_optimizer
from clipjax.training.state import init_state
from clipjax.training.step import MAX_LOG_SCALE, make_step
from clipjax.trees import flatten

MESHES = [MeshConfig(1, 1, 1), MeshConfig(4, 1, 1), MeshConfig(2, 2, 2)]


@pytest.fixture
def config(tiny):
    tiny.model.image.heads = tiny.model.text.heads = 2
    tiny.mesh.data = -1
    return resolve(tiny)


@pytest.fixture
def resnet(tiny):
    tiny.model.preset, tiny.model.image.image_size = "tiny-resnet", 32
    tiny.mesh.data = -1
    return resolve(tiny)


def batch_of(config, seed=0):
    rng = np.random.default_rng(seed)
    size, length = config.model.image.image_size, config.model.text.context_length
    images = rng.integers(0, 256, (config.batch_size, size, size, 3), dtype=np.uint8)
    tokens = rng.integers(1, 400, (config.batch_size, length)).astype(np.int32)
    tokens[np.arange(config.batch_size), rng.integers(3, length, config.batch_size)] = 49407
    return Batch(images, tokens)


def start(config, mesh_config=MESHES[0]):
    """State and jitted step on a mesh of as many devices as the sizes say."""
    count = mesh_config.data * mesh_config.fsdp * mesh_config.tensor
    mesh = make_mesh(mesh_config, jax.devices()[:count])
    optimizer = make_optimizer(config)
    return init_state(config, optimizer, mesh), jax.jit(make_step(config, optimizer, abstract_module(config)[0], mesh))


@pytest.mark.slow
def test_loss_and_recall_are_those_of_the_written_out_formula(config):
    state, step = start(config)
    batch = batch_of(config)
    _, metrics = step(state, batch)
    features = merge(config, state.params, {})(
        normalize(batch.images, config.model.image.mean, config.model.image.std), batch.tokens
    )
    logits = np.asarray(features.logit_scale * features.image @ features.text.T, np.float64)
    rows, columns = np.log(np.exp(logits).sum(1)), np.log(np.exp(logits).sum(0))
    expected = 0.5 * ((rows - np.diag(logits)).mean() + (columns - np.diag(logits)).mean())
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["recall_at_1"]) == pytest.approx((logits.argmax(1) == np.arange(len(logits))).mean())


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES[1:])
def test_three_steps_are_the_same_on_any_mesh(config, mesh):
    # eps above the noise of the gradients: AdamW turns a gradient of rounding errors into a full step otherwise
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, eps=1e-3))
    (one, one_step), (other, other_step) = start(config), start(config, mesh)
    for seed in range(3):
        one, expected = one_step(one, batch_of(config, seed))
        other, found = other_step(other, batch_of(config, seed))
        for name in ("loss", "gradient_norm", "parameter_norm", "recall_at_1", "learning_rate"):
            np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, err_msg=name)
    for path, leaf in flatten(one.params).items():
        np.testing.assert_allclose(flatten(other.params)[path], leaf, rtol=1e-4, atol=2e-6, err_msg=path)


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(config):
    state, step = start(config)
    kernel = state.params["image"]["projection"]["kernel"]
    state.params["image"]["projection"]["kernel"] = kernel.at[0, 0].set(jnp.inf)
    after, metrics = step(state, batch_of(config))
    assert not metrics["finite"] and not metrics["gradient_finite"].all()
    assert (int(after.step), int(after.skipped), int(metrics["skipped_steps"])) == (1, 1, 1)
    for path, leaf in flatten((state.params, state.opt_state)).items():
        np.testing.assert_array_equal(flatten((after.params, after.opt_state))[path], leaf, path)


@pytest.mark.slow
def test_a_step_that_is_not_finite_leaves_the_running_averages(resnet):
    state, step = start(resnet)
    good, _ = step(state, batch_of(resnet))
    for path, leaf in flatten(state.batch_stats).items():
        assert not np.array_equal(flatten(good.batch_stats)[path], leaf), path
    bias = good.params["image"]["stage4"]["first"]["bn3"]["bias"]
    good.params["image"]["stage4"]["first"]["bn3"]["bias"] = bias.at[0].set(jnp.nan)
    bad, metrics = step(good, batch_of(resnet, 1))
    assert not metrics["finite"]
    for path, leaf in flatten(good.batch_stats).items():
        np.testing.assert_array_equal(flatten(bad.batch_stats)[path], leaf, path)


@pytest.mark.slow
def test_batch_norm_takes_the_statistics_of_the_global_batch_on_any_mesh(resnet):
    ends = []
    for mesh in (MESHES[0], MeshConfig(4, 2, 1)):
        state, step = start(resnet, mesh)
        for path, leaf in flatten(state.params).items():  # a fresh model's last gains are 0, and most gradients with it
            if path.endswith("bn3/scale"):
                folder = functools.reduce(dict.get, path.split("/")[:-1], state.params)
                folder["scale"] = jnp.ones_like(leaf)
        after, metrics = step(state, batch_of(resnet))
        moments = flatten(after.opt_state)  # the first ones are a tenth of the gradient
        gradients = {path.split("/mu/")[1]: leaf for path, leaf in moments.items() if "/mu/" in path}
        ends.append((flatten(after.batch_stats), gradients, metrics))
    (averages, gradients, metrics), (other_averages, other_gradients, other_metrics) = ends
    assert float(other_metrics["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-5)
    for path, leaf in averages.items():
        np.testing.assert_allclose(other_averages[path], leaf, rtol=1e-5, atol=1e-6, err_msg=path)
    for path, leaf in gradients.items():
        noise = max(1e-4 * float(jnp.abs(leaf).max()), 1e-7)
        np.testing.assert_allclose(other_gradients[path], leaf, rtol=1e-3, atol=noise, err_msg=path)


def test_the_logit_scale_stays_at_most_100(config):
    state, step = start(config)
    state.params["logit_scale"] = jnp.asarray(MAX_LOG_SCALE + 1)
    after, metrics = step(state, batch_of(config))
    assert float(after.params["logit_scale"]) == pytest.approx(MAX_LOG_SCALE)
    assert metrics["finite"]


@pytest.mark.slow
def test_bfloat16_computes_close_to_float32_and_keeps_float32_state(config):
    (state, step), (_, half_step) = start(config), start(dataclasses.replace(config, precision="bfloat16"))
    _, expected = step(state, batch_of(config))
    after, found = half_step(state, batch_of(config))
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=0.02)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((after.params, after.opt_state))} <= {"float32", "int32"}


@pytest.mark.slow
def test_block_checkpointing_changes_no_number(config):
    (state, step), (_, kept_step) = start(config), start(dataclasses.replace(config, remat="block"))
    one, _ = step(state, batch_of(config))
    other, _ = kept_step(state, batch_of(config))
    for path, leaf in flatten(one.params).items():
        np.testing.assert_allclose(flatten(other.params)[path], leaf, rtol=1e-5, atol=1e-6, err_msg=path)


def test_a_step_of_the_sigmoid_loss_is_the_same_on_any_mesh_and_trains_the_bias(config):
    config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, kind="sigmoid", mask_duplicates=True))
    batch = batch_of(config)._replace(image_keys=np.arange(config.batch_size, dtype=np.int32) // 2)
    ends = []
    for mesh in (MESHES[0], MESHES[2]):
        state, step = start(config, mesh)
        state.params["logit_scale"] = jnp.asarray(MAX_LOG_SCALE + 1)  # no end to it here
        after, metrics = step(state, batch)
        assert metrics["finite"] and float(after.params["logit_scale"]) > MAX_LOG_SCALE + 0.9
        moments = flatten(after.opt_state)
        bias = next(leaf for path, leaf in moments.items() if path.endswith("mu/logit_bias"))
        ends.append((float(metrics["loss"]), float(bias)))
    assert ends[0] == pytest.approx(ends[1], rel=1e-4) and ends[0][1] != 0


@pytest.mark.slow
def test_float16_computes_close_to_float32_whatever_the_scale_of_the_loss(config):
    half = dataclasses.replace(config, precision="float16")
    (state, step), (half_state, half_step) = start(config), start(half)
    _, expected = step(state, batch_of(config))
    for scale in (2.0**12, 2.0**6):
        half_state = half_state._replace(loss_scale=half_state.loss_scale._replace(scale=jnp.float32(scale)))
        after, found = half_step(half_state, batch_of(config))
        assert found["finite"] and not found["overflow"] and float(found["loss_scale"]) == scale
        assert after.loss_scale == (scale, 1)
        for name in ("loss", "gradient_norm"):
            np.testing.assert_allclose(found[name], expected[name], rtol=0.01, err_msg=name)


def test_a_float16_overflow_changes_nothing_but_the_scale_and_is_counted(config):
    state, step = start(dataclasses.replace(config, precision="float16"))
    wild = state._replace(loss_scale=LossScale(jnp.float32(2.0**40), jnp.int32(7)))
    after, metrics = step(wild, batch_of(config))
    assert metrics["overflow"] and jnp.isfinite(metrics["loss"])
    assert after.loss_scale == (2.0**39, 0)
    assert (int(after.step), int(after.skipped), int(metrics["skipped_steps"])) == (1, 1, 1)
    for path, leaf in flatten((state.params, state.opt_state)).items():
        np.testing.assert_array_equal(flatten((after.params, after.opt_state))[path], leaf, path)
    kernel = state.params["image"]["projection"]["kernel"]
    state.params["image"]["projection"]["kernel"] = kernel.at[0, 0].set(jnp.inf)
    least = state._replace(loss_scale=LossScale(jnp.float32(1), jnp.int32(0)))
    after, metrics = step(least, batch_of(config))
    assert not metrics["finite"] and not metrics["overflow"] and after.loss_scale == (1, 0)


def test_what_is_off_leaves_no_trace_in_the_step(config, monkeypatch):
    """Without dropout nothing is drawn, without mask_duplicates no keys are computed."""

    def lowered(**changes):
        state, step = start(dataclasses.replace(config, **changes))
        return step.lower(state, batch_of(config)).as_text()

    monkeypatch.setattr("clipjax.losses.configured.row_keys", None)  # fails if called
    drawn = re.compile("threefry|rng_bit_generator|random")
    assert not drawn.search(lowered())
    assert drawn.search(lowered(dropout=0.1)) and drawn.search(lowered(patch_dropout=0.5))
    with pytest.raises(TypeError):
        lowered(loss=dataclasses.replace(config.loss, mask_duplicates=True))


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["none", "text"])
def test_a_step_in_half_storage_is_the_float32_step_rounded(config, freeze):
    """Parameters and moments after it lie within one number of the dtype of those that float32 storage has."""
    config = dataclasses.replace(config, freeze=freeze, init_from="elsewhere")
    text = dataclasses.replace(config.model.text, weights_dtype="bfloat16")
    optimizer = dataclasses.replace(config.optimizer, moments_dtype="bfloat16", layer_decay=0.5, eps=1e-3)
    half = dataclasses.replace(config, model=dataclasses.replace(config.model, text=text), optimizer=optimizer)
    full = dataclasses.replace(config, optimizer=dataclasses.replace(optimizer, moments_dtype="float32"))
    (half_state, half_step), (state, step) = start(half, MESHES[2]), start(full)
    same = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float32)), half_state.params)
    after, _ = step(state._replace(params=same), batch_of(config))
    half_after, _ = half_step(half_state, batch_of(config))
    expected = flatten((after.params, after.opt_state))
    for path, leaf in flatten((half_after.params, half_after.opt_state)).items():
        exact = np.asarray(leaf, np.float32)
        wanted = np.asarray(expected[path])
        gap = 2.0**-7 if leaf.dtype == jnp.bfloat16 else 1e-3
        np.testing.assert_allclose(exact, wanted, rtol=gap, atol=1e-3 * np.abs(wanted).max(), err_msg=path)
    dtypes = {path: leaf.dtype for path, leaf in flatten(half_after.params).items()}
    assert dtypes == {path: leaf.dtype for path, leaf in flatten(half_state.params).items()}
    assert dtypes["text/blocks/mlp/fc/kernel"] == jnp.bfloat16 and dtypes["image/blocks/mlp/fc/kernel"] == jnp.float32
