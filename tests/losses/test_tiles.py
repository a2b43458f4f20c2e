"""Tiles of the cosines: cutting, walking, and what is seen on the way, against plain numpy."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.losses import tiles


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
    block = tiles.block(jnp.ones((5, 2)), (), 10, 2)
    np.testing.assert_array_equal(block.ids, [[10, 11], [12, 13], [14, -1]])
    np.testing.assert_array_equal(block.real, block.ids >= 0)


def test_a_block_without_padding_has_no_mask():
    assert tiles.block(jnp.ones((6, 2)), (), 10, 2).real is None


def test_every_row_tile_meets_every_column_tile_once():
    rows, columns = jnp.arange(3), jnp.arange(4)

    def against(row):
        return lambda column, mine, theirs, _: (mine + 10**column, theirs + 10**row, None)

    mine, theirs, _ = tiles.walk(against, rows, columns, jnp.zeros(3, jnp.int32), jnp.zeros(4, jnp.int32))
    assert mine.tolist() == [1111] * 3 and theirs.tolist() == [111] * 4


def test_a_walk_finds_what_an_earlier_one_has_kept_of_the_same_meeting():
    rows, columns = jnp.arange(3), jnp.arange(4)

    def keep(row):
        return lambda column, mine, theirs, _: (mine, theirs, 10 * row + column)

    def check(row):
        return lambda column, mine, theirs, kept: (mine + (kept == 10 * row + column), theirs, None)

    kept = tiles.walk(keep, rows, columns, jnp.zeros(3), jnp.zeros(4))[2]
    assert kept.shape == (3, 4)
    assert tiles.walk(check, rows, columns, jnp.zeros(3), jnp.zeros(4), kept)[0].tolist() == [4] * 3


@pytest.mark.parametrize("n, block_size", [(8, 4), (7, 3), (1, 2), (13, 100)])
def test_what_rows_have_seen_equals_numpy(n, block_size):
    # Entries of +-1/2 in four dimensions: exact cosines, and many ties.
    x, y = np.random.default_rng(n).choice([-0.5, 0.5], size=(2, n, 4)).astype(np.float32)
    rows, columns = (tiles.block(jnp.asarray(z), (), 0, block_size) for z in (x, y))

    def against(row):
        return lambda column, seen, theirs, _: (
            tiles.look(seen, tiles.cosines(row, column), row, column),
            theirs,
            None,
        )

    seen, *_ = tiles.walk(against, rows, columns, tiles.nothing_seen(rows.ids), jnp.zeros_like(columns.ids))
    best, own, nearest = (tiles.uncut(part, n) for part in seen)
    u = x @ y.T
    np.testing.assert_array_equal(best, u.max(axis=1))
    np.testing.assert_array_equal(own, np.diagonal(u))
    np.testing.assert_array_equal(nearest, u.argmax(axis=1))
