"""Training crops: the right area, the right distribution, and nothing but the generator decides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipjax.config import DataConfig
from clipjax.images.augment import _random_area, augment, needed_side
from clipjax.images.preprocess import resize_and_crop

KINDS = ["random_crop", "random_resized_crop", "center_crop"]


@pytest.fixture
def chessboard():
    """Pixel (x, y) holds x in red and y in green: a crop tells where it came from."""
    pixels = np.zeros((100, 150, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(150), np.arange(100)[:, None]
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flip", [False, True])
def test_the_generator_decides_everything(picture, kind, flip):
    config = DataConfig(augmentation=kind, horizontal_flip=flip)
    image = picture("RGB", 48, 40)
    once, again, other = (augment(image, 24, np.random.default_rng(seed), config) for seed in (1, 1, 3))
    assert once.shape == (24, 24, 3)
    assert once.dtype == np.uint8
    assert once.flags.c_contiguous
    assert np.array_equal(once, again)
    assert np.array_equal(once, other) == (kind == "center_crop" and not flip)


def test_random_crop_is_a_square_of_the_resized_picture(picture):
    image, config = picture("RGB", 75, 50), DataConfig(augmentation="random_crop")
    resized = np.asarray(image.resize((36, 24), Image.BICUBIC), int)  # [height, width, 3]
    lefts = set()
    for seed in range(40):
        crop = augment(image, 24, np.random.default_rng(seed), config).astype(int)
        [left] = [x for x in range(13) if abs(resized[:, x : x + 24] - crop).max() <= 1]
        lefts.add(left)
    assert {0, 12} <= lefts and len(lefts) > 9


@pytest.mark.parametrize("size", [(60, 24), (24, 60), (24, 24)])
def test_random_crop_cuts_without_resampling_where_the_size_is_right(picture, size):
    image = picture("RGB", *size)
    pixels = np.asarray(image)
    crop = augment(image, 24, np.random.default_rng(3), DataConfig(augmentation="random_crop"))
    places = [(y, x) for y in range(pixels.shape[0] - 23) for x in range(pixels.shape[1] - 23)]
    assert any(np.array_equal(pixels[y : y + 24, x : x + 24], crop) for y, x in places)


def test_random_crop_reaches_every_place_equally_often(chessboard):
    config = DataConfig(augmentation="random_crop")
    rng = np.random.default_rng(0)
    lefts = np.array([augment(chessboard, 100, rng, config)[0, 0, 0] for _ in range(2000)])
    assert (lefts.min(), lefts.max()) == (0, 50)
    counts = np.bincount(lefts, minlength=51)
    assert ((counts - 2000 / 51) ** 2 / (2000 / 51)).sum() < 90  # chi-square, 50 degrees: exceeded once in 2,000


def test_random_resized_crop_keeps_area_and_ratio_in_range():
    rng = np.random.default_rng(0)
    areas, ratios = [], []
    for _ in range(1000):
        left, top, width, height = _random_area(500, 400, rng, (0.3, 0.6))
        assert 0 <= left <= 500 - width and 0 <= top <= 400 - height
        areas.append(width * height / 200_000)
        ratios.append(width / height)
    assert 0.295 < min(areas) < 0.31 and 0.58 < max(areas) < 0.605
    assert 0.74 < min(ratios) < 0.77 and 1.29 < max(ratios) < 1.34
    assert abs(np.log(ratios).mean()) < 0.03  # the logarithm of the ratio is uniform


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_a_random_area_lies_inside_of_any_picture(width, height, seed):
    left, top, w, h = _random_area(width, height, np.random.default_rng(seed), (0.9, 1.0))
    assert w > 0 and h > 0 and left >= 0 and top >= 0 and left + w <= width and top + h <= height


@pytest.mark.parametrize(
    ("size", "area"), [((1000, 10), (493, 0, 13, 10)), ((10, 1000), (0, 493, 10, 13)), ((20, 19), (0, 0, 20, 19))]
)
def test_where_no_area_fits_the_middle_is_taken(size, area):
    class Never:  # a generator whose every try is larger than the picture
        def uniform(self, low, high):
            return 2000.0 if low > 0 else high

    assert _random_area(*size, Never(), (0.9, 1.0)) == area


def test_center_crop_is_the_evaluation_s(picture):
    config = DataConfig(augmentation="center_crop")
    for mode in ("P", "RGBA", "CMYK"):
        image = picture(mode)
        assert np.array_equal(augment(image, 24, np.random.default_rng(0), config), resize_and_crop(image, 24))
        squashed = augment(image, 24, np.random.default_rng(0), config, resize_mode="squash")
        assert np.array_equal(squashed, resize_and_crop(image, 24, resize_mode="squash"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "P with alpha", "RGBA", "CMYK", "I;16"])
def test_every_mode_gives_rgb_without_a_warning(picture, kind, mode):
    pixels = augment(picture(mode), 24, np.random.default_rng(0), DataConfig(augmentation=kind))
    assert (pixels.shape, pixels.dtype) == ((24, 24, 3), np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000), (1, 1), (3, 500)])
def test_the_thinnest_pictures_are_cropped_too(picture, kind, size):
    image = picture("RGB", *size)
    assert augment(image, 224, np.random.default_rng(0), DataConfig(augmentation=kind)).shape == (224, 224, 3)


def test_a_flip_mirrors_half_of_the_views(chessboard):
    config = DataConfig(augmentation="center_crop", horizontal_flip=True)
    rng = np.random.default_rng(0)
    plain = resize_and_crop(chessboard, 50)
    mirrored = 0
    for _ in range(400):
        view = augment(chessboard, 50, rng, config)
        mirrored += np.array_equal(view, plain[:, ::-1])
        assert np.array_equal(view, plain) or np.array_equal(view, plain[:, ::-1])
    assert 150 < mirrored < 250


@pytest.mark.parametrize(("kind", "side"), [("random_crop", 224), ("center_crop", 0), ("random_resized_crop", 273)])
def test_needed_side_is_where_enlarging_would_begin(kind, side):
    assert needed_side(224, DataConfig(augmentation=kind, crop_scale=(0.9, 1.0))) == side
