"""Files of embeddings, npz or Parquet: a row a picture, its key, and what made them; joined from parts."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clipjax.data.files import replacing
from clipjax.errors import UserError

_LISTS = ("keys", "captions", "unreadable")  # fields of a part that are no arrays
_FORMAT = 1  # of these files, raised when what they hold changes its meaning


class Part(NamedTuple):
    """Rows of consecutive records of a source, those that can be read.

    `images` [n, E] float32 unit rows, `keys` their names, `index` [n] int64 places in the source. Where captions are
    embedded too: `texts` [T, E] float32 unit rows, `captions` their words, `owner` [T] int64 the row of each.
    `unreadable` says of each other record why it is none.
    """

    images: np.ndarray
    keys: list[str]
    index: np.ndarray
    texts: np.ndarray
    captions: list[str]
    owner: np.ndarray
    unreadable: list[str]


class Stored(NamedTuple):
    """What a file of embeddings holds of its pictures (see Part), and `about`, what it says of itself."""

    images: np.ndarray
    keys: list[str]
    index: np.ndarray
    about: dict


def checked(path: str | Path) -> Path:
    """The path of a file to write or read. Raises UserError for a name that ends otherwise."""
    if Path(path).suffix.lower() not in _WRITERS:
        raise UserError(f"embeddings: {str(path)!r} should end with {' or '.join(_WRITERS)}.")
    return Path(path)


def read(path: str | Path) -> Stored:
    """Raises UserError for what is not there or no file of embeddings."""
    path, reader = checked(path), _READERS[checked(path).suffix.lower()]
    if not path.is_file():
        raise UserError(f"embeddings: no file {path}. Make it with `clipjax embed`.")
    try:
        return reader(path, ("about", "images", "keys", "index"))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:  # Arrow's are ValueErrors
        reason = "other content" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise UserError(f"embeddings: {path} is no file of `clipjax embed` ({reason}).") from error


def about(path: Path) -> dict | None:
    """What the file says of itself; None if it is no file of embeddings."""
    try:
        return _READERS[path.suffix.lower()](path, ("about",)).about
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def write(path: Path, said: dict, parts: Sequence[Path]) -> dict:
    """Join parts, in order, to one file that is there whole or not at all; returns all that it says of itself.

    The same parts give the same bytes.
    """
    counts = [(len(_column(part, "index")), len(_column(part, "owner"))) for part in parts]
    unreadable = [line for part in parts for line in _column(part, "unreadable")]
    said = {"format": _FORMAT, **said, "unreadable": unreadable}
    said |= {"pictures": sum(n for n, _ in counts), "captions": sum(t for _, t in counts)}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        _WRITERS[path.suffix.lower()](file, said, parts, counts)
    return said


def save_part(path: Path, part: Part) -> None:
    """Write a part; under its name it is always complete."""
    lists = {name: np.frombuffer(_json(getattr(part, name)), np.uint8) for name in _LISTS}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **part._asdict() | lists)


def load_part(path: Path) -> Part | None:
    """A part; None where it is not there, or damaged."""
    try:
        return Part(**{name: _column(path, name) for name in Part._fields})
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _column(part: Path, name: str):
    with np.load(part, allow_pickle=False) as arrays:
        return json.loads(arrays[name].tobytes()) if name in _LISTS else arrays[name]


def _json(value) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _write_npz(file, said: dict, parts: Sequence[Path], counts: list[tuple[int, int]]) -> None:
    """Row by row for what is large: the whole never lies in memory."""
    pictures, captions, dimensions = said["pictures"], said["captions"], said["dimensions"]
    firsts = np.cumsum([0, *(n for n, _ in counts)])
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("about.json"), _json(said))
        _put(archive, "images", (_column(part, "images") for part in parts), (pictures, dimensions))
        _put(archive, "index", (_column(part, "index") for part in parts), (pictures,))
        keys = [key for part in parts for key in _column(part, "keys")]
        _put(archive, "keys", [np.array(keys, np.str_)], (pictures,))
        if said["texts"]:
            _put(archive, "texts", (_column(part, "texts") for part in parts), (captions, dimensions))
            owners = (_column(part, "owner") + first for part, first in zip(parts, firsts, strict=False))
            _put(archive, "owner", owners, (captions,))
            words = [caption for part in parts for caption in _column(part, "captions")]  # of any length: no array
            archive.writestr(zipfile.ZipInfo("captions.json"), _json(words))


def _put(archive: zipfile.ZipFile, name: str, arrays, shape: tuple) -> None:
    """One array, given in pieces of its first axis, as a member that numpy reads."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        for number, array in enumerate(arrays):
            if not number:
                header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
            member.write(np.ascontiguousarray(array).tobytes())


def _read_npz(path: Path, names: Sequence[str]) -> Stored:
    with np.load(path, allow_pickle=False) as arrays:
        said = _said(arrays["about.json"])
        found = {name: arrays[name] for name in names if name != "about"}
    return _stored(said, found)


def _write_parquet(file, said: dict, parts: Sequence[Path], counts: list[tuple[int, int]]) -> None:
    """A row group a part."""
    import pyarrow as pa
    from pyarrow import parquet

    vector = pa.list_(pa.float32(), said["dimensions"])
    columns = {"key": pa.string(), "index": pa.int64(), "image": vector}
    if said["texts"]:
        columns |= {"captions": pa.list_(pa.string()), "texts": pa.list_(vector)}
    schema = pa.schema(columns, metadata={"clipjax": _json(said)})
    with parquet.ParquetWriter(file, schema, use_dictionary=False) as writer:
        for part in map(load_part, parts):
            ends = np.cumsum([0, *np.bincount(part.owner, minlength=len(part.keys))])
            lists = {"captions": pa.array(part.captions, pa.string()), "texts": _vectors(part.texts, vector)}
            cells = {"key": part.keys, "index": part.index, "image": _vectors(part.images, vector)}
            cells |= {name: pa.ListArray.from_arrays(ends, values) for name, values in lists.items() if name in columns}
            writer.write_table(pa.table(cells, schema))


def _vectors(rows: np.ndarray, kind):
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), type=kind)


def _read_parquet(path: Path, names: Sequence[str]) -> Stored:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        said = _said((file.schema_arrow.metadata or {})[b"clipjax"])
        if names == ("about",):
            return _stored(said, {})
        table = file.read(["key", "index", "image"])
    images = [chunk.flatten().to_numpy() for chunk in table["image"].chunks]
    found = {"keys": table["key"].to_numpy(), "index": table["index"].to_numpy()}
    return _stored(said, found | {"images": np.concatenate(images).reshape(-1, said["dimensions"])})


def _said(text: bytes) -> dict:
    said = json.loads(text)
    if said["format"] != _FORMAT:
        raise ValueError(f"format {said['format']}, expected {_FORMAT}")
    return said


def _stored(said: dict, found: dict) -> Stored:
    keys = found.get("keys", np.array([])).tolist()
    return Stored(found.get("images"), keys, found.get("index"), said)


_WRITERS = {".npz": _write_npz, ".parquet": _write_parquet}
_READERS = {".npz": _read_npz, ".parquet": _read_parquet}
