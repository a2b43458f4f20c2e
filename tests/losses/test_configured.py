"""The loss of a config is the one that its keys name, with their values."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from clipjax.config import LossConfig
from clipjax.losses import contrastive_loss_and_recall, loss_and_recall, sigmoid_loss_and_recall


class FakeFeatures(NamedTuple):
    image: jax.Array
    text: jax.Array
    logit_scale: float = 10.0
    logit_bias: float | None = None


class FakeBatch(NamedTuple):
    tokens: jax.Array
    image_keys: jax.Array


def test_softmax_is_the_contrastive_loss_and_looks_at_no_batch(unit_pairs, mesh_of):
    mesh = mesh_of(data=2, fsdp=1)
    found = loss_and_recall(FakeFeatures(*unit_pairs(16)), LossConfig(block_size=4, method="ring"), mesh, None)
    assert found == contrastive_loss_and_recall(*unit_pairs(16), 10.0, mesh=mesh, block_size=4, method="ring")


def test_sigmoid_takes_the_bias(unit_pairs):
    features = FakeFeatures(*unit_pairs(16), logit_bias=-4.0)
    found = loss_and_recall(features, LossConfig("sigmoid", block_size=4), None, None)
    assert found == sigmoid_loss_and_recall(*unit_pairs(16), 10.0, -4.0, block_size=4)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_masked_duplicates_are_those_of_captions_and_of_pictures(kind, unit_pairs):
    tokens = jnp.arange(1, 17, dtype=jnp.int32)[:, None]
    images = jnp.arange(16, dtype=jnp.int32)
    features = FakeFeatures(*unit_pairs(16), logit_bias=-4.0)

    def loss(tokens, images):
        return float(
            loss_and_recall(features, LossConfig(kind, mask_duplicates=True), None, FakeBatch(tokens, images))[0]
        )

    plain = float(loss_and_recall(features, LossConfig(kind), None, None)[0])
    assert loss(tokens, images) == pytest.approx(plain, rel=1e-6)
    by_text, by_image = loss(tokens // 4, images), loss(tokens, images // 4)
    assert by_text < plain and by_image < plain and by_text != by_image
