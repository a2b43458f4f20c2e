"""The released preprocessing, bit for bit, against its published output and against its rules written out."""

import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipjax.config import ImageConfig
from clipjax.images import preprocess as module
from clipjax.images.decode import decode
from clipjax.images.preprocess import normalize, preprocess, resize_and_crop, resized_size

FIXTURES = Path(__file__).with_name("fixtures")
MODES = ["1", "L", "LA", "P", "P with alpha", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"]


def release(image, size):
    """openai/CLIP, clip.py: Resize, CenterCrop, convert, as torchvision carries them out on Pillow images."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    new_short, new_long = size, int(size * long / short)
    new_width, new_height = (new_short, new_long) if width <= height else (new_long, new_short)
    if (height, width) != (new_height, new_width):
        image = image.resize((new_width, new_height), Image.BICUBIC)
    top, left = int(round((new_height - size) / 2.0)), int(round((new_width - size) / 2.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bytes as transparency
        return np.asarray(image.crop((left, top, left + size, top + size)).convert("RGB"))


def test_published_output_is_met_exactly():
    image = decode((FIXTURES / "franz-kafka.jpg").read_bytes(), "franz-kafka.jpg")
    expected = np.load(FIXTURES / "expected_preprocessed_image.npz")["pixels"]  # [1, 3, 224, 224] float32
    pixels = preprocess(image, ImageConfig())
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels, expected[0].transpose(1, 2, 0))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(60, 40), (40, 61), (33, 32), (32, 35), (32, 32), (20, 9), (200, 111)])
def test_every_mode_and_shape_equals_the_release(picture, mode, size):
    image = picture(mode, *size)
    assert np.array_equal(resize_and_crop(image, 32), release(image, 32))


@given(width=st.integers(1, 150), height=st.integers(1, 150), size=st.integers(1, 40))
def test_any_size_equals_the_release(picture, width, height, size):
    image = picture("RGB", width, height)
    assert np.array_equal(resize_and_crop(image, size), release(image, size))


def test_a_picture_20000_pixels_wide_equals_the_release(picture):
    image = picture("RGB", 20_000, 150)
    assert np.array_equal(resize_and_crop(image, 64), release(image, 64))


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000)])
def test_a_strip_costs_no_memory_and_shows_its_middle(size):
    ramp = np.arange(20_000) // 79  # grey levels, one end black, one white
    image = Image.fromarray(np.broadcast_to(ramp, (1, 20_000)).astype(np.uint8))
    if size[0] == 1:
        image = image.transpose(Image.Transpose.ROTATE_270)
    pixels = resize_and_crop(image, 224)  # resized whole it would fill 3 GB
    assert pixels.shape == (224, 224, 3)
    assert abs(pixels.astype(int) - ramp[10_000]).max() <= 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(60, 40), (400, 21), (17, 300)])
def test_computing_only_the_square_gives_the_same_within_rounding(picture, monkeypatch, mode, size):
    image = picture(mode, *size)
    whole = resize_and_crop(image, 32).astype(int)
    monkeypatch.setattr(module, "_LARGEST_RESIZED", 0)
    difference = abs(resize_and_crop(image, 32) - whole)
    # two passes round to 8 bits; colours that are nearly transparent and nearest pixels of palettes jump
    assert (difference > 2).mean() < 0.2
    assert difference.max() <= 2 or mode not in ("L", "RGB", "CMYK")


@pytest.mark.parametrize(("width", "left"), [(32, 0), (33, 0), (34, 1), (35, 2), (36, 2), (37, 2), (39, 4)])
def test_the_crop_rounds_half_to_even(width, left):
    columns = np.broadcast_to(np.arange(width, dtype=np.uint8), (32, width))
    assert resize_and_crop(Image.fromarray(columns), 32)[0, 0, 0] == left


def test_the_long_side_is_cut_to_whole_pixels():
    assert resized_size((500, 375), 224) == (298, 224)
    assert resized_size((375, 500), 224) == (224, 298)
    assert resized_size((224, 301), 224) == (224, 301)


def test_the_picture_given_is_left_alone(picture):
    for size in (32, 40):
        image = picture("P with alpha", 60, 40)
        before = image.tobytes()
        resize_and_crop(image, size)
        assert image.info["transparency"] == bytes(range(256))
        assert (image.mode, image.size, image.tobytes()) == ("P", (60, 40), before)


def test_interpolation_is_the_one_asked_for(picture):
    image = picture("RGB", 60, 40)
    expected = image.resize((36, 24), Image.BILINEAR).crop((6, 0, 30, 24))
    assert np.array_equal(resize_and_crop(image, 24, "bilinear"), np.asarray(expected))


def test_normalize_gives_the_release_s_values_for_black_and_white():
    config = ImageConfig()
    ends = normalize(np.array([[0] * 3, [255] * 3], np.uint8), config.mean, config.std)
    black = np.array([-1.7922626, -1.7520971, -1.4802198], np.float32)
    white = np.array([1.9303361, 2.0748837, 2.1458969], np.float32)
    assert np.array_equal(ends, [black, white])


@pytest.mark.parametrize("shape", [(3,), (2, 3), (4, 5, 3), (2, 4, 5, 3)])
def test_normalize_inside_jit_equals_numpy(shape):
    config = ImageConfig()
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    inside = jax.jit(lambda pixels: normalize(pixels, config.mean, config.std))(pixels)
    assert inside.dtype == np.float32
    np.testing.assert_allclose(inside, normalize(pixels, config.mean, config.std), rtol=0, atol=1e-6)


def test_normalize_refuses_what_is_no_bytes():
    with pytest.raises(TypeError, match="pixels are float32, expected uint8"):
        normalize(np.zeros((2, 3), np.float32), (0, 0, 0), (1, 1, 1))


def test_preprocess_follows_the_config(picture):
    config = ImageConfig(image_size=24, patch_size=8, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear")
    image = picture("RGB", 60, 40)
    expected = resize_and_crop(image, 24, "bilinear").astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(preprocess(image, config), expected, atol=1e-6)


def test_squash_resizes_both_sides_and_keeps_the_whole_picture():
    """open_clip's resize_mode="squash": Resize((n, n)), no crop, RGB last."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    config = ImageConfig(image_size=32, resize_mode="squash", mean=(0.0,) * 3, std=(1.0,) * 3)
    expected = np.asarray(image.resize((32, 32), Image.BICUBIC), np.float32) / np.float32(255)
    assert np.array_equal(preprocess(image, config), expected)
    assert not np.array_equal(preprocess(image, ImageConfig(image_size=32, mean=(0.0,) * 3, std=(1.0,) * 3)), expected)
