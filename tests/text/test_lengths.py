import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from clipjax.text import END, tokenize
from clipjax.text.lengths import FINE_BUCKETS, bucket, by_length, lengths


def test_lengths_count_start_words_and_end():
    assert lengths(tokenize(["", "a", "a photo of a cat", "a " * 100], 77), END).tolist() == [2, 3, 7, 77]


def test_the_first_end_token_ends_a_caption():
    assert lengths(np.array([[9, 99, 5, 99], [99, 0, 0, 0], [1, 2, 3, 4]]), 99).tolist() == [2, 1, 1]


def test_no_rows_have_no_lengths():
    assert lengths(np.zeros((0, 5), np.int32), 99).shape == (0,)


@pytest.mark.parametrize(
    ("longest", "context", "expected"),
    [(2, 77, 16), (16, 77, 16), (17, 77, 24), (33, 77, 40), (41, 77, 48), (65, 77, 77), (77, 77, 77), (2, 10, 10)]
    + [(16, 16, 16), (70, 248, 77), (200, 248, 248), (900, 1024, 1024)],
)
def test_a_bucket_holds_the_longest_and_fits_the_context(longest, context, expected):
    assert bucket(longest, context) == expected


def test_few_buckets_serve_every_length():
    found = [bucket(longest, 77) for longest in range(1, 78)]
    assert all(size >= longest for longest, size in enumerate(found, 1)) and sorted(set(found)) == [
        16,
        24,
        32,
        40,
        48,
        64,
        77,
    ]


@hypothesis.given(st.lists(st.integers(1, 77), max_size=70), st.integers(1, 20), st.integers(1, 8))
def test_every_text_is_in_one_group_that_holds_it(needed, most, devices):
    needed = np.array(needed, np.int64)
    groups = list(by_length(needed, 77, most, devices))
    assert sorted(row for rows, _ in groups for row in rows) == list(range(len(needed)))
    assert all(0 < len(rows) <= most and needed[rows].max() <= length <= 77 for rows, length in groups)
    assert all(length == bucket(needed[rows].max(), 77, FINE_BUCKETS) for rows, length in groups)


def test_a_group_is_halved_only_where_that_saves_more_than_a_pass():
    def sizes(needed, devices=1):
        return [(len(rows), length) for rows, length in by_length(np.array(needed), 77, 16, devices)]

    assert sizes([30] + [10] * 15) == [(8, 10), (8, 32)]  # 16 * 32 tokens became 8 * 10 + 8 * 32
    assert sizes([12] + [10] * 15) == [(16, 12)]
    assert sizes([30] + [10] * 15, devices=8) == [(16, 32)]
    assert sizes([30] + [10] * 7) == [(8, 32)]  # is half of 16 rows already
    assert sizes([77] * 4 + [40] * 4 + [10] * 8 + [40, 10]) == [(8, 10), (8, 77), (2, 77)]
    assert sizes([]) == [] and sizes([5]) == [(1, 8)]
