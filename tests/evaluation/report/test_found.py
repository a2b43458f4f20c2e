"""The page of a search: complete in itself, and honest about what it cannot show."""

import io

import pytest
from PIL import Image

from clipjax.evaluation.report import found as module
from clipjax.evaluation.report.found import page
from clipjax.evaluation.search import Found

ABOUT = {"checkpoint": "runs/<a>", "data": ["/data/*.tar"], "pictures": 1234, "dimensions": 512}


def jpeg(index):
    stream = io.BytesIO()
    Image.new("RGB", (50, 40), (20 * index, 0, 0)).save(stream, "JPEG")
    return stream.getvalue()


def one(count, query="a dog", by_picture=False):
    return Found(
        query, by_picture, [f"k{n}" for n in range(count)], [0.5 - n / 10 for n in range(count)], [*range(count)]
    )


def test_each_query_shows_its_pictures_with_score_and_key():
    text = page([one(3), one(2, "a cat")], ABOUT, lambda index, key: jpeg(index))
    assert text.count("data:image/jpeg") == 5
    assert text.index("a dog") < text.index("k2") < text.index("a cat")
    assert "0.400" in text and "1,234 pictures" in text and "runs/&lt;a&gt;" in text
    assert "named only" not in text and "The page is full" not in text


@pytest.mark.parametrize("error", [LookupError("k1"), OSError("gone")])
def test_a_picture_that_is_gone_is_named(error):
    def read(index, key):
        if index == 1:
            raise error
        return b"no picture" if index == 2 else jpeg(index)

    text = page([one(4), one(1, "gone.jpg", by_picture=True)], ABOUT, read)
    assert text.count("data:image/jpeg") == 3
    assert '<span class="blank">k1</span>' in text and "3 pictures are not where they were" in text
    assert "Like gone.jpg" in text


def test_a_full_page_says_so(monkeypatch):
    monkeypatch.setattr(module, "_BUDGET", 1000)
    text = page([one(9)], ABOUT, lambda index, key: jpeg(index))
    assert 0 < text.count("data:image/jpeg") < 9 and "The page is full" in text
