"""Thumbnails: small, of the middle square, within the page's budget."""

import base64
import io

import numpy as np
from PIL import Image

from clipjax.evaluation.report.pictures import SIDE, Thumbnails


def stored(tmp_path, image, name="a"):
    path = tmp_path / name
    image.save(path, "PNG")
    return str(path), path.read_bytes


def opened(uri):
    head, data = uri.split(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_large_picture_becomes_a_small_square_and_a_small_one_keeps_its_size(tmp_path):
    wide = Image.new("RGB", (900, 300), (10, 200, 10))
    assert opened(Thumbnails()(*stored(tmp_path, wide))).size == (SIDE, SIDE)
    assert opened(Thumbnails()(*stored(tmp_path, Image.new("RGB", (40, 30)), name="b"))).size == (30, 30)


def test_every_mode_that_is_read_can_be_shown(tmp_path):
    for mode in ("L", "P", "RGBA", "LA", "1", "I;16"):
        assert opened(Thumbnails()(*stored(tmp_path, Image.new(mode, (50, 60)), name=mode))).mode == "RGB"


def test_the_page_has_a_budget_and_a_picture_shown_twice_costs_once(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    first, second = (stored(tmp_path, Image.fromarray(noise), name=name) for name in "ab")
    cost = len(Thumbnails()(*first))
    thumbnail = Thumbnails(budget=cost + 10)
    assert thumbnail(*first) and not thumbnail.full
    assert thumbnail(*second) is None and thumbnail.full
    assert thumbnail(*first)
