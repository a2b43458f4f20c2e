"""Lengths to which token rows may be cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.text import END, tokenize
from clipjax.text.lengths import BUCKETS, bucket, lengths


@pytest.mark.parametrize(
    ("longest", "length"), [(0, 16), (2, 16), (16, 16), (17, 24), (32, 32), (33, 48), (64, 64), (65, 77), (77, 77)]
)
def test_the_bucket_is_the_first_that_holds_the_longest(longest, length):
    assert bucket(longest, 77) == length


@given(context=st.integers(3, 100), share=st.floats(0, 1))
def test_a_bucket_holds_the_longest_and_never_passes_the_context(context, share):
    longest = round(share * context)
    found = bucket(longest, context)
    assert longest <= found <= context
    assert found in {*BUCKETS, context}


def test_a_length_ends_with_the_first_end_token():
    tokens = tokenize(["", "a", "a <|endoftext|> b", "a " * 100], 16)
    assert lengths(tokens, END).tolist() == [2, 3, 3, 16]
    assert lengths(np.zeros((2, 5), np.int32), END).tolist() == [1, 1]
    assert lengths(np.zeros((0, 5), np.int32), END).tolist() == []
