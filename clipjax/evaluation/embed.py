"""The one embedding pass: pictures and texts of a data set as unit rows, kept in a file for the next time."""

import json
import os
import zipfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipjax.errors import UserError
from clipjax.evaluation.datasets import Dataset
from clipjax.images.decode import ImageError, decode
from clipjax.progress import track

if TYPE_CHECKING:
    from clipjax.bundle import Bundle

_VERSION = 1  # of the cache's content: raise it when the same key would mean other numbers
_TEXTS_AT_ONCE = 1024


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
        images, samples, missing = _images(bundle, dataset, batch_size)
        if not len(samples):
            raise UserError(
                f"data: none of the {len(dataset.samples)} pictures in {dataset.path} can be read: {missing[0]}."
            )
        texts = _texts(bundle, dataset, _captions(dataset, samples))
        _check_finite(bundle, dataset, "pictures", images)
        _check_finite(bundle, dataset, "texts", texts)
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


def _captions(dataset: Dataset, samples: np.ndarray) -> list[str]:
    return [caption for place in samples for caption in dataset.samples[place].captions]


def _images(bundle: "Bundle", dataset: Dataset, batch_size: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Unit rows of the readable pictures, their places among the samples, and a line for each that is not readable."""
    rows, samples, missing, batch = [], [], [], []
    pictures = track(_decoded(bundle, dataset), f"embedding {dataset.name}", len(dataset.samples), "pictures")
    for place, pixels in enumerate(pictures):
        if isinstance(pixels, str):
            missing.append(pixels)
            continue
        samples.append(place)
        batch.append(pixels)
        if len(batch) == batch_size:
            rows.append(bundle.encode_pixels(np.stack(batch)))
            batch = []
    if batch:
        rows.append(bundle.encode_pixels(np.stack(batch)))
    images = np.concatenate(rows) if rows else np.zeros((0, 1))
    return np.asarray(images, np.float32), np.array(samples, np.int64), missing


def _decoded(bundle: "Bundle", dataset: Dataset) -> Iterator[np.ndarray | str]:
    """Each sample in order: preprocessed pixels [height, width, 3] float32, or why it cannot be read.

    A few threads work ahead (the decoders let go of Python's lock), by a bounded number of pictures.
    """
    workers = min(8, os.cpu_count() or 1)

    def load(sample):
        try:
            return bundle.preprocess(decode(sample.read(), sample.key))
        except ImageError as error:  # names the sample
            return str(error)
        except OSError as error:
            return f"{sample.key}: {error}"

    with ThreadPoolExecutor(workers) as pool:
        ahead = deque()
        try:
            for sample in dataset.samples:
                ahead.append(pool.submit(load, sample))
                if len(ahead) > 16 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _texts(bundle: "Bundle", dataset: Dataset, captions: list[str]) -> np.ndarray:
    """Unit rows, float32: one a class for classification, one a caption for retrieval."""
    words, places = np.unique(dataset.class_names or captions, return_inverse=True)
    words = words.tolist()
    if dataset.class_names:
        rows = bundle.class_embeddings(words, dataset.templates)
    else:
        pieces = [words[first : first + _TEXTS_AT_ONCE] for first in range(0, len(words), _TEXTS_AT_ONCE)]
        rows = [
            bundle.encode_text(piece)
            for piece in track(pieces, f"embedding {dataset.name}", unit="batches of captions")
        ]
        rows = np.concatenate(rows)
    return np.asarray(rows, np.float32)[places]


def _check_finite(bundle: "Bundle", dataset: Dataset, what: str, rows: np.ndarray) -> None:
    broken = int((~np.isfinite(rows)).any(axis=1).sum())
    if broken:
        raise UserError(
            f"checkpoint: {bundle.name} embeds {broken} of {len(rows)} {what} of {dataset.name} as NaN or infinity. "
            "Its weights are broken: take an earlier checkpoint."
        )


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
    cache.parent.mkdir(parents=True, exist_ok=True)
    about = json.dumps({"key": key, "missing": known["missing"]}).encode()
    temporary = cache.with_name(f".{cache.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        arrays = {name: known[name] for name in ("images", "texts", "samples")}
        np.savez(file, about=np.frombuffer(about, np.uint8), **arrays)
    os.replace(temporary, cache)
