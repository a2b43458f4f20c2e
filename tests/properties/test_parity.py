"""Parity with open_clip without it: features, loss, gradients and running averages that it once computed.

Files and numbers are made by tests/fixtures/make_open_clip.py.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import clipjax
from clipjax import weights
from clipjax.bundle import abstract_module, halves
from clipjax.config import Config
from clipjax.losses import contrastive_loss
from clipjax.models.stacking import unstack_layers
from clipjax.trees import flatten
from clipjax.weights import openai, table

FOLDER = pathlib.Path(__file__).parents[1] / "fixtures/open_clip"
EVERY = 37  # numbers of a gradient that are kept
FILES = {
    "vit": ["vit_script.pt", "vit", "vit/open_clip_model.safetensors", "vit_custom_text"],
    "resnet": ["resnet_script.pt", "resnet_state_dict.pt"],
}


@pytest.fixture(scope="module")
def expected():
    """`expected("vit" or "resnet")`: open_clip's numbers by name."""
    return {kind: dict(np.load(FOLDER / f"{kind}.npz")) for kind in FILES}.__getitem__


@pytest.mark.parametrize(("kind", "file"), [(kind, file) for kind, files in FILES.items() for file in files])
def test_every_file_gives_the_same_weights(kind, file):
    activation = "quick_gelu" if file == "resnet_state_dict.pt" else None  # the one that does not say
    wanted = weights.read(FOLDER / FILES[kind][0])
    found = weights.read(FOLDER / file, activation=activation)
    assert found.model == wanted.model and found.model.activation == "quick_gelu"
    assert found.arrays.keys() == wanted.arrays.keys()
    for path, array in found.arrays.items():
        np.testing.assert_array_equal(array, wanted.arrays[path], err_msg=path)


@pytest.mark.parametrize("kind", FILES)
def test_features_and_logits_are_those_of_open_clip(kind, expected):
    bundle, wanted = clipjax.load(FOLDER / FILES[kind][0]), expected(kind)
    image, text = (
        unit_rows(bundle.model.encode_image, wanted["pixels"]),
        unit_rows(bundle.model.encode_text, wanted["tokens"]),
    )
    np.testing.assert_allclose(image, wanted["image"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(text, wanted["text"], atol=1e-5, rtol=0)
    scale = bundle.logit_scale
    np.testing.assert_allclose(scale * image @ text.T, wanted["logits"], atol=1e-5 * scale, rtol=0)


@pytest.fixture(scope="module", params=FILES)
def step(request, expected):
    """(loss, gradients and running averages by open_clip's names) of a training step here, and open_clip's numbers."""
    wanted, found = expected(request.param), weights.read(FOLDER / FILES[request.param][0])
    config = Config(model=found.model)
    graph, (params, stats) = abstract_module(config)[0], halves(config, found.arrays)

    def loss_of(params, stats):
        model = nnx.merge(graph, params, stats)
        model.train()
        features = model(wanted["pixels"], wanted["tokens"])
        loss = contrastive_loss(features.image, features.text, features.logit_scale)
        return loss, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    (loss, after), gradients = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(params, stats)
    leaves = {path: np.asarray(leaf) for path, leaf in flatten(gradients).items()}
    averages = {path: np.asarray(leaf) for path, leaf in flatten(after).items()}
    theirs = table.write(openai.TABLE, unstack_layers({**leaves, **averages}))
    return float(loss), theirs, wanted


def test_loss_and_gradients_of_a_training_step_are_those_of_open_clip(step):
    loss, found, wanted = step
    assert loss == pytest.approx(wanted["loss"], rel=1e-5)
    keys = {name.removeprefix("norm/") for name in wanted if name.startswith("norm/")}
    assert keys == {key for key in found if "running_" not in key}
    largest = max(wanted[f"norm/{key}"] for key in keys)
    for key in keys:
        norm = wanted[f"norm/{key}"]
        if norm < 1e-6 * largest:  # a key's bias moves no softmax: truly zero
            assert np.linalg.norm(found[key]) < 1e-5 * largest, key
            continue
        assert np.linalg.norm(found[key]) == pytest.approx(norm, rel=1e-4), key
        part = wanted[f"gradient/{key}"]
        distance = np.linalg.norm(found[key].ravel()[::EVERY] - part)
        assert distance < 1e-4 * max(np.linalg.norm(part), norm * (part.size / found[key].size) ** 0.5), key


def test_running_averages_after_a_training_step_are_those_of_open_clip(step):
    _, found, wanted = step
    keys = [name for name in wanted if "running_" in name]
    assert set(keys) == {key for key in found if "running_" in key}
    for key in keys:
        np.testing.assert_allclose(found[key], wanted[key], rtol=1e-4, atol=1e-6, err_msg=key)


def unit_rows(encode, inputs):
    rows = np.asarray(jax.jit(encode)(jnp.asarray(inputs)))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
