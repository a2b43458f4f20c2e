"""Duplicates of a batch are told by their keys, and are no negatives in either loss."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.losses import contrastive_loss_and_recall, sigmoid_loss_and_recall
from clipjax.losses.duplicates import caption_keys, row_keys

SCALE, BIAS = 10.0, -4.0


class FakeBatch(NamedTuple):
    tokens: jax.Array
    image_keys: jax.Array


def test_captions_have_equal_keys_if_and_only_if_they_are_equal():
    captions = [(s,) + rest for s in (1, 2) for rest in itertools.product((0, 1, 2, 49405), repeat=4) if rest[-1]]
    keys = np.asarray(caption_keys(jnp.asarray(captions, jnp.int32)))
    assert keys.dtype == np.int32 and len(set(keys.tolist())) == len(captions) > 300
    np.testing.assert_array_equal(caption_keys(jnp.asarray(captions[::-1], jnp.int32)), keys[::-1])


def test_padding_does_not_change_a_key():
    tokens = jnp.asarray([[49406, 5, 7, 49407], [49406, 7, 5, 49407]], jnp.int32)
    np.testing.assert_array_equal(caption_keys(jnp.pad(tokens, ((0, 0), (0, 9)))), caption_keys(tokens))


def test_keys_of_a_batch_are_of_its_captions_and_its_pictures():
    batch = FakeBatch(jnp.asarray([[1, 2], [1, 2], [1, 3]], jnp.int32), jnp.asarray([4, 5, 4], jnp.int32))
    captions, images = (np.asarray(keys) for keys in row_keys(batch))
    assert captions[0] == captions[1] != captions[2] and images.tolist() == [4, 5, 4]


@pytest.fixture(scope="module")
def duplicates():
    """Keys of captions and pictures of 26 rows, and which two rows [26, 26] are duplicates but no pair."""
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 15, (2, 26)).astype(np.int32)
    same = (keys[:, :, None] == keys[:, None, :]).any(axis=0) & ~np.eye(26, dtype=bool)
    assert 20 < same.sum() < 26 * 26 / 2
    return tuple(map(jnp.asarray, keys)), same


def dense_softmax(same, image, text, scale):
    logits = jnp.where(same, -jnp.inf, scale * image @ text.T)
    return 0.5 * sum(jnp.mean(jax.nn.logsumexp(logits, axis) - jnp.diagonal(logits)) for axis in (0, 1))


def dense_sigmoid(same, image, text, scale, bias):
    signs = jnp.where(jnp.eye(len(image), dtype=bool), 1.0, -1.0)
    terms = -jax.nn.log_sigmoid(signs * (scale * image @ text.T + bias))
    return jnp.sum(jnp.where(same, 0.0, terms)) / len(image)


@pytest.mark.parametrize(
    "axes, block_size, method",
    [(None, 5, "auto"), (None, 13, "auto"), (dict(data=2, fsdp=1), 4, "ring"), (dict(data=1, fsdp=2), 4, "gather")],
)
@pytest.mark.parametrize(
    "loss, dense, scalars",
    [(contrastive_loss_and_recall, dense_softmax, (SCALE,)), (sigmoid_loss_and_recall, dense_sigmoid, (SCALE, BIAS))],
)
def test_duplicates_are_no_negatives(
    loss, dense, scalars, axes, block_size, method, duplicates, unit_pairs, mesh_of, assert_close
):
    keys, same = duplicates
    options = dict(mesh=axes and mesh_of(**axes), block_size=block_size, method=method, keys=keys)
    arguments = (*unit_pairs(26), *map(jnp.float32, scalars))
    places = tuple(range(len(arguments)))
    step = jax.jit(jax.value_and_grad(lambda *x: loss(*x, **options), places, has_aux=True))
    (found, recall), gradients = step(*arguments)
    with jax.enable_x64(True):
        wide = [np.asarray(x, np.float64) for x in arguments]
        expected = jax.value_and_grad(lambda *x: dense(same, *x), places)(*wide)
        expected = jax.tree.map(np.asarray, expected)
    assert_close((found, gradients), expected)
    u = np.where(same, -2, wide[0] @ wide[1].T)
    np.testing.assert_allclose(recall, np.mean(np.argmax(u, axis=1) == np.arange(26)), rtol=1e-6)


def test_keys_that_all_differ_change_nothing(unit_pairs):
    plain, keyed = (
        contrastive_loss_and_recall(*unit_pairs(26), SCALE, block_size=13, keys=keys)
        for keys in ((), (jnp.arange(26), jnp.arange(26)))
    )
    np.testing.assert_allclose(plain, keyed, rtol=1e-6)
