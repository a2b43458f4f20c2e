"""Search: the nearest by cosine, from the same checkpoint only, drawn from the original files."""

import re
import shutil

import numpy as np
import pytest

from clipjax.errors import UserError
from clipjax.evaluation.export import export
from clipjax.evaluation.search import search
from clipjax.images.decode import decode


@pytest.fixture
def searchable(bundle, monkeypatch):
    """The stand-in, which also reads pictures from paths."""

    def encode_image(paths):
        return bundle.encode_pixels(np.stack([bundle.preprocess(decode(open(p, "rb").read(), p)) for p in paths]))

    monkeypatch.setattr(bundle, "encode_image", encode_image, raising=False)
    return bundle


@pytest.fixture
def photos(tmp_path, picture):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("red", "green", "blue", "yellow", "white"):
        (folder / f"{name}.png").write_bytes(picture(name))
        (folder / f"{name}_red.png").write_bytes(picture(name, "red"))
    return folder


@pytest.fixture(params=["npz", "parquet"])
def embeddings(searchable, photos, tmp_path, request):
    export(searchable, str(photos), tmp_path / f"photos.{request.param}")
    return tmp_path / f"photos.{request.param}"


def test_the_nearest_come_first_with_their_cosines(searchable, embeddings, photos):
    text, picture = search(embeddings, searchable, texts=["green"], images=[photos / "blue.png"], count=3)
    assert text.keys[:2] == ["green.png", "green_red.png"] and not text.by_picture
    assert text.scores == sorted(text.scores, reverse=True) and len(text.keys) == 3
    assert picture.keys[0] == "blue.png" and picture.scores[0] == pytest.approx(1) and picture.by_picture
    assert text.scores[0] == pytest.approx(float(searchable.encode_text(["green"])[0].max()))


def test_no_more_than_there_are_are_found(searchable, embeddings):
    (found,) = search(embeddings, searchable, texts=["red"], count=1000)
    assert sorted(found.index) == list(range(10))


def shown(page):
    """The lines of the page that are pictures of answers, and whether each is drawn."""
    return [("data:image/jpeg;base64," in part) for part in page.read_text().split("<li>")[1:]]


def test_the_page_draws_the_pictures_of_the_original_files(searchable, embeddings, photos, tmp_path):
    page = tmp_path / "new" / "page.html"
    search(embeddings, searchable, texts=["red & <blue>"], images=[str(photos / "red.png")], count=4, out=page)
    text = page.read_text()
    assert shown(page) == [True] * 8 and text.count("<img") == 9
    assert "“red &amp; &lt;blue&gt;”" in text and "red_red.png" in text
    assert not re.search(r'(src|href)="(?!data:)', text)


def test_pictures_that_were_moved_are_found_again_or_only_named(searchable, embeddings, photos, tmp_path, capsys):
    page, other = tmp_path / "page.html", tmp_path / "elsewhere"
    photos.rename(other)
    found = search(embeddings, searchable, texts=["red"], count=5, out=page)
    assert shown(page) == [False] * 5 and len(found[0].keys) == 5
    assert "no file matches" in capsys.readouterr().err
    assert "5 pictures are not where they were embedded" in page.read_text()
    search(embeddings, searchable, texts=["red"], count=5, out=page, data=[str(other)])
    assert shown(page) == [True] * 5
    shutil.copy(other / "red.png", other / "a.png")  # all places move by one
    search(embeddings, searchable, texts=["red"], count=5, out=page, data=[str(other)])
    assert shown(page) == [False] * 5


def test_embeddings_of_another_checkpoint_are_refused_in_a_line(searchable, embeddings):
    searchable.fingerprint, searchable.name = "e" * 64, "other"
    with pytest.raises(
        UserError, match=r"was made with fake \(fingerprint ffffffff…\), not with other \(eee"
    ) as caught:
        search(embeddings, searchable, texts=["red"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "nothing is asked"), ({"texts": ["a"], "count": 0}, "count=0 should be 1 or more")],
)
def test_a_mistake_is_named(searchable, options, message):
    with pytest.raises(UserError, match=message):
        search("none.npz", searchable, **options)


def test_a_page_that_cannot_be_written_is_named(searchable, embeddings, tmp_path):
    with pytest.raises(UserError, match="cannot be written .Is a directory"):
        search(embeddings, searchable, texts=["red"], out=tmp_path)
