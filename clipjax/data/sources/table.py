"""A CSV, TSV, JSONL or Parquet table of picture paths, relative to the table's folder, and captions."""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from clipjax.config import DataConfig
from clipjax.data.sources.pictures import read_picture
from clipjax.data.sources.record import Dropped, Record, captions_of
from clipjax.errors import UserError
from clipjax.progress import track

_IMAGES = ("image", "filepath", "file_name", "path")
_CAPTIONS = ("caption", "captions", "title", "text")
_CHUNK = 65_536  # rows


class TableSource:
    """The pictures of a table, in the order in which they first appear; rows that name the same picture are one record.

    data.image_key and data.caption_key name the columns, else the first usual name that is there; without `captions`
    the second may be absent or empty. A cell of JSONL or Parquet may hold a list of captions. Raises UserError for a
    table that is none or lacks the columns.
    """

    def __init__(self, path: str, data: DataConfig, captions: bool = True):
        self.dropped = Dropped()
        self._path, self._folder = path, os.path.dirname(os.path.abspath(path))
        image_names = (data.image_key,) if data.image_key else _IMAGES
        caption_names = (data.caption_key,) if data.caption_key else _CAPTIONS + (() if captions else (None,))
        rows = _READERS[Path(path).suffix.lower()](path, image_names, caption_names)
        try:
            table = _grouped(track(rows, f"reading {path}", unit="rows"), path, self.dropped, captions)
        except OSError as error:  # Arrow's of damaged data, too
            raise UserError(f"{path}: cannot be read ({error.strerror or error}). Write it again.") from error
        self._images, self._captions = table["image"], table["caption_list"]
        if len(self._images) and "://" in (first := self._images[0].as_py()):
            raise UserError(
                f"{path}: {first!r} is an address. Fetch the pictures first (img2dataset writes tar shards)."
            )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        path = os.path.join(self._folder, self._images[index].as_py())
        captions = self._captions[index].as_py()
        return Record(path, read_picture(path), tuple(caption for caption in captions if caption is not None))

    @property
    def files(self) -> list[str]:
        return [self._path, *(os.path.join(self._folder, name) for name in self._images.to_pylist())]


def _grouped(rows, path: str, dropped: Dropped, captions_needed: bool):
    """An Arrow table, which holds millions of short strings without an object each: image, caption_list."""
    import pyarrow as pa

    images, captions, chunks = [], [], []

    def flush():
        columns = {"image": images, "caption": captions}
        chunks.append(pa.table({name: pa.array(cells, pa.large_string()) for name, cells in columns.items()}))
        images.clear(), captions.clear()

    for line, image, value in rows:
        image, texts = "".join(captions_of(image)), captions_of(value)
        texts = texts or (() if captions_needed else (None,))
        if not image or not texts:
            dropped.add(f"{path}, row {line}: no {'caption' if image else 'picture'}")
            continue
        images += [image] * len(texts)
        captions += texts
        if len(images) >= _CHUNK:
            flush()
    flush()
    table = pa.concat_tables(chunks)
    return table.group_by("image", use_threads=False).aggregate([("caption", "list")])  # threads would lose the order


def _read_csv(path: str, images: Sequence[str], captions: Sequence[str]) -> Iterator[tuple]:
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        header = file.readline()
        file.seek(0)
        delimiter = "\t" if path.lower().endswith(".tsv") else max(",\t;|", key=header.count)
        reader = csv.reader(file, delimiter=delimiter)
        try:
            names = next(reader, [])
            columns = [None if name is None else names.index(name) for name in _columns(names, images, captions, path)]
            for row in reader:
                if row:
                    yield reader.line_num, *(_cell(row, column) for column in columns)
        except csv.Error as error:
            raise UserError(f"{path}: line {reader.line_num}: {error}. Look for a quotation mark left open.") from error


def _cell(row: list[str], column: int | None) -> str:
    return "" if column is None or column >= len(row) else row[column]


def _read_jsonl(path: str, images: Sequence[str], captions: Sequence[str]) -> Iterator[tuple]:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        columns = ()
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                yield line, "", ""
                continue
            columns = columns or _columns(list(row), images, captions, path)
            yield line, *(row.get(column) for column in columns)


def _read_parquet(path: str, images: Sequence[str], captions: Sequence[str]) -> Iterator[tuple]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        columns = _columns(file.schema_arrow.names, images, captions, path)
        kind = file.schema_arrow.field(columns[0]).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise UserError(f"{path}: column {columns[0]!r} holds {kind}, expected paths as text. Set data.image_key.")
        line = 0
        for batch in file.iter_batches(_CHUNK, columns=[name for name in dict.fromkeys(columns) if name is not None]):
            cells = [[None] * len(batch) if name is None else batch.column(name).to_pylist() for name in columns]
            for row in zip(*cells, strict=True):
                line += 1
                yield line, *row
    except pa.ArrowException as error:
        raise UserError(f"{path}: found no Parquet file that can be read ({error}). Write it again.") from error


def _columns(names: list[str], images: Sequence[str], captions: Sequence, path: str) -> tuple[str, str | None]:
    """The names of the picture's and the captions' column; None for the second where `captions` holds None."""
    found = [next((name for name in wanted if name in names), None) for wanted in (images, captions)]
    for name, wanted, option in zip(found, (images, captions), ("image_key", "caption_key"), strict=True):
        if name is None and None not in wanted:
            raise UserError(
                f"{path}: no column named {' or '.join(wanted)}; its first row names {', '.join(names) or 'none'}. "
                f"Set data.{option} to the column's name."
            )
    return tuple(found)


_READERS = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".parquet": _read_parquet,
}
