"""`search`: the pictures of a file of embeddings that are nearest to texts or to other pictures."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from clipjax.data.files import local_path, make_folder, replace_text
from clipjax.errors import UserError
from clipjax.evaluation import stored
from clipjax.evaluation.export import loaded, open_pictures
from clipjax.evaluation.metrics import nearest
from clipjax.evaluation.report.found import page
from clipjax.progress import say

if TYPE_CHECKING:
    from clipjax.bundle import Bundle


class Found(NamedTuple):
    """The pictures nearest to one query, best first: their keys, their cosines and their places in the source.

    `query` is the text, or the path of a picture (`by_picture`).
    """

    query: str
    by_picture: bool
    keys: list[str]
    scores: list[float]
    index: list[int]


def search(
    embeddings: str | Path,
    bundle_or_path: "Bundle | str | Path",
    *,
    texts: Sequence[str] = (),
    images: Sequence[str | Path] = (),
    count: int = 20,
    out: str | Path | None = None,
    data: Sequence[str] = (),
    activation: str | None = None,
) -> list[Found]:
    """The `count` pictures nearest to each text and each picture; drawn as a page at `out`, if given.

    `embeddings` is a file of `export`, of the same checkpoint. `data` says where the pictures lie now, if they were
    moved. Raises UserError for embeddings of another checkpoint and where nothing is asked.
    """
    if not texts and not images:
        raise UserError("search: nothing is asked. Give a text or a picture.")
    if count < 1:
        raise UserError(f"search: count={count} should be 1 or more.")
    if out is not None:
        make_folder(local_path(out).parent)
    file = stored.read(embeddings)
    bundle = loaded(bundle_or_path, activation)
    _check_same(file.about, embeddings, bundle)
    queries = [(text, False) for text in texts] + [(os.fspath(image), True) for image in images]
    rows = [bundle.encode_text(list(texts))] if texts else []
    rows += [bundle.encode_image(list(images))] if images else []
    rows = np.concatenate(rows)
    found = []
    for (query, by_picture), row, near in zip(queries, rows, nearest(rows, file.images, k=count), strict=True):
        keys, scores = [file.keys[place] for place in near], file.images[near] @ row
        found.append(Found(query, by_picture, keys, scores.tolist(), file.index[near].tolist()))
    if out is not None:
        replace_text(Path(out), page(found, file.about, _reader(file.about, data)))
    return found


def _check_same(about: dict, path, bundle: "Bundle") -> None:
    if about["fingerprint"] != bundle.fingerprint:
        raise UserError(
            f"embeddings: {path} was made with {about['checkpoint']} (fingerprint {about['fingerprint'][:8]}…), not "
            f"with {bundle.name} ({bundle.fingerprint[:8]}…), so nothing compares. Give that checkpoint or embed again."
        )


def _reader(about: dict, data: Sequence[str]) -> Callable[[int, str], bytes]:
    """read(index, key) -> the bytes of a picture; LookupError where it is not what was embedded."""
    try:
        pictures = open_pictures(data or about["data"], about["image_key"], about["caption_key"])
    except UserError as error:
        say(f"{error} The page names the pictures only. --data says where they lie now.")
        pictures = None

    def read(index: int, key: str) -> bytes:
        record = pictures.source[index] if pictures else None
        if record is None or pictures.key(record.key) != key:
            raise LookupError(key)
        return record.image

    return read
