"""JPEG to training crop and to evaluation input: pictures a second of one core, and what the scaled decode changes.

`python benchmarks/decode.py` on made-up photographs, `--data='D/test/*.tar'` on real ones. The distance is taken at the
model's input, between the same square decoded at full size and scaled, in grey levels of 255. Where simplejpeg is
installed its decoder is measured too.
"""

import argparse
import io
import itertools
import time

import numpy as np
from PIL import Image

from clipjax.config import DataConfig
from clipjax.images.augment import augment, needed_side
from clipjax.images.decode import decode
from clipjax.images.preprocess import resize_and_crop

TRAIN = DataConfig()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="tars, a table or a folder of JPEG photographs")
    parser.add_argument("--pictures", type=int, default=200, help="how many of them (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each line is measured")
    args = parser.parse_args()
    for name, contents in sets(args.data, args.pictures).items():
        for size in (64, 96, 224):
            print(f"{name} to {size}: {distance(contents, size)}")
            for way, function in ways(size).items():
                print(f"  {way:<28} {rate(function, contents, args.seconds):8,.0f} a second of one core's time")


def sets(data, count):
    """{name: JPEGs}."""
    if not data:
        return {f"{width} x {height}": [photograph(width, height)] for width, height in [(500, 375), (2000, 1500)]}
    from clipjax.evaluation.export import open_pictures

    source = open_pictures(data).source
    places = np.linspace(0, len(source) - 1, min(count, len(source))).astype(int).tolist()
    return {f"{len(places)} photographs": [source[place].image for place in places]}


def ways(size):
    """{name: function of a JPEG} of what is compared."""
    rng, at_least = np.random.default_rng(0), needed_side(size, TRAIN)
    found = {
        "evaluation": lambda data: resize_and_crop(decode(data, "jpeg"), size),
        "training, every pixel": lambda data: augment(decode(data, "jpeg"), size, rng, TRAIN),
        "training": lambda data: augment(decode(data, "jpeg", at_least=at_least), size, rng, TRAIN),
        "decoding alone, every pixel": lambda data: decode(data, "jpeg"),
        "decoding alone": lambda data: decode(data, "jpeg", at_least=at_least),
    }
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return found

    def turbo(data):
        return decode_jpeg(data, min_height=at_least, min_width=at_least, min_factor=1)

    found["training, simplejpeg"] = lambda data: augment(Image.fromarray(turbo(data)), size, rng, TRAIN)
    found["decoding alone, simplejpeg"] = turbo
    return found


def distance(contents, size):
    """What scaling changes: mean and greatest difference of the model's input, and of how many pictures."""
    differences, scaled = [], 0
    for data in contents:
        exact, fast = decode(data, "jpeg"), decode(data, "jpeg", at_least=needed_side(size, TRAIN))
        scaled += exact.size != fast.size
        differences.append(abs(resize_and_crop(exact, size).astype(int) - resize_and_crop(fast, size)))
    differences = np.stack(differences)
    return (
        f"{scaled} of {len(contents)} scaled; grey levels changed by {differences.mean():.2f} on average, "
        f"{np.percentile(differences, 99):.0f} at the 99th percentile, {differences.max()} at most"
    )


def rate(way, contents, seconds):
    """Pictures a second of CPU time."""
    pictures = itertools.cycle(contents)
    way(next(pictures))
    start, calls = time.process_time(), 0
    while time.process_time() - start < seconds:
        way(next(pictures))
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
