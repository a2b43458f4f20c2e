"""How fast the data loader feeds: pairs/s with 0 to 4 workers, beside decoding and cropping alone on as many threads.

    python benchmarks/loader.py [--data='D/train/*.tar'] [--size=224] [--batch=256] [--seconds=10]

Without --data it draws photographs-to-be of 500 x 375 pixels (quality 75) into a temporary folder.
"""

import argparse
import io
import os
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from clipjax.config import Config, DataConfig, preset
from clipjax.data.order import epoch_order, position_rng
from clipjax.data.pipeline import batches
from clipjax.data.sources import open_source
from clipjax.images.augment import augment, needed_side
from clipjax.images.decode import decode


def main() -> None:
    """Print one line a worker count: pairs/s, pairs/s of decoding alone, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="a source as data.train takes it")
    parser.add_argument("--size", type=int, default=224, help="pixels of the model's side")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = _config(args.data or _drawn(Path(folder)), args.size, args.batch)
        began = time.perf_counter()
        source = open_source(config.data.train, config.data)
        opened = time.perf_counter() - began
        began = time.perf_counter()
        open_source(config.data.train, config.data)
        print(f"{len(source):,} records opened in {opened:.2f} s, a second time in {time.perf_counter() - began:.2f} s")
        print(f"{os.cpu_count()} cores, {args.size} pixels, batch {args.batch}\n")
        print("workers   first batch s   pairs/s   decode only   ratio")
        for workers in (0, 1, 2, 4):
            first, loaded = _loader(config, workers, args.seconds)
            decoded = _decode_only(config, source, max(workers, 1), args.seconds)
            print(
                f"{workers:>7}   {first:>13.2f}   {loaded:>7.0f}   {decoded:>11.0f}   {loaded / decoded:>5.2f}",
                flush=True,
            )


def _config(data: str, size: int, batch: int) -> Config:
    model = preset("ViT-B/32")
    model = replace(model, image=replace(model.image, image_size=size))
    return Config(batch_size=batch, total_steps=1, model=model, data=DataConfig(train=(data,)))


def _loader(config: Config, workers: int, seconds: float) -> tuple[float, float]:
    """Seconds to the first batch, and pairs/s after it."""
    stream = batches(replace(config, data=replace(config.data, workers=workers)))
    began = time.perf_counter()
    next(stream)
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(stream)
        steps += 1
    rate = steps * config.batch_size / (time.perf_counter() - start)
    stream.close()
    return start - began, rate


def _decode_only(config: Config, source, threads: int, seconds: float) -> float:
    """Pictures/s of decode and augment on bytes in memory: what no loader on these threads can beat."""
    size = config.model.image.image_size
    order = epoch_order(config.seed, 0, len(source))[:1000]
    contents = [source[int(index)].image for index in order]

    def view(position):
        image = decode(contents[position % len(contents)], "picture", at_least=needed_side(size, config.data))
        augment(image, size, position_rng(0, position), config.data)

    with ThreadPoolExecutor(threads) as pool:
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            list(pool.map(view, range(done, done + 256)))
            done += 256
        return done / (time.perf_counter() - start)


def _drawn(folder: Path, count: int = 512) -> str:
    """A shard of pictures with something of a photograph's detail: smooth noise on three scales."""
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "drawn.tar", "w") as tar:
        for number in range(count):
            scales = [Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)) for side in (4, 32, 160)]
            layers = [np.asarray(image.resize((500, 375), Image.Resampling.BICUBIC), np.float32) for image in scales]
            picture = Image.fromarray((0.6 * layers[0] + 0.3 * layers[1] + 0.1 * layers[2]).astype(np.uint8))
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=75)
            for extension, content in {"jpg": buffer.getvalue(), "txt": b"a picture of smooth noise"}.items():
                member = tarfile.TarInfo(f"{number:06}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return str(folder / "drawn.tar")


if __name__ == "__main__":
    main()
