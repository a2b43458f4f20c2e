"""Whatever the bytes: a loaded picture as it is stored, or one ImageError with its name; never a warning."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from clipjax.errors import UserError
from clipjax.images.decode import MAX_PIXELS, ImageError, decode, open_image

KINDS = [  # mode of the picture, format, mode after decoding
    ("RGB", "JPEG", "RGB"),
    ("L", "JPEG", "L"),
    ("CMYK", "JPEG", "CMYK"),
    ("RGB", "PNG", "RGB"),
    ("1", "PNG", "1"),
    ("L", "PNG", "L"),
    ("LA", "PNG", "LA"),
    ("P", "PNG", "P"),
    ("P with alpha", "PNG", "P"),
    ("RGBA", "PNG", "RGBA"),
    ("I;16", "PNG", "I;16"),
    ("RGB", "WEBP", "RGB"),
    ("RGBA", "WEBP", "RGBA"),
    ("P", "GIF", "P"),
    ("RGB", "BMP", "RGB"),
    ("CMYK", "TIFF", "CMYK"),
    ("RGB", "PPM", "RGB"),
]


@pytest.mark.parametrize(("mode", "format", "stored"), KINDS)
def test_each_kind_is_loaded_as_it_is_stored(picture, encoded, mode, format, stored):
    image = decode(encoded(picture(mode), format), "a picture")
    assert (image.mode, image.size) == (stored, (60, 40))
    assert image.tobytes()


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_comes_the_first_frame(encoded, format):
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    options = {} if format == "TIFF" else {"duration": 100}
    options |= {"lossless": True} if format == "WEBP" else {}
    image = decode(encoded(red, format, save_all=True, append_images=[blue], **options), "an animation")
    assert image.convert("RGB").getpixel((4, 4)) == (255, 0, 0)


def test_exif_orientation_is_not_applied(picture, encoded):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image = decode(encoded(picture(), "JPEG", exif=exif), "turned")
    assert image.size == (60, 40)
    assert image.tobytes() == decode(encoded(picture(), "JPEG"), "plain").tobytes()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_an_image_error(picture, encoded, format, share):
    data = encoded(picture(), format)
    with pytest.raises(ImageError, match="^shard.tar/000123: "):
        decode(data[: int(len(data) * share)], "shard.tar/000123")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty, 0 bytes"),
        (b"a caption, not a picture\n" * 9, "no picture in a known format, 225 bytes"),
        (b"\0" * 500, "no picture in a known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture in a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture in a known format"),
        (b"\xff\xd8\xff", "no picture in a known format"),
        (b"\x89PNG\r\n\x1a\n", "."),
    ],
)
def test_what_is_no_picture_is_an_image_error(data, reason):
    with pytest.raises(ImageError, match=f"^name: {reason}"):
        decode(data, "name")


@pytest.mark.parametrize("side", [9_500, 12_000, 30_000, 2_000_000])
def test_a_decompression_bomb_is_refused_before_decoding(png_header, monkeypatch, side):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    data = png_header(side, side)
    assert len(data) < 100
    with pytest.raises(ImageError, match="^bomb.png: .*pixels"):
        decode(data, "bomb.png")


def test_a_wide_picture_within_the_limit_is_read(picture, encoded):
    assert decode(encoded(picture("L", 20_000, 50), "PNG"), "wide").size == (20_000, 50)


def test_a_picture_without_pixels_is_refused(png_header):
    with pytest.raises(ImageError):
        decode(png_header(0, 5), "nothing")


@given(st.data())
def test_a_damaged_file_gives_a_picture_or_an_image_error(picture, encoded, data):
    format = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"]))
    raw = bytearray(encoded(picture(width=16, height=12), format))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode(bytes(raw), "damaged")
    except ImageError as error:
        assert str(error).startswith("damaged: ")
    else:
        assert 0 < image.width * image.height <= MAX_PIXELS


def test_odd_metadata_and_large_sizes_draw_no_warning(picture, encoded, png_header, tmp_path):
    jpeg = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x01\x02")
    (tmp_path / "jpeg").write_bytes(jpeg)
    (tmp_path / "png").write_bytes(png_header(10_000, 10_000))
    program = (
        "import pathlib, sys; from clipjax.images.decode import ImageError, decode\n"
        "jpeg, png = (pathlib.Path(path).read_bytes() for path in sys.argv[1:])\n"
        "print(decode(jpeg, 'jpeg').size)\n"
        "try: decode(png, 'png')\n"
        "except ImageError as error: print(error)\n"
    )
    command = [sys.executable, "-W", "error", "-c", program, tmp_path / "jpeg", tmp_path / "png"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == f"(60, 40)\npng: 10000 x 10000 pixels, expected 1 to {MAX_PIXELS:,}\n"


@pytest.mark.parametrize(("at_least", "size"), [(0, (640, 480)), (481, (640, 480)), (240, (320, 240)), (60, (80, 60))])
def test_a_jpeg_may_come_smaller_but_never_below_what_is_asked(picture, encoded, at_least, size):
    data = encoded(picture("RGB", 640, 480), "JPEG")
    assert decode(data, "large", at_least=at_least).size == size


def test_a_smaller_jpeg_shows_the_same_picture(picture, encoded):
    data = encoded(picture("RGB", 640, 480), "JPEG", quality=95)
    whole, small = decode(data, "large"), decode(data, "large", at_least=200)
    difference = np.asarray(whole.resize(small.size, Image.Resampling.BOX), int) - np.asarray(small, int)
    assert abs(difference).mean() < 2
    assert decode(encoded(picture("RGB", 640, 480), "PNG"), "png", at_least=60).size == (640, 480)


def test_open_image_takes_paths_images_and_arrays(picture, tmp_path):
    image = picture()
    image.save(tmp_path / "a.png")
    pixels = np.asarray(image)  # [height, width, 3] uint8
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), image, pixels, pixels[::-1][::-1], jnp.asarray(pixels)):
        assert np.array_equal(np.asarray(open_image(source)), pixels)
    assert open_image(pixels[..., 0]).mode == "L"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("no/such/file.jpg", "cannot read 'no/such/file.jpg': No such file"),
        ("a\0b", "cannot read"),
        (".", "cannot read"),
        (__file__, "test_decode.py: no picture in a known format"),
        (np.zeros((4, 4, 3), np.float32), r"array of float32 \[4, 4, 3\]"),
        (np.zeros((4, 4, 4), np.uint8), r"array of uint8 \[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"array of uint8 \[0, 4, 3\]"),
        (Image.new("RGB", (0, 0)), "0 x 0 pixels"),
        (None, "found a NoneType"),
    ],
)
def test_open_image_names_what_it_cannot_take(source, what):
    with pytest.raises(UserError, match=what) as caught:
        open_image(source)
    assert "Give " in str(caught.value)


def test_open_image_names_a_truncated_image(picture, encoded, tmp_path):
    data = encoded(picture(), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(data[:-200])
    with pytest.raises(UserError, match="truncated"), Image.open(tmp_path / "cut.jpg") as lazy:
        open_image(lazy)
