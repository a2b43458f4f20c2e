"""Tiles of the logits: cutting, running sums, and both passes against plain numpy."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.losses import tiles

SCALE = 20.0


@settings(deadline=None)
@given(b=st.integers(1, 200), block_size=st.integers(1, 250))
def test_cut_gives_few_full_tiles_with_a_real_row_in_each_and_uncut_undoes_it(b, block_size):
    count, t = tiles.cut_shape(b, block_size)
    assert t <= block_size and count == -(-b // block_size)
    assert (count - 1) * t < b <= count * t < b + count


def test_uncut_undoes_cut_and_padding_is_zero():
    x = jnp.arange(1.0, 15.0).reshape(7, 2)
    cut = tiles.cut(x, 3)
    assert cut.shape == (3, 3, 2)
    np.testing.assert_array_equal(tiles.uncut(cut, 7), x)
    np.testing.assert_array_equal(cut[2, 1:], 0)


def test_a_block_has_ids_from_its_first_and_minus_one_in_the_padding():
    block = tiles.block(jnp.ones((5, 2)), 10, 2)
    np.testing.assert_array_equal(block.ids, [[10, 11], [12, 13], [14, -1]])


@pytest.mark.parametrize("n, m, block_size", [(8, 8, 4), (7, 11, 3), (1, 5, 2), (13, 13, 100)])
def test_both_passes_equal_numpy_for_any_rows_and_columns(n, m, block_size, unit_pairs, assert_close):
    x, y = unit_pairs(n)[0], unit_pairs(m, seed=1)[1]
    rows, columns = tiles.block(x, 0, block_size), tiles.block(y, 0, block_size)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    u = x @ y.T

    found, sums = tiles.forward(rows, columns, jnp.float32(SCALE))
    row_lse, column_lse = (np.log(np.sum(np.exp(SCALE * u), axis)) for axis in (1, 0))
    assert_close(lse(found.sums, n), row_lse)
    assert_close(lse(sums, m), column_lse)
    np.testing.assert_array_equal(tiles.uncut(found.nearest, n), np.argmax(u, axis=1))
    k = min(n, m)
    assert_close(tiles.uncut(found.own, n)[:k], np.diagonal(u))

    weight = jnp.float32(0.1)
    d_rows, d_columns, d_scale = tiles.backward(rows, columns, found.sums, sums, jnp.float32(SCALE), weight)
    g = 0.1 * (np.exp(SCALE * u - row_lse[:, None]) + np.exp(SCALE * u - column_lse) - 2 * np.eye(n, m))
    assert_close(tiles.uncut(d_rows, n), SCALE * g @ y)
    assert_close(tiles.uncut(d_columns, m), SCALE * g.T @ x)
    np.testing.assert_allclose(d_scale, np.sum(g * u), atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(-8, 8), min_size=1, max_size=12), st.integers(0, 12))
def test_merged_sums_are_those_of_the_union(cosines, split):
    u = np.asarray(cosines) / 8
    merged = tiles.no_sums(jnp.zeros(1, jnp.int32))
    for part in (u[:split], u[split:]):
        if len(part):
            part = jnp.asarray(part, jnp.float32)
            sums = tiles.Sums(part.max()[None], jnp.exp(SCALE * (part - part.max())).sum()[None])
            merged = tiles.merge(merged, sums, SCALE)
    np.testing.assert_allclose(lse(merged, 1)[0], np.log(np.sum(np.exp(SCALE * u))), rtol=1e-5, atol=1e-5)


def lse(sums, n):
    return tiles.uncut(SCALE * sums.best + jnp.log(sums.total), n)
