"""Pictures of every kind that the world sends, made in memory."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def picture():
    """picture(mode, width, height): a Pillow image of smooth colour with noise, the same at each call."""
    return _picture


@pytest.fixture(scope="session")
def encoded():
    """encoded(image, format, **options): its bytes."""
    return _encoded


@pytest.fixture(scope="session")
def png_header():
    """png_header(width, height): a tiny file that declares so many pixels and has none."""
    return _png_header


def _picture(mode="RGB", width=60, height=40):
    rng = np.random.default_rng(width * 1000 + height)
    ramp = np.linspace(0, 200, width)[None, :, None] + np.linspace(0, 50, height)[:, None, None]  # [height, width, 1]
    pixels = (ramp * [1.0, 0.8, 0.6] + rng.integers(0, 30, (height, width, 3))).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    alpha = Image.fromarray(rng.integers(0, 256, (height, width)).astype(np.uint8))
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(alpha)
        return image
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    if mode == "P with alpha":
        image = image.convert("P")
        image.info["transparency"] = bytes(range(256))
        return image
    return image.convert(mode)


def _encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _png_header(width, height):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )
