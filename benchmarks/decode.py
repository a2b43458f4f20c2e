"""JPEG to training crop and to evaluation input, pictures a second of one core: `python benchmarks/decode.py`."""

import argparse
import io
import time

import numpy as np
from PIL import Image

from clipjax.config import DataConfig
from clipjax.images.augment import augment, needed_side
from clipjax.images.decode import decode
from clipjax.images.preprocess import resize_and_crop


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each line is measured")
    args = parser.parse_args()
    for width, height in [(500, 375), (2000, 1500)]:
        data = photograph(width, height)
        for size in (64, 224):
            for name, way in ways(data, size).items():
                print(
                    f"{width} x {height} to {size}, {name}: {rate(way, args.seconds):,.0f} a second of one core's time"
                )


def ways(data, size):
    """{name: function without arguments} of what is compared."""
    train, rng = DataConfig(), np.random.default_rng(0)
    at_least = needed_side(size, train)
    return {
        "evaluation": lambda: resize_and_crop(decode(data, "jpeg"), size),
        "training, every pixel": lambda: augment(decode(data, "jpeg"), size, rng, train),
        "training": lambda: augment(decode(data, "jpeg", at_least=at_least), size, rng, train),
    }


def rate(way, seconds):
    """Calls a second of CPU time."""
    way()
    start, calls = time.process_time(), 0
    while time.process_time() - start < seconds:
        way()
        calls += 1
    return calls / (time.process_time() - start)


def photograph(width, height):
    """JPEG bytes, quality 75, of smooth shapes with the noise of a camera."""
    rng = np.random.default_rng(0)
    blocks = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    pixels = np.asarray(blocks.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    pixels += rng.normal(0, 8, pixels.shape)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=75)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
