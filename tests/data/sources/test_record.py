import json

import pytest

from clipjax.data.sources.record import Dropped, captions_of, lines_of
from clipjax.text import tokenize


@pytest.mark.parametrize(
    "value, captions",
    [
        ("  a dog ", ("a dog",)),
        (b"\xef\xbb\xbfa dog", ("a dog",)),
        (b"\xff dog", ("� dog",)),
        ({"text": "a dog", "id": 3}, ("a dog",)),
        (["a dog", "", "  ", None, 3, {"raw": "a cat"}, {"id": 1}, [["deep"]]], ("a dog", "a cat")),
        (None, ()),
        (3.5, ()),
        ({}, ()),
        ([], ()),
    ],
)
def test_captions_are_found_in_what_people_write(value, captions):
    assert captions_of(value) == captions


def test_lines_are_captions_and_empty_ones_are_not():
    assert lines_of(b"\xef\xbb\xbfone\r\n\n  \n two \xe2\x80\xa8still two") == ("one", "two \u2028still two")


def test_half_a_surrogate_pair_becomes_text_that_can_be_tokenized():
    (caption,) = captions_of(json.loads(r'"a \ud83d dog"'))
    assert caption == "a ? dog" and tokenize(caption).shape == (1, 77)


def test_dropped_counts_all_and_names_the_first():
    dropped = Dropped()
    for number in range(50):
        dropped.add(str(number))
    assert (dropped.count, dropped.names) == (50, ["0", "1", "2", "3", "4"])
