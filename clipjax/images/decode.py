"""Bytes, paths and arrays to loaded Pillow images; whatever is wrong with one is told in one line."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from clipjax.errors import UserError

MAX_PIXELS = 89_478_485  # Pillow's own threshold for a decompression bomb: 256 MiB of RGB

# Left out: EPS, whose reader starts another program, and formats that take any bytes for theirs (TGA).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")

# What Pillow says of odd metadata helps nobody who trains. Once and for all, since filters are no thread's own.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageError(ValueError):
    """Bytes that give no picture: names the picture and the reason."""


def decode(data: bytes, name: str, *, at_least: int = 0) -> Image.Image:
    """The first frame of an encoded picture, loaded, in the mode and orientation in which it is stored.

    `at_least`, for training only: a JPEG may come scaled to 1/2, 1/4 or 1/8, its short side keeping at least so many
    pixels, which decodes large photographs several times as fast. 0 gives every pixel.
    Raises ImageError for empty, truncated or foreign bytes and, before any pixel is decoded, above MAX_PIXELS.
    """
    if not data:
        raise ImageError(f"{name}: empty, 0 bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        _check_size(image, name)
        if at_least:
            image.draft(None, (at_least, at_least))
        image.load()
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name}: no picture in a known format, {len(data)} bytes") from error
    except Exception as error:  # on damaged files Pillow's readers raise nearly any kind
        raise ImageError(f"{name}: {str(error) or type(error).__name__}") from error
    return image


def open_image(source) -> Image.Image:
    """A loaded Pillow image from a path, a Pillow image or a uint8 array [height, width, 3] or [height, width].

    Raises UserError that names the source and what is wrong with it.
    """
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(source))
    if isinstance(source, Image.Image):
        try:
            source.load()
            _check_size(source, "a Pillow image")
        except Exception as error:
            raise UserError(f"image: {error}. Give a picture that can be read.") from error
        return source
    return _from_array(source)


def _check_size(image, name):
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise ImageError(f"{name}: {width} x {height} pixels, expected 1 to {MAX_PIXELS:,}")


def _open_path(path):
    try:
        return decode(path.read_bytes(), str(path))
    except ImageError as error:
        raise UserError(f"image: {error}. Give a picture that can be read.") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"image: cannot read {str(path)!r}: {reason}. Give the path of a picture.") from error


def _from_array(source):
    expected = "Give a path, a Pillow image or a uint8 array [height, width, 3]."
    if not hasattr(source, "dtype") or not hasattr(source, "shape"):
        raise UserError(f"image: found a {type(source).__name__}. {expected}")
    shape = tuple(source.shape)
    if source.dtype != np.uint8 or not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)) or 0 in shape:
        raise UserError(f"image: found an array of {source.dtype} {list(shape)}. {expected}")
    return Image.fromarray(np.ascontiguousarray(source))
