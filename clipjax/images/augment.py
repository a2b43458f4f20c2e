"""Training crops, each a pure function of a picture and a random generator."""

import math

import numpy as np
from PIL import Image

from clipjax.images.preprocess import INTERPOLATIONS, as_rgb, resize_and_crop, resized_size, resized_square

_RATIOS = (3 / 4, 4 / 3)  # width to height of a random_resized_crop: torchvision's and open_clip's default


def augment(
    image: Image.Image,
    size: int,
    rng: np.random.Generator,
    config,
    interpolation: str = "bicubic",
    resize_mode: str = "shortest",
) -> np.ndarray:
    """One training view, uint8 [size, size, 3], as `config` (a DataConfig) says.

    `random_crop`: the short side becomes `size`, then a random square (paper, section 2.3). `random_resized_crop`: a
    random part of the area, resized (torchvision's RandomResizedCrop). `center_crop`: the evaluation's pixels, squashed
    where `resize_mode` says so; the other two keep the shapes of things.
    """
    if config.augmentation == "center_crop":
        pixels = resize_and_crop(image, size, interpolation, resize_mode)
    else:
        pixels = _CROPS[config.augmentation](image, size, rng, config, interpolation)
    if config.horizontal_flip and rng.random() < 0.5:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    return pixels


def needed_side(size: int, config) -> int:
    """The short side, in pixels, below which `augment` would enlarge: what to give decode as `at_least`.

    0, every pixel, for `center_crop`, which promises the evaluation's pixels.
    """
    least = {"random_crop": 1.0, "random_resized_crop": config.crop_scale[0] * _RATIOS[0]}
    if config.augmentation not in least:
        return 0
    return math.ceil(size / math.sqrt(least[config.augmentation]))


def _random_crop(image, size, rng, config, interpolation):
    width, height = resized_size(image.size, size)
    left, top = int(rng.integers(width - size + 1)), int(rng.integers(height - size + 1))
    return resized_square(image, size, left, top, interpolation)


def _random_resized_crop(image, size, rng, config, interpolation):
    left, top, width, height = _random_area(*image.size, rng, config.crop_scale)
    part = image.crop((left, top, left + width, top + height))
    return as_rgb(part.resize((size, size), INTERPOLATIONS[interpolation]))


def _random_area(width, height, rng, scale):
    """left, top, width, height of a part of the picture; ten tries, then the middle in the nearest ratio allowed."""
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(*map(math.log, _RATIOS)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    low, high = _RATIOS
    w, h = min(width, max(1, round(height * high))), min(height, max(1, round(width / low)))
    return (width - w) // 2, (height - h) // 2, w, h


_CROPS = {"random_crop": _random_crop, "random_resized_crop": _random_resized_crop}
