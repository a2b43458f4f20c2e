"""The shortcut past ftfy is right, and what is cleaned splits as the release's text does."""

import html
import itertools

import ftfy
from hypothesis import given
from hypothesis import strategies as st

from clipjax.text.cleaning import clean

ASCII = [chr(code) for code in range(128)]
PLAIN = [character for character in ASCII if character.isprintable() and character != "&"]
# parts that ftfy and html.unescape react to, alone or joined
PARTS = st.sampled_from(
    ["&", "&amp;", "lt;", "&#", "x1;", "x85;", "38;", "<", "\x1b[31m", "\x01", "\r\n", "Ã¶", "â€™", "\xa0"]
)


def release_cleaning(release, text):
    return release.whitespace_clean(release.basic_clean(text)).lower()


def test_every_pair_of_ascii_characters_is_cleaned_as_in_the_release(release):
    for pair in map("".join, itertools.product(ASCII, ASCII)):
        text = f"A{pair}b"
        assert clean(text).split() == release_cleaning(release, text).split(), repr(text)


@given(st.text(st.sampled_from(PLAIN)))
def test_plain_ascii_has_nothing_to_mend(text):
    assert ftfy.fix_text(text) == text == html.unescape(text)


@given(st.lists(st.text(st.characters()) | st.text(st.sampled_from(ASCII)) | PARTS).map("".join))
def test_any_text_is_cleaned_as_in_the_release(release, text):
    assert clean(text).split() == release_cleaning(release, text).split()


def test_control_characters_do_not_pass_the_shortcut():
    assert clean("a\x01b\x00c\x7fd") == "abcd"
    assert clean("\x1b[31mred\x1b[0m") == "red"


def test_an_ascii_entity_is_unescaped_and_then_mended():
    assert clean("sch&Atilde;&para;n") == "schön"
    assert clean("&amp;lt;tag&amp;gt;") == "<tag>"
