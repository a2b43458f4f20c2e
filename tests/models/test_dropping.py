"""What is left out at random depends on a row's key and on positions, and leaves the expectation as it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.models.dropping import drop_numbers, drop_patches, fold, kept_patches

N, T, W = 6, 20, 50
KEYS = fold(jnp.broadcast_to(jax.random.key(0), N), jnp.arange(N))
X = jnp.asarray(np.random.RandomState(0).randn(N, T, W), jnp.float32)
drop = jax.jit(functools.partial(drop_numbers, share=0.25))
patches = jax.jit(functools.partial(drop_patches, share=0.6))


def test_numbers_are_zero_or_divided_by_the_share_that_stays():
    found = np.asarray(drop(X, KEYS))
    gone = found == 0
    np.testing.assert_allclose(found[~gone], np.asarray(X)[~gone] / 0.75, rtol=1e-6)
    assert gone.mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / X.size) ** 0.5)


def test_rows_and_tokens_are_drawn_apart():
    gone = np.asarray(drop(jnp.ones_like(X), KEYS)) == 0
    alike = (gone[:, :, None, None] == gone[None, None]).mean(-1)  # [N, T, N, T], 0.625 where drawn apart
    others = alike[~np.eye(N * T, dtype=bool).reshape(N, T, N, T)]
    assert others.max() < 0.99 and others.mean() == pytest.approx(0.625, abs=0.01)


def test_a_draw_depends_on_the_row_s_key_and_the_position_alone():
    order = np.array([4, 0, 5])
    whole = drop(X, KEYS)
    np.testing.assert_array_equal(drop(X[order], KEYS[order]), whole[order])
    np.testing.assert_array_equal(drop(X[:, :7], KEYS), whole[:, :7])
    position = jnp.asarray([0, 3, 19, 5, 5, 1])
    np.testing.assert_array_equal(
        drop_numbers(X[np.arange(N), position], KEYS, 0.25, position), whole[np.arange(N), position]
    )
    np.testing.assert_array_equal(drop_numbers(X[:, 2], KEYS, 0.25, 2), whole[:, 2])
    np.testing.assert_array_equal(patches(X[order], KEYS[order]), patches(X, KEYS)[order])


def test_patches_stay_in_order_each_once_and_each_as_often_as_another():
    places = jnp.broadcast_to(jnp.arange(T)[None, :, None], (400, T, 1))
    keys = fold(jnp.broadcast_to(jax.random.key(1), 400), jnp.arange(400))
    found = np.asarray(patches(places, keys))[..., 0]
    assert found.shape == (400, 8)
    assert (np.diff(found, axis=1) > 0).all()
    counts = np.bincount(found.ravel(), minlength=T)
    assert np.abs(counts - 160).max() < 5 * (400 * 0.4 * 0.6) ** 0.5
    assert len(np.unique(found, axis=0)) > 390


@pytest.mark.parametrize(
    ("count", "share", "kept"), [(196, 0.5, 98), (100, 0.9, 10), (49, 0.75, 12), (4, 0.99, 1), (4, 0, 4)]
)
def test_the_number_of_patches_that_stay(count, share, kept):
    assert kept_patches(count, share) == kept
