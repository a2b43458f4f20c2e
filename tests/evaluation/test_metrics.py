"""Metrics against the slow, literal form of their definitions."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clipjax.evaluation import metrics


def grid_rows(seed, n, width=3):
    """Rows on a coarse grid: inner products are exact in float32, and many are equal."""
    return np.random.default_rng(seed).integers(-2, 3, (n, width)).astype(np.float32) / 4


def rank_by_definition(scores, positives):
    """1 + candidates strictly above the best positive + equal negatives of lower index."""
    best = scores[positives].max()
    first = min(index for index in positives if scores[index] == best)
    above = sum(score > best for score in scores)
    return 1 + above + sum(scores[i] == best and i < first and i not in positives for i in range(len(scores)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 9), m=st.integers(5, 40), k=st.sampled_from([1, 5]))
def test_hits_are_those_of_the_rank_with_its_tie_rule(seed, n, m, k):
    queries, candidates = grid_rows(seed, n), grid_rows(seed + 1, m)
    owner = np.random.default_rng(seed).integers(0, n, m)
    found = metrics.nearest(queries, candidates, k=k, block=8)
    own = owner[found] == np.arange(n)[:, None]
    for query in range(n):
        positives = np.flatnonzero(owner == query).tolist()
        expected = bool(positives) and rank_by_definition(queries[query] @ candidates.T, positives) <= k
        assert metrics.hit_within(own, k)[query] == expected


@pytest.mark.parametrize("block", [1, 7, 16, 1000])
def test_nearest_is_a_stable_sort_whatever_the_block(block):
    queries, candidates = grid_rows(0, 20, 8), grid_rows(1, 33, 8)
    expected = np.argsort(-(queries @ candidates.T), axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(metrics.nearest(queries, candidates, k=5, block=block), expected)


def test_equal_candidates_tie_exactly_wherever_they_stand():
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((30, 100)).astype(np.float32)
    candidates = rng.standard_normal((64, 100)).astype(np.float32)
    places = rng.permutation(np.tile(np.arange(64), 3))  # each candidate stands three times
    found = metrics.nearest(queries, candidates[places], k=3, block=50)
    for row in found:
        assert (np.diff(row) > 0).all() and len(set(places[row])) == 1


def test_fewer_candidates_than_k_are_all_returned():
    found = metrics.nearest(grid_rows(0, 4), grid_rows(1, 3), k=10)
    assert found.shape == (4, 3) and (np.sort(found, axis=1) == np.arange(3)).all()


def test_no_array_is_larger_than_a_block_against_a_block():
    best = jax.ShapeDtypeStruct((64, 5), np.float32), jax.ShapeDtypeStruct((64, 5), np.int32)
    rows = jax.ShapeDtypeStruct((64, 32), np.float32)
    text = metrics._merged.lower(best, rows, rows, 0, 10**6, k=5).as_text()
    assert "64x69xf32" in text and "1000000xf32" not in text


def test_top_one_of_zero_shot_is_argmax_with_the_lower_class_first():
    images, classes = grid_rows(3, 200), grid_rows(4, 6)
    found = metrics.nearest(images, classes, k=5)
    np.testing.assert_array_equal(found[:, 0], (images @ classes.T).argmax(axis=1))


def test_per_class_and_confusions_agree_with_the_full_matrix():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 5, 300), rng.integers(0, 6, 300)
    matrix = np.zeros((6, 6), int)
    np.add.at(matrix, (labels, predicted), 1)
    table = metrics.per_class(labels, predicted, list("abcdef"))
    assert [row["class"] for row in table] == list("abcde")  # no picture of f: no row
    np.testing.assert_allclose([row["accuracy"] for row in table], (matrix.diagonal() / matrix.sum(axis=1).clip(1))[:5])
    pairs = metrics.confused_pairs(labels, predicted, most=4)
    off = [(-matrix[i, j], i, j) for i in range(6) for j in range(6) if i != j and matrix[i, j]]
    assert pairs == [(i, j, -times) for times, i, j in sorted(off)[:4]]


def test_no_mistakes_are_no_pairs():
    assert metrics.confused_pairs(np.array([1, 2]), np.array([1, 2]), most=3) == []


@given(n=st.integers(1, 400), data=st.data())
@settings(max_examples=60, deadline=None)
def test_interval_is_the_inversion_of_two_binomial_tests(n, data):
    hits = data.draw(st.integers(0, n))
    low, high = metrics.interval(hits / n, n)
    assert 0 <= low <= hits / n <= high <= 1
    expected = stats.binomtest(hits, n).proportion_ci(0.95, "exact")
    np.testing.assert_allclose((low, high), (expected.low, expected.high), atol=1e-9)


def test_single_captions_are_worth_themselves_and_copies_are_worth_their_owners():
    hits = np.random.default_rng(0).random(200) < 0.3
    assert metrics.effective_n_of_clusters(hits, np.arange(200)) == pytest.approx(200, rel=0.01)
    copies = metrics.effective_n_of_clusters(np.repeat(hits, 5), np.repeat(np.arange(200), 5))
    assert copies == pytest.approx(200, rel=0.02)


def test_effective_numbers_stay_within_their_bounds():
    assert metrics.effective_n_of_clusters([True] * 10, np.repeat(np.arange(5), 2)) == 5
    assert metrics.effective_n_of_clusters([True, False], [0, 0]) == 1
    assert metrics.effective_n_of_clusters([True, False] * 5, np.repeat(np.arange(5), 2)) == 10  # evenly spread
    assert metrics.effective_n_of_classes([3, 3], [3, 3]) == 6
    assert metrics.effective_n_of_classes([100, 1], [100, 1]) == pytest.approx(4 / 1.01)  # one picture decides half


def covers(value, trials, truth):
    low, high = metrics.interval(value, trials)
    return low <= truth <= high


def test_the_interval_over_captions_of_shared_pictures_covers_the_truth():
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(60), 5)
    covered = []
    for _ in range(400):
        hits = rng.random(300) < np.repeat(rng.beta(0.5, 1.5, 60), 5)  # mean 0.25, captions of one picture agree
        covered.append(covers(hits.mean(), metrics.effective_n_of_clusters(hits, owner), 0.25))
    assert np.mean(covered) > 0.93


def test_the_interval_over_classes_covers_the_truth():
    rng = np.random.default_rng(2)
    total, share = np.array([3, 10, 40, 100, 7]), np.array([0.2, 0.9, 0.5, 0.7, 0.6])
    covered = []
    for _ in range(400):
        right = rng.binomial(total, share)
        covered.append(covers((right / total).mean(), metrics.effective_n_of_classes(right, total), share.mean()))
    assert np.mean(covered) > 0.93
