"""The released preprocessing, bit for bit: resize, centre crop, RGB, then normalise."""

import numpy as np
from PIL import Image

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

_LARGEST_RESIZED = 1 << 24  # pixels; beyond, only what the crop keeps is computed


def preprocess(image: Image.Image, config) -> np.ndarray:
    """One picture as the model takes it: float32 [image_size, image_size, 3]. `config` is an ImageConfig."""
    pixels = resize_and_crop(image, config.image_size, config.interpolation, config.resize_mode)
    return normalize(pixels, config.mean, config.std)


def resize_and_crop(
    image: Image.Image, size: int, interpolation: str = "bicubic", resize_mode: str = "shortest"
) -> np.ndarray:
    """The central square of a picture whose short side was resized to `size`: uint8 [size, size, 3].

    With resize_mode "squash" the whole picture, both of its sides resized to `size` (open_clip's DFN models).

    openai/CLIP, clip.py: `_transform`. RGB comes last, so palettes are resized by nearest pixel and alpha weighs the
    resize before it is dropped; converting first gives other pixels. EXIF orientation is not applied.
    """
    if resize_mode == "squash":
        return as_rgb(image.resize((size, size), INTERPOLATIONS[interpolation]))
    width, height = resized_size(image.size, size)
    left, top = round((width - size) / 2), round((height - size) / 2)  # half to even, as torchvision
    if width * height > _LARGEST_RESIZED:  # a strip such as 20,000 x 1 would fill gigabytes
        return resized_square(image, size, left, top, interpolation)
    if image.size != (width, height):
        image = image.resize((width, height), INTERPOLATIONS[interpolation])
    return as_rgb(image.crop((left, top, left + size, top + size)))


def normalize(pixels, mean, std):
    """(pixels / 255 - mean) / std in float32, of uint8 [..., 3] in NumPy or, inside jit too, in JAX.

    In NumPy bit-equal to the release, which divides: a product with 1/255 rounds otherwise.
    """
    if pixels.dtype != np.uint8:
        raise TypeError(f"normalize: pixels are {pixels.dtype}, expected uint8")
    channels = (1,) * (pixels.ndim - 1) + (3,)
    mean, std = (np.asarray(value, np.float32).reshape(channels) for value in (mean, std))
    return (pixels.astype(np.float32) / np.float32(255) - mean) / std


def resized_size(size: tuple[int, int], short: int) -> tuple[int, int]:
    """Width and height after the short side of `size` became `short`; the long side is cut to whole pixels."""
    width, height = size
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short


def resized_square(image: Image.Image, size: int, left: int, top: int, interpolation: str) -> np.ndarray:
    """The square at (left, top) of the picture that `resized_size` describes: uint8 [size, size, 3].

    Computes no other pixel; within rounding the same as resizing all of it and cropping.
    """
    width, height = resized_size(image.size, size)
    if image.size == (width, height):
        return as_rgb(image.crop((left, top, left + size, top + size)))
    across, down = image.width / width, image.height / height  # stored pixels to a resized one
    right, bottom = min((left + size) * across, image.width), min((top + size) * down, image.height)
    box = (left * across, top * down, right, bottom)
    return as_rgb(image.resize((size, size), INTERPOLATIONS[interpolation], box=box))


def as_rgb(image) -> np.ndarray:
    """uint8 [height, width, 3] of a Pillow image that the caller owns."""
    image.info.pop("transparency", None)  # changes no pixel of RGB, only draws a warning
    return np.array(image.convert("RGB"))
