"""The contrastive loss equals the dense one on any mesh, by any method, in blocks of any size."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from clipjax.errors import UserError
from clipjax.losses import contrastive, contrastive_loss, contrastive_loss_and_recall, devices

SCALE = 1 / 0.07


def value_and_gradients(arguments, jit=True, **options):
    step = jax.value_and_grad(lambda *x: contrastive_loss(*x, **options), argnums=(0, 1, 2))
    return (jax.jit(step) if jit else step)(*arguments)


@pytest.mark.parametrize("method", ["ring", "gather"])
@pytest.mark.parametrize(
    "axes, block_size",
    [
        (dict(data=1, fsdp=1), 7),
        (dict(data=2, fsdp=1), 1024),
        (dict(data=2, fsdp=2), 8),
        (dict(fsdp=2, data=2), 26),
        (dict(data=4, fsdp=2), 5),
        (dict(data=1, fsdp=8), 1024),
        (dict(data=2, fsdp=2, tensor=2), 9),
        (dict(tensor=2, fsdp=1, data=2), 17),
    ],
)
def test_loss_and_gradients_equal_dense_on_any_mesh(axes, block_size, method, unit_pairs, dense, mesh_of, assert_close):
    arguments = (*unit_pairs(104), SCALE)  # 8 devices get 13 rows each
    found = value_and_gradients(arguments, mesh=mesh_of(**axes), method=method, block_size=block_size)
    assert_close(found, dense(*arguments))


@pytest.mark.parametrize("n, block_size", [(1, 1), (1, 1024), (2, 1), (31, 1), (31, 4), (31, 30), (31, 1024)])
def test_loss_and_gradients_equal_dense_without_a_mesh(n, block_size, unit_pairs, dense, assert_close):
    arguments = (*unit_pairs(n, seed=n), SCALE)
    loss, gradients = value_and_gradients(arguments, block_size=block_size)
    expected, expected_gradients = dense(*arguments)
    assert loss.shape == () and loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-7)
    for x, y in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * max(np.max(np.abs(y)), 1e-2))


@pytest.mark.parametrize("axes", [dict(data=1, fsdp=1), dict(data=2, fsdp=2), dict(data=4, fsdp=2)])
@pytest.mark.parametrize("keeps", [True, False])
def test_cosines_kept_or_computed_again_give_the_same(
    axes, keeps, unit_pairs, dense, mesh_of, assert_close, monkeypatch
):
    monkeypatch.setattr(devices, "_COSINE_BYTES", 2**20 if keeps else 0)
    arguments = (*unit_pairs(104), SCALE)
    found = value_and_gradients(arguments, mesh=mesh_of(**axes), method="gather", block_size=5)
    assert_close(found, dense(*arguments))


@pytest.mark.parametrize("method", ["ring", "gather"])
def test_loss_and_gradients_equal_dense_inside_a_jitted_step(method, unit_pairs, dense, mesh_of, assert_close):
    mesh = mesh_of(data=2, fsdp=4)

    @jax.jit
    def step(log_scale, image, text):
        def loss(log_scale, image, text):
            features = [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (3 * image, 2 * text)]
            return contrastive_loss_and_recall(*features, jnp.exp(log_scale), mesh=mesh, block_size=4, method=method)

        return jax.value_and_grad(loss, has_aux=True)(log_scale, image, text)

    image, text = unit_pairs(104)
    (loss, _), d_log_scale = step(jnp.log(SCALE), image, text)
    expected, (_, _, d_scale) = dense(image, text, SCALE)
    assert_close((loss, d_log_scale), (expected, d_scale * SCALE))


@pytest.mark.parametrize("spec", [None, (), (("data", "fsdp"),), ("fsdp",), (None, "data")])
def test_placed_and_unplaced_inputs_give_the_same(spec, unit_pairs, dense, mesh_of, assert_close):
    mesh = mesh_of(data=2, fsdp=4)
    image, text = unit_pairs(64)
    # None: on one device that is not the mesh's first
    place = jax.devices()[3] if spec is None else NamedSharding(mesh, PartitionSpec(*spec))
    placed = (jax.device_put(image, place), jax.device_put(text, place), SCALE)
    assert_close(value_and_gradients(placed, jit=False, mesh=mesh, block_size=8), dense(image, text, SCALE))


def test_gradients_of_sharded_features_stay_sharded(unit_pairs, mesh_of):
    mesh = mesh_of(data=2, fsdp=4)
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    _, (d_image, d_text, _) = value_and_gradients((*jax.device_put(unit_pairs(64), rows), SCALE), mesh=mesh)
    assert d_image.sharding == rows and d_text.sharding == rows


@settings(deadline=None, max_examples=20)
@given(order=st.permutations(range(23)))
def test_loss_is_the_same_when_both_inputs_are_reordered_alike(unit_pairs, order):
    image, text = unit_pairs(23)
    order = np.asarray(order)
    reordered = contrastive_loss(image[order], text[order], SCALE, block_size=5)
    np.testing.assert_allclose(reordered, contrastive_loss(image, text, SCALE, block_size=5), rtol=1e-6)


def test_a_scale_of_100_with_near_duplicates_stays_finite_and_right(unit_pairs, dense, assert_close):
    image, text = unit_pairs(40)
    image, text = (x.at[1:].set(x[:1] + 1e-4 * x[1:]) for x in (image, text))
    arguments = [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)] + [100.0]
    (loss, gradients), (expected, expected_gradients) = value_and_gradients(arguments, block_size=7), dense(*arguments)
    assert_close(loss, expected)
    # What is left when gradients of like features cancel: float32 cosines carry them to a few digits only.
    assert_close(gradients[:2], expected_gradients[:2], relative=1e-3)
    assert np.isfinite(gradients[2])


def test_a_scale_of_100_with_opposite_features_stays_finite_beside_padding(dense, assert_close):
    # All cosines are -0.9 and below, each logsumexp about -90: exp(0 + 90) would overflow where padding is met.
    image = jnp.eye(7, 8).at[:, 7].set(3.0) / jnp.sqrt(10.0)
    arguments = (image, -image, 100.0)
    assert_close(value_and_gradients(arguments, block_size=4), dense(*arguments))


def test_a_nan_in_one_row_shows_in_the_loss(unit_pairs, mesh_of):
    image, text = unit_pairs(16)
    assert np.isnan(contrastive_loss(image.at[3, 0].set(jnp.nan), text, SCALE, mesh=mesh_of(data=2, fsdp=2)))


@pytest.mark.parametrize("method", ["ring", "gather"])
def test_bfloat16_features_get_a_float32_loss_and_bfloat16_gradients(method, unit_pairs, dense, mesh_of, assert_close):
    features = [x.astype(jnp.bfloat16) for x in unit_pairs(64)]
    options = dict(mesh=mesh_of(data=2, fsdp=2), block_size=5, method=method)
    loss, (d_image, d_text, d_scale) = value_and_gradients((*features, SCALE), **options)
    expected, gradients = dense(*(x.astype(jnp.float32) for x in features), SCALE)
    assert loss.dtype == jnp.float32 and d_image.dtype == d_text.dtype == jnp.bfloat16
    assert_close((loss, d_scale), (expected, gradients[2]))  # the features are exact, so these are too
    assert_close((d_image, d_text), gradients[:2], relative=1e-2)


@pytest.mark.parametrize("axes", [dict(data=1, fsdp=1), dict(data=4, fsdp=2), dict(data=2, fsdp=1, tensor=2)])
@pytest.mark.parametrize("method", ["ring", "gather"])
def test_recall_is_the_share_of_argmax_with_ties_to_the_lower_row(axes, method, mesh_of):
    # Entries of +-1/2 in four dimensions: unit rows, exact cosines, and many ties.
    image, text = np.random.default_rng(0).choice([-0.5, 0.5], size=(2, 40, 4)).astype(np.float32)
    text[::2] = image[::2]
    expected = np.mean(np.argmax(image @ text.T, axis=1) == np.arange(40))
    assert 0 < expected < 0.5
    _, recall = contrastive_loss_and_recall(image, text, SCALE, mesh=mesh_of(**axes), block_size=3, method=method)
    assert recall.dtype == jnp.float32
    np.testing.assert_allclose(recall, expected, rtol=1e-6)


@pytest.mark.parametrize("method, count", [("gather", 3), ("ring", 4)])
def test_bfloat16_features_are_multiplied_as_they_are_and_summed_in_float32(method, count, mesh_of):
    features = jax.ShapeDtypeStruct((64, 16), jnp.bfloat16)
    options = dict(mesh=mesh_of(data=4, fsdp=2), method=method)
    step = jax.value_and_grad(lambda *x: contrastive_loss(*x, SCALE, **options), argnums=(0, 1))
    products = re.findall(r"dot_general.*: (.*)", jax.jit(step).lower(features, features).as_text())
    assert len(products) == count  # cosines, cosines again where they are not kept, and two gradients
    assert all(re.fullmatch(r"\(tensor<\S+xbf16>, tensor<\S+xbf16>\) -> tensor<\S+xf32>", x) for x in products)


def test_the_gradient_keeps_the_features_and_four_numbers_a_pair(unit_pairs, monkeypatch):
    n, e = 96, 16
    monkeypatch.setattr(devices, "_COSINE_BYTES", 0)
    _, backward = jax.vjp(lambda *x: contrastive_loss(*x, SCALE, block_size=16), *unit_pairs(n, e))
    kept = [leaf.size for leaf in jax.tree.leaves(backward)]
    assert 2 * n * e <= sum(kept) <= 2 * n * e + 4 * n + 4


def test_32768_pairs_take_less_than_200_mib_on_one_device(compiled_loss):
    assert compiled_loss("auto", 32768, devices=1).memory_analysis().temp_size_in_bytes <= 200 * 2**20


def test_a_million_pairs_take_less_than_2_gib_on_each_of_eight_devices(compiled_loss):
    assert compiled_loss("auto", 2**20).memory_analysis().temp_size_in_bytes <= 2**31


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(-8, 8), min_size=1, max_size=12), st.integers(0, 12))
def test_merged_sums_are_those_of_the_union(cosines, split):
    u = np.asarray(cosines) / 8
    merged = contrastive.Sums(*jnp.asarray([[-1e30], [0.0]], jnp.float32))
    for part in (u[:split], u[split:]):
        if len(part):
            part = jnp.asarray(part, jnp.float32)
            sums = contrastive.Sums(part.max()[None], jnp.exp(20 * (part - part.max())).sum()[None])
            merged = contrastive._merge(20.0).two(merged, sums)
    found = 20 * merged.best + jnp.log(merged.total)
    np.testing.assert_allclose(found[0], np.log(np.sum(np.exp(20 * u))), rtol=1e-5, atol=1e-5)


def test_auto_is_gather_for_a_small_batch_and_ring_for_a_large_one(mesh_of):
    def compiled_for(n, e=512):
        mesh = mesh_of(data=4, fsdp=2)
        features = jax.ShapeDtypeStruct((n, e), jnp.float32)
        step = jax.jit(lambda *x: contrastive_loss(*x, SCALE, mesh=mesh))
        return step.lower(features, features).as_text()

    assert "all_gather" in compiled_for(16384) and "collective_permute" not in compiled_for(16384)
    assert "all_gather" not in compiled_for(32768) and "collective_permute" in compiled_for(32768)


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(text_features=np.ones((4, 8), np.float32)), "(4, 8)"),
        (dict(image_features=np.ones(8, np.float32)), "(8,)"),
        (dict(image_features=np.ones((0, 8), np.float32), text_features=np.ones((0, 8), np.float32)), "(0, 8)"),
        (dict(image_features=jnp.ones((6, 8), jnp.float16)), "float16"),
        (dict(image_features=jnp.ones((6, 8), jnp.bfloat16)), "float32"),
        (dict(logit_scale=jnp.ones(2)), "(2,)"),
        (dict(block_size=0), "loss.block_size"),
        (dict(method="dense"), "'dense'"),
        (dict(axes=dict(data=2)), "fsdp"),
        (dict(axes=dict(data=2, fsdp=2)), "6 rows over 4 devices"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_it(change, said, mesh_of):
    arguments = dict(image_features=np.ones((6, 8), np.float32), text_features=np.ones((6, 8), np.float32))
    arguments |= dict(logit_scale=1.0) | change
    axes = arguments.pop("axes", None)
    with pytest.raises(UserError) as error:
        contrastive_loss(**arguments, mesh=axes and mesh_of(**axes))
    assert said in str(error.value) and "\n" not in str(error.value)
