"""Webdataset shards with random access: key.jpg, key.txt and key.json of one key are a sample; nothing is converted."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from clipjax.config import DataConfig
from clipjax.data.files import is_address
from clipjax.data.sources.record import IMAGE_EXTENSIONS, Dropped, Record, RecordError, captions_of, lines_of
from clipjax.data.sources.shard_cache import CachedShard, cached
from clipjax.data.sources.tar_index import Index, remote_tar_index, tar_index
from clipjax.progress import track

_OPENERS = 8  # threads: one shard's headers wait for the disk while another's are read
_LONGEST_KEY = 200  # bytes kept of a key; it serves to name a sample
_NOWHERE = (-1, 0)


def read_members(path: str | Path) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    """Samples of a tar in its order: (key, {extension: (offset, size in bytes)}), extensions in lower case.

    The key is the name up to the first dot of its last part; hidden files and links are left out. A second file of the
    same key and extension starts a new sample. Raises UserError, naming the file, for what is no tar.
    """
    return _samples(tar_index(path))


def open_tars(paths: Sequence[str], data: DataConfig, captions: bool = True) -> list["TarSource"]:
    """One source a shard, in order, local or at an address. Raises UserError for a file that is no tar."""
    remote = cached([path for path in paths if is_address(path)], data)
    pool = ThreadPoolExecutor(min(_OPENERS, len(paths)))
    try:
        shards = pool.map(lambda path: TarSource(path, data, captions, remote.get(path)), paths)
        return list(track(shards, "indexing shards", total=len(paths), unit="shards"))
    finally:
        pool.shutdown(cancel_futures=True)


class TarSource:
    """The pairs of one shard. Captions: the list `captions` of a sample's .json if there, else each line of its .txt.

    Without `captions` a picture alone is a sample. data.caption_key names another extension or another key of the
    .json, data.image_key the extension of the picture. `remote` is the shard where `path` is an address.
    """

    def __init__(self, path: str, data: DataConfig, captions: bool = True, remote: CachedShard | None = None):
        self.path, self.remote, self.dropped = str(path), remote, Dropped()
        self.files = [self.path]
        self._caption_key = data.caption_key or "captions"
        keys, places = [], []
        for key, members in read_members(path) if remote is None else _samples(remote_tar_index(remote)):
            place = _places(members, data)
            if lacking := _lacking(place, captions):
                self.dropped.add(f"{self.path}/{key}: no {lacking} beside .{', .'.join(members)}")
            else:
                keys.append(key.encode("utf-8", "surrogateescape")[:_LONGEST_KEY])
                places.append(place)
        self._keys = np.array(keys, dtype="S")
        self._places = np.array(places, np.int64).reshape(-1, 3, 2)  # picture, text, json: offset and size

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Record:
        key = f"{self.path}/{self._keys[index].decode('utf-8', 'replace')}"
        # opened at each read: that costs microseconds, and no limit on open files is met with 10,000 shards
        try:
            descriptor = os.open(self.path, os.O_RDONLY) if self.remote is None else self.remote.open()
            try:
                image, text, meta = (_read(descriptor, *map(int, place), key) for place in self._places[index])
            finally:
                os.close(descriptor)
        except OSError as error:
            raise RecordError(f"{key}: {error}") from error
        return Record(key, image, self._captions(meta) or lines_of(text))

    def _captions(self, meta: bytes) -> tuple[str, ...]:
        try:
            fields = json.loads(meta) if meta else {}
        except (ValueError, RecursionError):
            return ()
        return captions_of(fields.get(self._caption_key)) if isinstance(fields, dict) else ()


def _samples(index: Index) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    samples, newest = [], {}
    for name, (offset, size) in zip(index.names, index.spans.tolist(), strict=True):
        folder, _, base = name.removeprefix("./").rpartition("/")
        stem, dot, extension = base.partition(".")
        if not stem or not dot:
            continue
        key, extension = f"{folder}/{stem}" if folder else stem, extension.lower()
        if extension in newest.get(key, {extension: ()}):
            newest[key] = {}
            samples.append((key, newest[key]))
        newest[key][extension] = (offset, size)
    return samples


def _places(members: dict, data: DataConfig) -> tuple:
    """Picture, text and json of a sample, each (offset, size), (-1, 0) where it has none that counts."""
    extensions = (data.image_key.lower(),) if data.image_key else IMAGE_EXTENSIONS
    image = next((members[extension] for extension in extensions if extension in members), _NOWHERE)
    text, meta = members.get("txt", _NOWHERE), members.get("json", _NOWHERE)
    if data.caption_key:
        named = members.get(data.caption_key.lower(), _NOWHERE)
        text, meta = named, meta if named is _NOWHERE else _NOWHERE
    return image, text, meta


def _lacking(place: tuple, captions: bool) -> str:
    image, text, meta = place
    if image is _NOWHERE:
        return "picture"
    return "caption" if captions and text is meta is _NOWHERE else ""


def _read(descriptor: int, offset: int, size: int, key: str) -> bytes:
    content = os.pread(descriptor, size, offset) if offset >= 0 else b""
    if len(content) < size:
        raise RecordError(f"{key}: {len(content):,} of {size:,} bytes are there; the file was changed while in use")
    return content
