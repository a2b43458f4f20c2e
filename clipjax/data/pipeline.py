"""The stream of batches: the global batch, in order, is a pure function of (seed, step), on any hosts and workers.

Row r of step s has the position p = s * batch_size + r in the run. It shows record `source.order(seed, p // n)[p % n]`
of the n records, with the caption and the crop that `position_rng(seed, p)` draws, in the sizes of the stage that the
step lies in. A record that cannot be used is replaced by the next usable one in the order of its epoch.
"""

import logging
import sys
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import grain
import numpy as np

from clipjax.config import Config, ImageConfig
from clipjax.data.batch import Batch
from clipjax.data.order import position_rng
from clipjax.data.sources import RecordError, Source, open_source
from clipjax.errors import UserError
from clipjax.images.augment import augment, needed_side
from clipjax.images.decode import ImageError, decode
from clipjax.text import tokenize

_CHUNK_ROWS = 32  # rows that a worker makes at a time: enough to make a thread's overhead small, few enough to share
_JUDGED_FROM = 100  # distinct records seen before their share of bad ones says something
_GIVE_UP = 1000  # bad records in a row; in shuffled order that is no bad luck
_NAMED = 20  # bad records that the log names

_log = logging.getLogger(__name__)


def batches(config: Config, *, start_step: int = 0, rows: slice | np.ndarray | None = None) -> "Batches":
    """The batches of steps start_step, start_step + 1, … without end; `rows` are this host's positions in each.

    Raises UserError for sources that cannot be used, here or, for what shows only on reading, from `next`.
    """
    source = open_source(config.data.train, config.data)
    return Batches(config, source, start_step, np.arange(config.batch_size)[slice(None) if rows is None else rows])


class Batches(Iterator[Batch]):
    """An iterator of NumPy Batches: images [rows, size, size, 3] uint8 and tokens [rows, L] int32 of this host.

    Picture size and context length L are those of each step's stage.
    """

    def __init__(self, config: Config, source: Source, start_step: int, rows: np.ndarray):
        self._config, self._rows, self._step = config, rows, start_step
        self._chunks_a_step = -(-len(rows) // _CHUNK_ROWS)
        self._counts = _Counts(len(source), config.data)
        # One batch ahead and what the workers hold: memory stays bounded whatever the source or the speed of the step.
        workers = config.data.workers
        ahead = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=self._chunks_a_step + 2 * workers)
        chunks = grain.MapDataset.range(start_step * self._chunks_a_step, sys.maxsize)
        self._chunks = iter(chunks.map(_Loader(config, source, rows)).to_iter_dataset(ahead))

    def __next__(self) -> Batch:
        model = self._config.at(self._step).model
        size, length = model.image.image_size, model.text.context_length
        images = np.empty((len(self._rows), size, size, 3), np.uint8)  # a new one each time: JAX may keep it
        tokens = np.empty((len(self._rows), length), np.int32)
        keys = np.empty(len(self._rows), np.int32) if self._config.loss.mask_duplicates else None
        for first in range(0, len(self._rows), _CHUNK_ROWS):
            chunk = next(self._chunks)
            images[first : first + _CHUNK_ROWS], tokens[first : first + _CHUNK_ROWS] = chunk.images, chunk.tokens
            if keys is not None:
                keys[first : first + _CHUNK_ROWS] = chunk.image_keys
            self._counts.add(chunk)
        self._counts.judge()
        self._step += 1
        return Batch(images, tokens, keys)

    def report(self) -> dict:
        """Distinct records that this host has used or tried since it started, and the epochs behind the whole run."""
        epochs = self._step * self._config.batch_size / self._counts.records
        return {"records": self._counts.records, "epochs": round(epochs, 3), **self._counts.so_far()}

    def close(self) -> None:
        """Stop the workers; nothing can be read after."""
        self._chunks.close()


class _Bad(NamedTuple):
    index: int
    reason: str
    no_caption: bool


class _Chunk(NamedTuple):
    images: np.ndarray  # [rows, size, size, 3] uint8
    tokens: np.ndarray  # [rows, L] int32
    image_keys: np.ndarray | None  # [rows] int32
    used: list[int]  # record of each row
    bad: list[_Bad]


class _Loader:
    """Makes the chunk of a number: `chunks a step` of them make up the rows of a step."""

    def __init__(self, config: Config, source: Source, rows: np.ndarray):
        self.config, self.source, self.rows = config, source, rows

    def __call__(self, number: int) -> _Chunk:
        step, part = divmod(number, -(-len(self.rows) // _CHUNK_ROWS))
        rows = self.rows[part * _CHUNK_ROWS : (part + 1) * _CHUNK_ROWS]
        model = self.config.at(step).model
        images = np.empty((len(rows), model.image.image_size, model.image.image_size, 3), np.uint8)
        keys = np.empty(len(rows), np.uint32) if self.config.loss.mask_duplicates else None
        captions, used, bad = [], [], []
        for place, row in enumerate(rows.tolist()):
            position = step * self.config.batch_size + row
            index, content, images[place], caption = self.pair(position, model.image, bad)
            if keys is not None:
                keys[place] = zlib.crc32(content)
            captions.append(caption)
            used.append(index)
        keys = None if keys is None else keys.view(np.int32)
        return _Chunk(images, tokenize(captions, model.text.context_length), keys, used, bad)

    def pair(self, position: int, shown: ImageConfig, bad: list[_Bad]) -> tuple[int, bytes, np.ndarray, str]:
        """Record, file, pixels [size, size, 3] uint8 and caption at a position; `bad` gets what was passed over."""
        records = len(self.source)
        epoch, place = divmod(position, records)
        order = self.source.order(self.config.seed, epoch)
        tries = records if self.config.data.max_unreadable >= 1 else min(records, _GIVE_UP)
        for ahead in range(tries):
            index = int(order[(place + ahead) % records])
            try:
                return index, *self.view(index, shown, position_rng(self.config.seed, position))
            except (RecordError, ImageError) as error:
                bad.append(_Bad(index, str(error), isinstance(error, _NoCaption)))
        raise UserError(
            f"data.train: {tries:,} records one after the other cannot be used; the last: {bad[-1].reason}. "
            "Look at the data with `clipjax inspect`."
        )

    def view(self, index: int, shown: ImageConfig, rng: np.random.Generator) -> tuple[bytes, np.ndarray, str]:
        key, content, captions = self.source[index]
        if not captions:
            raise _NoCaption(f"{key}: no caption")
        caption = captions[int(rng.integers(len(captions)))]
        size, data = shown.image_size, self.config.data
        image = decode(content, key, at_least=needed_side(size, data))
        try:
            pixels = augment(image, size, rng, data, shown.interpolation, shown.resize_mode)
            return content, pixels, caption
        except (ValueError, OSError) as error:  # colours that Pillow decodes but cannot turn into RGB
            raise ImageError(f"{key}: {error}") from error


class _NoCaption(RecordError):
    pass


class _Counts:
    """What became of each record; read and written by the consumer alone, so that it is exact at every step."""

    def __init__(self, records: int, data):
        self.records, self.limit = records, data.max_unreadable
        self.seen = self.unreadable = self.empty_captions = 0
        self._met = np.zeros(records, np.bool_)
        self._names: list[str] = []

    def add(self, chunk: _Chunk) -> None:
        for bad in chunk.bad:
            if self._first_time(bad.index):
                self.empty_captions += bad.no_caption
                self.unreadable += not bad.no_caption
                self._name(bad.reason)
        for index in chunk.used:
            self._first_time(index)

    def so_far(self) -> dict:
        return {"seen": self.seen, "unreadable": self.unreadable, "empty_captions": self.empty_captions}

    def judge(self) -> None:
        bad = self.unreadable + self.empty_captions
        if bad > self.limit * self.seen and self.seen >= min(_JUDGED_FROM, self.records):
            raise UserError(
                f"data.train: {bad:,} of {self.seen:,} records ({bad / self.seen:.1%}) cannot be used "
                f"({self.unreadable:,} unreadable, {self.empty_captions:,} without a caption), more than "
                f"data.max_unreadable={self.limit:g} allows. First: {'; '.join(self._names[:3])}. "
                "Mend the data or raise the limit."
            )

    def _first_time(self, index: int) -> bool:
        first = not self._met[index]
        self._met[index] = True
        self.seen += first
        return first

    def _name(self, reason: str) -> None:
        if len(self._names) < _NAMED:
            self._names.append(reason)
            rest = "; further ones are only counted" if len(self._names) == _NAMED else ""
            _log.warning("data: %s; another record takes its place%s", reason, rest)
