"""Random access to pairs in whatever form they lie: tar shards, ArrayRecord, a TFDS data set, a table, pictures."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from clipjax.config import DataConfig
from clipjax.data.order import epoch_order, shard_order
from clipjax.data.sources.patterns import expand
from clipjax.data.sources.record import Record, RecordError
from clipjax.errors import UserError
from clipjax.progress import say

__all__ = ["Record", "RecordError", "Source", "open_source"]


class Source:
    """Several sources one after the other: `len` and `source[i] -> Record`, which raises RecordError for a bad one.

    `dropped` counts the samples without a picture or a caption, which have no place in it; `dropped_names` names some.
    `files` are the paths of what is read, so that a change can be told by their sizes and times (none for TFDS).
    """

    def __init__(self, parts: Sequence, shuffle_shards: int = 0):
        self.parts, self._together = list(parts), shuffle_shards
        self.dropped = sum(part.dropped.count for part in self.parts)
        self.dropped_names = [name for part in self.parts for name in part.dropped.names][:5]
        self._ends = np.cumsum([len(part) for part in self.parts], dtype=np.int64)

    @property
    def files(self) -> list[str]:
        return [path for part in self.parts for path in part.files]

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The order in which an epoch visits the records, [records] uint32: all mixed, or some parts at a time."""
        if 0 < self._together < len(self.parts):
            return shard_order(seed, epoch, tuple(len(part) for part in self.parts), self._together)
        return epoch_order(seed, epoch, len(self))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[part][int(index - self._ends[part]) + len(self.parts[part])]


def open_source(specs: Sequence[str], data: DataConfig, *, captions: bool = True) -> Source:
    """Everything that `specs` name, as one source; `data` gives caption_key, image_key, max_unreadable, shuffle_shards
    and cache_gb.

    Without `captions`, samples need a picture only, and plain pictures and folders of them are a source too.
    Raises UserError for what is absent or of no known form, for a source without one pair, and where the share of
    samples without a picture or a caption passes max_unreadable.
    """
    parts = []
    for form, files in groupby(expand(specs, pictures=not captions), key=lambda file: file[0]):
        parts += _open(form, [path for _, path in files], data, captions)
    source = Source(parts, data.shuffle_shards)
    _judge(source, ", ".join(specs), data.max_unreadable, "picture or caption" if captions else "picture")
    return source


def _open(form: str, paths: list[str], data: DataConfig, captions: bool) -> list:
    # imported here, since each brings the libraries of its form
    if form == "tar":
        from clipjax.data.sources.tar import open_tars

        return open_tars(paths, data, captions)
    if form == "array_record":
        from clipjax.data.sources.array_record import open_array_record

        return [open_array_record(path, data, captions) for path in paths]
    if form == "tfds":
        from clipjax.data.sources.tfds import open_tfds

        return [open_tfds(path, data, captions) for path in paths]
    if form == "pictures":
        from clipjax.data.sources.pictures import PictureSource

        return [PictureSource(paths)]
    from clipjax.data.sources.table import TableSource

    return [TableSource(path, data, captions) for path in paths]


def _judge(source: Source, specs: str, limit: float, needed: str) -> None:
    names = f"first: {'; '.join(source.dropped_names)}" if source.dropped else "nothing in it"
    if not len(source):
        raise UserError(
            f"data.train: {specs!r} holds no sample with {needed.replace('or', 'and')} ({source.dropped:,} without, "
            f"{names}). Expected key.jpg with key.txt or key.json in a tar, or columns of paths and captions."
        )
    share = source.dropped / (source.dropped + len(source))
    if share > limit:
        raise UserError(
            f"data.train: {source.dropped:,} samples of {specs!r} ({share:.1%}) lack {needed}, more than "
            f"data.max_unreadable={limit:g} allows ({names}). Mend the data, set data.caption_key, or raise the limit."
        )
    if source.dropped:
        say(f"data: {source.dropped:,} samples without {needed} are left out ({names})")
