import numpy as np
import pytest

from clipjax.text import END, tokenize
from clipjax.text.lengths import bucket, lengths


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
