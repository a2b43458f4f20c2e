"""The one embedding pass: pictures and texts of a data set as unit rows, kept in a file for the next time."""

import json
import os
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipjax.data.files import make_folder, replacing
from clipjax.errors import UserError
from clipjax.evaluation.datasets import Dataset, Sample
from clipjax.images.decode import ImageError, decode
from clipjax.progress import Meter, track

if TYPE_CHECKING:
    from clipjax.bundle import Bundle

_TEXTS_AT_ONCE = 1024
_VERSION = 1  # of the cache's content: raise it when the same key would mean other numbers


@dataclass(frozen=True)
class Embeddings:
    """Rows of one data set under one checkpoint.

    `images` [N, E] and `texts` [T, E] are float32 unit rows. N are the readable pictures: `samples` [N] their places
    in `Dataset.samples`. Classification: a text row a class, `labels` [N] int32. Retrieval: a text row a caption,
    `captions` their words, `owner` [T] int32 the image row of each. `key` tells what made them; `missing` names the
    pictures that could not be read.
    """

    key: str
    images: np.ndarray
    texts: np.ndarray
    samples: np.ndarray
    labels: np.ndarray
    owner: np.ndarray
    captions: list[str]
    keys: list[str]
    missing: list[str]


def embed(bundle: "Bundle", dataset: Dataset, *, batch_size: int = 64, cache: Path | None = None) -> Embeddings:
    """Embed a data set, `batch_size` pictures at a time, or take its rows from the file `cache` if they fit.

    Equal captions (and equal class names) are embedded once, so that their scores are equal to the last bit.
    Raises UserError if no picture can be read, or if the checkpoint gives numbers that are not finite.
    """
    key = f"{_VERSION}:{bundle.fingerprint}:{dataset.fingerprint}"
    known = _load(cache, key)
    if known is None:
        _check_hosts(bundle, dataset)
        images, samples, missing = _images(bundle, dataset, batch_size)
        if not len(samples):
            raise UserError(
                f"data: none of the {len(dataset.samples)} pictures in {dataset.path} can be read: {missing[0]}."
            )
        texts = _texts(bundle, dataset, _captions(dataset, samples))
        check_finite(bundle, f"pictures of {dataset.name}", images)
        check_finite(bundle, f"texts of {dataset.name}", texts)
        known = {"images": images, "texts": texts, "samples": samples, "missing": missing}
        _save(cache, key, known)
    rows = [dataset.samples[place] for place in known["samples"]]
    return Embeddings(
        key=key,
        labels=np.array([row.label for row in rows], np.int32),
        owner=np.repeat(np.arange(len(rows), dtype=np.int32), [len(row.captions) for row in rows]),
        captions=_captions(dataset, known["samples"]),
        keys=[row.key for row in rows],
        **known,
    )


def _check_hosts(bundle: "Bundle", dataset: Dataset) -> None:
    """Raise UserError, on all hosts that encode together, where they do not see the same data set."""
    words = np.frombuffer(bytes.fromhex(dataset.samples_hash + dataset.prompts_hash), np.int32) >> 1  # -words fit, too
    most, least = np.split(bundle.greatest(np.concatenate([words, -words])), 2)
    if (most != -least).any():
        raise UserError(
            f"data: {dataset.path} does not hold the same on every host. Copy it to all, or to a disk that they share."
        )


def ahead(load: Callable, items: Iterable) -> Iterator:
    """`load(item)` of each item, in order; a few threads work ahead by a bounded number of items.

    For loads that decode pictures: the decoders let go of Python's lock.
    """
    workers = min(32, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        waiting = deque()
        try:
            for item in items:
                waiting.append(pool.submit(load, item))
                if len(waiting) > 16 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def pixels_of(bundle: "Bundle", content: bytes, key: str) -> np.ndarray | str:
    """An encoded picture as the model takes it, float32 [height, width, 3], or in a line why it cannot be read."""
    try:
        return bundle.preprocess(decode(content, key))
    except ImageError as error:  # names the key
        return str(error)
    except (OSError, ValueError) as error:  # colours that Pillow decodes but cannot turn into RGB
        return f"{key}: {error}"


def caption_rows(bundle: "Bundle", captions: Sequence[str], done: Callable[[int], None]) -> np.ndarray:
    """Unit rows [n, E] float32 of n captions, equal ones embedded once; `done` is told each count that is finished."""
    words = sorted(set(captions), key=lambda text: (len(text), text))  # near lengths together: less padding
    places = {text: row for row, text in enumerate(words)}
    rows = []
    for first in range(0, len(words), _TEXTS_AT_ONCE):
        piece = words[first : first + _TEXTS_AT_ONCE]
        rows.append(bundle.encode_text(piece))
        done(len(piece))
    return np.concatenate(rows).astype(np.float32)[[places[text] for text in captions]]


def check_finite(bundle: "Bundle", what: str, rows: np.ndarray) -> None:
    """Raise UserError, naming the checkpoint and `what` the rows are of, where one holds NaN or infinity."""
    broken = int((~np.isfinite(rows)).any(axis=1).sum())
    if broken:
        raise UserError(
            f"checkpoint: {bundle.name} embeds {broken} of {len(rows)} {what} as NaN or infinity. "
            "Its weights are broken: take an earlier checkpoint."
        )


def _captions(dataset: Dataset, samples: np.ndarray) -> list[str]:
    return [caption for place in samples for caption in dataset.samples[place].captions]


def _images(bundle: "Bundle", dataset: Dataset, batch_size: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Unit rows of the readable pictures, their places among the samples, and a line for each that is not readable."""
    rows, samples, missing, batch, count = [], [], [], [], len(dataset.samples)
    pictures = ahead(partial(_pixels, bundle), dataset.samples)
    for done, pixels in enumerate(track(pictures, f"embedding {dataset.name}", count, "pictures"), 1):
        batch.append(pixels)
        if len(batch) < batch_size and done < count:
            continue
        bad = bundle.greatest([isinstance(pixels, str) for pixels in batch])  # on one host is bad on all
        readable, first = np.flatnonzero(bad == 0), done - len(batch)
        if len(readable):
            rows.append(bundle.encode_pixels(np.stack([batch[row] for row in readable])))
        samples += (first + readable).tolist()
        for row in np.flatnonzero(bad):
            key = dataset.samples[first + row].key
            missing.append(batch[row] if isinstance(batch[row], str) else f"{key}: another host cannot read it")
        batch = []
    images = np.concatenate(rows) if rows else np.zeros((0, 1))
    return np.asarray(images, np.float32), np.array(samples, np.int64), missing


def _pixels(bundle: "Bundle", sample: Sample) -> np.ndarray | str:
    try:
        return pixels_of(bundle, sample.read(), sample.key)
    except OSError as error:
        return f"{sample.key}: {error}"


def _texts(bundle: "Bundle", dataset: Dataset, captions: list[str]) -> np.ndarray:
    """Unit rows, float32: one a class for classification, one a caption for retrieval."""
    if dataset.class_names:
        words, places = np.unique(dataset.class_names, return_inverse=True)
        return np.asarray(bundle.class_embeddings(words.tolist(), dataset.templates), np.float32)[places]
    meter = Meter(f"embedding {dataset.name}", len(set(captions)), "captions")
    rows = caption_rows(bundle, captions, meter.advance)
    meter.close()
    return rows


def _load(cache: Path | None, key: str) -> dict | None:
    """The file's arrays if it was made by the same checkpoint from the same files."""
    if cache is None or not cache.is_file():
        return None
    try:
        with np.load(cache, allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes())
            arrays = {name: stored[name] for name in ("images", "texts", "samples")}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return arrays | {"missing": about["missing"]} if about.get("key") == key else None


def _save(cache: Path | None, key: str, known: dict) -> None:
    """Write the file whole or not at all."""
    if cache is None:
        return
    make_folder(cache.parent)
    about = json.dumps({"key": key, "missing": known["missing"]}).encode()
    arrays = {name: known[name] for name in ("images", "texts", "samples")}
    with replacing(cache) as temporary, open(temporary, "wb") as file:
        np.savez(file, about=np.frombuffer(about, np.uint8), **arrays)
