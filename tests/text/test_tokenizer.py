"""Ids equal the release's own tokenizer, from threads and after a fork too."""

import html.entities
import random
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.errors import UserError
from clipjax.text import END, START, decode, encode, identity, tokenize, tokenizer

GOLDEN = {  # ids that openai/CLIP's simple_tokenizer.py gives, without START and END
    "Hello World!": [3306, 1002, 256],
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "": [],
    "I'm sure they'd've said: DON'T": [328, 880, 1650, 889, 1896, 1200, 1946, 281, 847, 713],
    "don\u2019t \u201cquote\u201d \u2014 caf\u00e9 na\u00efve": [
        847,
        713,
        257,
        4020,
        257,
        2005,
        15304,
        1097,
        35689,
        563,
    ],
    "2024-01-15 12:30 3.14159 100%": [273, 271, 273, 275, 268, 271, 272, 268, 272, 276, 272, 273, 281]
    + [274, 271, 274, 269, 272, 275, 272, 276, 280, 272, 271, 271, 260],
    "Cr\u00e8me br\u00fbl\u00e9e &amp; caf&eacute; &lt;b&gt;": [1075, 12138, 614, 711, 127, 119, 75, 13489, 261]
    + [15304, 283, 321, 285],
    "&amp;lt;tag&amp;gt;": [283, 3640, 285],
    "I \u2764\ufe0f \U0001f355 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7": [328, 1752, 23904]
    + [25023, 26304, 964, 356, 16223],
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \u4f60\u597d": [39121, 44353, 34002, 252, 21575, 2429, 228]
    + [47121, 32421, 486, 47466, 254, 29290, 377],
    "\u041f\u0420\u0418\u0412\u0415\u0422 \u043c\u0438\u0440": [26302, 16370, 29503, 110, 22176, 141, 480, 38018]
    + [16701, 141, 478],
    "\u0130stanbul \u1e9e \ufb01ne": [328, 16384, 11231, 127, 509, 3797],
    "tab\there\nnew  line\u00a0nbsp": [14724, 763, 686, 1148, 6459, 4393],
    "C++ / C# & .NET @user #tag http://x.y/z?a=1": [322, 19056, 270, 322, 258, 261, 269, 2315, 287, 7031, 258]
    + [3640, 15066, 12441, 343, 269, 344, 270, 345, 286, 320, 284, 272],
    "sch\u00c3\u00b6n \u00e2\u20ac\u2122": [844, 7255, 333, 262],
    "\u00bd \u00b2 \u2460 \u0663": [33613, 41175, 158, 239, 510, 149, 352],
    "supercalifragilisticexpialidocious": [1642, 2857, 13093, 2076, 5868, 26850, 835, 639, 38466],
    "a\u0301 \u200bzero": [22229, 9844, 5848],
    "!!!...???": [11194, 3002, 3824],
    "US$5 it's 'sup 'LL": [718, 259, 276, 585, 568, 568, 705, 1342],
    "<|endoftext|> <|startoftext|>": [49407, 49406],
    "\u0391\u03a3 \u03c2": [138, 109, 139, 480, 139, 480],
    "\uff26\uff35\uff2c\uff2c \uff57\uff49\uff44\uff54\uff48": [1476, 23571],
    "a_b-c": [320, 318, 321, 268, 322],
}
TRAPS = [
    *(
        "\0",
        "a\0b",
        "\x01",
        "a\x01b",
        "a\x01\x01 b\x01",
        "\x1c",
        "\x1f a \x1f",
        "\x7f",
        "\x85",
        "\u2028",
        "\ufeff",
        "\ud800",
    ),
    *(
        "&#0;",
        "&#1;",
        "a&#x1c;b",
        "&#x85;",
        "&#xd800;",
        "&#55296;",
        "&nbsp;",
        "&amp;amp;amp;lt;",
        "&",
        "&;",
        "AT&T",
        "&lt",
    ),
    *(
        "\u0345",
        "x\u0345y",
        "\u0558",
        "\u058b",
        "\u058c",
        "\u017f's",
        "'\u017f",
        "\u212a",
        "'\u212a",
        "<|\u017ftartoftext|>",
    ),
    *(
        "<|endoftext|>",
        "!<|endoftext|>",
        "a<|endoftext|>b",
        "<|ENDOFTEXT|>",
        "<|endoftext|",
        "</w>",
        "a</w>b",
        "<|start_of_text|>",
    ),
    *("'s", "''s", "'S'T'RE'VE'M'LL'D", "it's's", "o'clock", "'re're", "rock'n'roll", "\u2019s", "\uff07s", "'"),
    *(
        "1234567890",
        "1st",
        "\u00bd\u2167",
        "\u0e01\u0e33",
        "\u1112\u1161\u11ab",
        "e\u0301\u0302",
        "\U000e0001",
        "\U0010ffff",
        "\ue000",
    ),
    *("a " * 500, "a" * 5000, "!" * 5000, "7" * 300, "\u00e9" * 999, "\U0001f468\u200d" * 200, "\u4f60\u597d" * 400),
    *("", " ", "\n\t ", "\u00a0", "\u3000", "\u200b", "\u200d"),
]


@pytest.mark.parametrize("text", GOLDEN)
def test_golden_ids(text):
    assert encode(text) == GOLDEN[text]


@pytest.mark.parametrize("text", TRAPS, ids=lambda text: ascii(text[:12]))
def test_traps_equal_the_release(simple, text):
    assert encode(text) == simple.encode(text)


def test_more_than_5000_sentences_equal_the_release(simple):
    from pydoc_data.topics import topics  # English prose that comes with Python

    lines = [line.strip() for topic in topics.values() for line in topic.splitlines() if line.strip()]
    lines = list(dict.fromkeys(lines))[:6000]
    assert len(lines) > 5000
    assert [line for line in lines if encode(line) != simple.encode(line)] == []


def test_every_html_entity_equals_the_release(simple):
    texts = [f"A&{name}b &amp;{name}" for name in html.entities.html5]
    assert len(texts) > 2000
    assert [text for text in texts if encode(text) != simple.encode(text)] == []


def test_a_thousand_mixtures_of_scripts_equal_the_release(simple):
    draw = random.Random(0)
    assigned = _assigned()
    words = ["photo", "Cat", "it's", "<b>", "&amp;", "42", "\U0001f600", "\u2764\ufe0f", "na\u00efve", "\u0391\u03a3"]
    for _ in range(1000):
        text = "".join(draw.choice(draw.choice([assigned, assigned, words, " -'"])) for _ in range(40))
        assert encode(text) == simple.encode(text), ascii(text)


@pytest.mark.slow
def test_every_character_of_unicode_equals_the_release(simple):
    assigned = _assigned()
    for start in range(0, len(assigned), 16):
        text = " a".join(f"{character}b{character}1{character}" for character in assigned[start : start + 16])
        assert encode(text) == simple.encode(text), ascii(text)


@given(st.text(st.characters()))
def test_made_up_texts_equal_the_release(simple, text):
    assert encode(text) == simple.encode(text)


@given(st.lists(st.integers(0, END - 2), max_size=90))
def test_decode_equals_the_release(simple, ids):
    text = decode(ids)
    assert "</w>" in text or text == simple.decode(ids)


def test_decode_reads_a_row_and_stops_at_its_end():
    assert decode(tokenize("Hello World!")[0]) == "hello world ! "
    assert decode([START, 3306, END, 1002]) == "hello "


@pytest.mark.parametrize("token", [-1, END + 1])
def test_decode_names_an_id_that_is_none(token):
    with pytest.raises(UserError, match=f"{token} is no token id"):
        decode([START, token])


def test_rows_are_start_ids_end_and_zeros():
    rows = tokenize(["a cat", "", "<|endoftext|> !"], context_length=6)
    assert rows.dtype == np.int32
    assert rows.tolist() == [[START, 320, 2368, END, 0, 0], [START, END, 0, 0, 0, 0], [START, END, 256, END, 0, 0]]
    assert tokenize("a cat").shape == (1, 77)
    assert tokenize([]).shape == (0, 77)


@pytest.mark.parametrize("length", [3, 4, 16, 77, 100])
def test_a_long_caption_is_cut_with_the_end_last(length):
    assert tokenize("a " * 200, length).tolist() == [[START, *[320] * (length - 2), END]]


def test_a_caption_that_just_fits_is_kept_whole():
    assert tokenize("a " * 75).tolist() == [[START, *[320] * 75, END]]
    assert tokenize("a " * 74).tolist() == [[START, *[320] * 74, END, 0]]


def test_what_is_no_text_is_named():
    with pytest.raises(UserError, match="text 1 is a float, nan"):
        tokenize(["a cat", float("nan")])
    with pytest.raises(UserError, match="context_length=2"):
        tokenize("a cat", 2)


def test_threads_that_start_at_once_agree():
    texts = [f"a photo of {n} cats and {n} dogs" for n in range(200)]
    expected = tokenize(texts)
    tokenizer._engine.cache_clear()
    tokenizer._cached_ids.cache_clear()
    with ThreadPoolExecutor(3) as pool:
        for rows in pool.map(lambda _: tokenize(texts), range(12)):
            assert np.array_equal(rows, expected)


def test_the_cache_of_words_is_bounded():
    tokenizer._cached_ids.cache_clear()
    encode("x" * 10_000)
    assert tokenizer._cached_ids.cache_info().currsize == 0
    assert tokenizer._cached_ids.cache_info().maxsize <= 1 << 16


def test_a_forked_child_tokenizes_in_silence():
    program = (
        "import os, sys; from clipjax.text import tokenize\n"
        "parent = tokenize(['a cat', 'un caf\u00e9'] * 50).tobytes()\n"
        "if os.fork(): sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        "os._exit(tokenize(['a cat', 'un caf\u00e9'] * 50).tobytes() != parent)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_import_is_cheap():
    heavy = "{'jax', 'ftfy', 'regex', 'tokenizers'}"
    program = (
        f"import sys, clipjax.text; sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_identity_is_the_vocabulary_of_the_release():
    assert identity() == {
        "name": "clip",
        "vocab_size": 49408,
        "sha256": "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
    }


def _assigned():
    unwanted = ("Cn", "Cs", "Co")  # not assigned, surrogates, private use
    return [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) not in unwanted]
