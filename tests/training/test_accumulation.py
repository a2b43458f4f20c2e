"""The loss and its gradient: of the global batch, however it is cut into micro-batches and spread over devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.bundle import abstract_module
from clipjax.config import MeshConfig, resolve
from clipjax.data.batch import Batch
from clipjax.images.preprocess import normalize
from clipjax.losses import contrastive_loss
from clipjax.models.initialise import draw
from clipjax.parallel.mesh import make_mesh, row_sharding
from clipjax.parallel.sharding import shardings
from clipjax.training.accumulation import make_loss_and_gradient
from clipjax.training.freeze import join, split
from clipjax.trees import flatten, unflatten

ONE, EIGHT, ALL_AXES = MeshConfig(1, 1, 1), MeshConfig(4, 2, 1), MeshConfig(2, 2, 2)


@pytest.fixture
def vit(tiny):
    tiny.batch_size = 32
    tiny.model.image.update({"heads": 2, "layers": 1})  # which compiles faster; a stack has tests of its own
    tiny.model.text.update({"heads": 2, "layers": 1})
    tiny.mesh.data = -1
    return with_few_words(resolve(tiny))


@pytest.fixture
def resnet(tiny):
    tiny.batch_size = 32
    tiny.model.preset, tiny.model.image.image_size = "tiny-resnet", 32
    tiny.model.text.layers, tiny.mesh.data = 1, -1
    return with_few_words(resolve(tiny))


def with_few_words(config):
    """A vocabulary that the tokenizer has no use for; a row of the table weighs as much as all else of the tower."""
    text = dataclasses.replace(config.model.text, vocab_size=512, end_token=511)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, text=text))


def batch_of(config, seed=0):
    rng = np.random.default_rng(seed)
    size, text = config.model.image.image_size, config.model.text
    images = rng.integers(0, 256, (config.batch_size, size, size, 3), dtype=np.uint8)
    tokens = rng.integers(1, 400, (config.batch_size, text.context_length)).astype(np.int32)
    tokens[np.arange(config.batch_size), rng.integers(3, text.context_length, config.batch_size)] = text.end_token
    return Batch(images, tokens)


def weights_of(config):
    """(trained, frozen, running averages) of a fresh model, with gains of 1 where a ResNet's begin at 0."""
    params, stats = (draw(half, config.seed) for half in abstract_module(config)[1:])
    params = {path: leaf + 1 if path.endswith("bn3/scale") else leaf for path, leaf in params.items()}
    return *split(config, unflatten(params)), unflatten(stats)


def compiled(config, sizes=ONE):
    """The compiled function of (batch, step, loss_scale), and its arguments before those, placed on a mesh."""
    mesh = make_mesh(sizes, jax.devices()[: sizes.data * sizes.fsdp * sizes.tensor])
    given = jax.tree.map(jax.device_put, weights_of(config), shardings(weights_of(config), mesh))
    given = *given, jax.device_put(batch_of(config), row_sharding(mesh))
    function = make_loss_and_gradient(config, abstract_module(config)[0], mesh)
    return jax.jit(function).lower(*given, np.int32(3)).compile(), given


def result_of(config, sizes=ONE):
    program, given = compiled(config, sizes)
    loss, recall, stats, gradient = jax.device_get(program(*given, np.int32(3)))
    return {"loss": loss, "recall": recall}, flatten(stats), flatten(gradient)


def assert_same(found, expected, share=2e-5):
    """Within float32 rounding: of each array's largest number, since small ones are sums of large ones."""
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for path, leaf in other.items():
            least = 1e-3 if path.endswith("pool/key/bias") else 1e-6  # softmax is blind to it: its gradient is rounding
            noise = share * max(float(np.abs(leaf).max()), least)
            np.testing.assert_allclose(one[path], leaf, rtol=0, atol=noise, err_msg=path)


def cut(config, micro_batches):
    return dataclasses.replace(config, micro_batch_size=config.batch_size // micro_batches)


def test_the_gradient_is_that_of_the_scaled_loss_and_the_loss_is_not_scaled(vit):
    function = jax.jit(make_loss_and_gradient(vit, abstract_module(vit)[0], make_mesh(ONE, jax.devices()[:1])))
    loss, recall, _, gradient = function(*weights_of(vit), batch_of(vit), jnp.int32(0), None)
    found_loss, found_recall, _, found = function(*weights_of(vit), batch_of(vit), jnp.int32(0), jnp.float32(512))
    assert (float(found_loss), float(found_recall)) == (float(loss), float(recall))
    for path, leaf in flatten(gradient).items():
        np.testing.assert_allclose(flatten(found)[path], 512 * leaf, rtol=1e-5, atol=1e-4, err_msg=path)
        assert np.abs(leaf).max() > 0, path


CUTS = [(8, ONE), (4, EIGHT), (1, EIGHT), (2, ONE), (4, ONE), (2, EIGHT), (2, ALL_AXES)]


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "sizes"), CUTS)
def test_micro_batches_on_any_mesh_give_the_gradient_of_the_one_batch_with_the_same_left_out(vit, parts, sizes):
    config = dataclasses.replace(vit, dropout=0.2, patch_dropout=0.5)
    assert_same(result_of(cut(config, parts), sizes), result_of(config))


@pytest.mark.slow
def test_each_step_leaves_out_something_else(vit):
    program, given = compiled(dataclasses.replace(vit, dropout=0.2, patch_dropout=0.5))
    losses = [float(program(*given, np.int32(step))[0]) for step in (0, 1, 1, 2)]
    assert losses[1] == losses[2] and len({*losses, float(result_of(vit)[0]["loss"])}) == 4


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "sizes", "remat"), [(4, EIGHT, "none"), (8, ONE, "block")])
def test_micro_batches_give_the_gradient_of_the_one_batch(vit, parts, sizes, remat):
    image, text = (dataclasses.replace(tower, layers=2) for tower in (vit.model.image, vit.model.text))
    model = dataclasses.replace(vit.model, image=image, text=text)
    config = dataclasses.replace(vit, remat=remat, model=model)
    assert_same(result_of(cut(config, parts), sizes), result_of(config))


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "sizes", "dropout"), [(8, ONE, 0.2), (4, EIGHT, 0.0)])
def test_micro_batches_of_a_resnet_with_frozen_batch_norms_give_the_gradient_of_the_one_batch(
    resnet, parts, sizes, dropout
):
    config = dataclasses.replace(resnet, freeze_batch_norm=True, dropout=dropout)
    assert_same(result_of(cut(config, parts), sizes), result_of(config))


@pytest.mark.slow
def test_batch_norms_take_the_statistics_of_each_micro_batch_and_average_them_in_order_on_any_mesh(resnet):
    """Against one gradient through all micro-batches at once: rows j, j + k, … one after the other."""
    config, parts = cut(resnet, 4), 4
    trained, frozen, stats = weights_of(config)
    batch, graph, image = batch_of(config), abstract_module(config)[0], config.model.image

    def loss_of(trained):
        averages, found = jax.tree.map(jnp.asarray, stats), []
        for part in range(parts):
            model = nnx.merge(graph, join(trained, frozen), averages)
            model.train()
            found.append(model(normalize(batch.images[part::parts], image.mean, image.std), batch.tokens[part::parts]))
            averages = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        images, texts = (jnp.concatenate(rows) for rows in zip(*((one.image, one.text) for one in found), strict=True))
        return contrastive_loss(images, texts, found[0].logit_scale), averages

    (loss, averages), gradient = jax.device_get(jax.jit(jax.value_and_grad(loss_of, has_aux=True))(trained))
    for sizes in (ONE, EIGHT):
        found = result_of(config, sizes)
        assert found[0]["loss"] == pytest.approx(loss, rel=1e-5)
        assert_same(found[1:], (flatten(averages), flatten(gradient)), 2e-4)  # statistics of 4 rows amplify rounding
    assert not np.isclose(result_of(resnet)[0]["loss"], loss, rtol=1e-4)  # of the whole batch's statistics


@pytest.mark.slow
def test_a_frozen_tower_leaves_out_nothing_and_is_encoded_once(vit):
    config = dataclasses.replace(vit, freeze="image", init_from="x", dropout=0.2)
    assert_same(result_of(cut(config, 4)), result_of(config))

    def products(config):
        program = jax.make_jaxpr(
            make_loss_and_gradient(config, abstract_module(config)[0], make_mesh(ONE, jax.devices()[:1]))
        )
        return str(program(*weights_of(config), batch_of(config), np.int32(0))).count("dot_general")

    assert products(cut(config, 4)) < products(cut(dataclasses.replace(vit, dropout=0.2), 4)) / 1.5


@pytest.mark.slow
def test_memory_grows_with_the_micro_batch_and_not_with_the_batch(vit):
    """Temporary bytes above those of the smallest batch, in one batch and by micro-batches of its size."""
    one = dataclasses.replace(vit, batch_size=64)
    large = dataclasses.replace(vit, batch_size=512)

    def temporary(config):
        return compiled(config)[0].memory_analysis().temp_size_in_bytes

    whole, parts = temporary(large), temporary(cut(large, 8))
    assert whole > 5 * temporary(one)
    features = 512 * vit.model.embed_dim * 4  # of each tower, and their gradients
    assert parts < 1.2 * temporary(one) + 8 * features


@pytest.mark.slow
def test_rows_stay_on_their_device(vit):
    config = dataclasses.replace(vit, dropout=0.2, patch_dropout=0.5)
    for sizes in (MeshConfig(8, 1, 1), EIGHT):
        text = compiled(cut(config, 2), sizes)[0].as_text()
        if sizes.fsdp == 1:
            assert "all-to-all" not in text and "collective-permute" not in text
        images = f"u8[{config.batch_size}"
        assert not [line for line in text.splitlines() if "all-gather" in line and images in line]
