"""Where each file of a tar lies: one pass over its headers, kept in the user's cache for the next start."""

import hashlib
import os
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clipjax.data.sources.shard_cache import MODIFIED, CachedShard
from clipjax.errors import UserError
from clipjax.parallel.runtime import cache_directory
from clipjax.progress import say

_FORMAT = 1  # of the cached files; a change of what is kept makes all of them stale
_WORTH_KEEPING = (
    1000  # members: below, reading the headers again (10,000 a second) costs less than a file to look after
)
_END_MARK = bytes(tarfile.BLOCKSIZE)

_MAGIC = (  # what is given for a tar most often
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"PK\x03\x04", "a zip file"),
    (b"PAR1", "a Parquet file"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG", "a PNG picture"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"<", "a page of HTML or XML"),
)


class Index(NamedTuple):
    """Complete regular files of a tar, in its order: `spans` [n, 2] int64 holds offset and size in bytes.

    `damage` is empty or says where and why the rest of the tar is not used.
    """

    names: list[str]
    spans: np.ndarray
    damage: str


def tar_index(path: str | Path) -> Index:
    """The index of one tar; damage is told in one line. Raises UserError, naming the file, for what is no tar."""
    try:
        stat = os.stat(path)
        kept, made_of = _kept_at(path), (stat.st_size, stat.st_mtime_ns)
        index = _load(kept, *made_of)
        if index is None:
            index = _scan(path, stat.st_size, path)
            if len(index.names) >= _WORTH_KEEPING and not index.damage:  # damage may be a bad moment of the disk
                _save(kept, *made_of, index)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}. Give a tar file.") from error
    return _told(path, index)


def remote_tar_index(shard: CachedShard) -> Index:
    """`tar_index` of a shard at an address; it is fetched only if its index is not kept from an earlier time."""
    file, cache = shard.file, shard.cache
    kept, made_of = _kept_at(cache.path(file)), (file.size, MODIFIED)
    index = _load(kept, *made_of)
    if index is None:
        try:
            with cache.pinned(file) as path:
                index = _scan(path, file.size, file.url)
        except OSError as error:
            raise UserError(f"{error}. Check the address, the network and the credentials.") from error
        if index.names and not index.damage:
            _save(kept, *made_of, index)
    return _told(file.url, index)


def _told(name, index: Index) -> Index:
    if index.damage:
        say(f"{name}: {index.damage}; the {len(index.names):,} complete files before that are used")
    return index


def _scan(path, size: int, name) -> Index:
    """Walk the headers. Links, folders, devices and sparse files are left out: their bytes do not lie in one piece."""
    names, spans = [], []
    try:
        tar = tarfile.open(path, "r:")  # "r:": never decompress, offsets must be those of the file
    except OSError:
        raise
    except Exception as error:  # here and below: on hostile headers tarfile raises nearly any kind
        raise UserError(f"{name}: found {_what(path, size)}, expected a tar without compression.") from error
    damage, last = "", -1
    with tar:
        while not damage:
            try:
                member = tar.next()
            except Exception as error:
                damage = _cut(tar.offset, size, str(error) or type(error).__name__)
                break
            if member is None:
                damage = _after(path, tar.offset, size)
                break
            tar.members.clear()  # or a million of them stay in memory
            excess = member.offset_data + member.size - size
            if member.offset <= last or member.size < 0:  # a header that points back would be read for ever
                damage = _cut(member.offset, size, "a header that leads nowhere")
            elif excess > 0:
                damage = _cut(member.offset, size, f"{member.name} wants {excess:,} bytes more")
            elif member.isreg() and not member.issparse() and "\0" not in member.name:
                names.append(member.name)
                spans.append((member.offset_data, member.size))
            last = member.offset
    return Index(names, np.array(spans, np.int64).reshape(-1, 2), damage)


def _what(path, size: int) -> str:
    with open(path, "rb") as file:
        head = file.read(64)
    if not head:
        return "an empty file (0 bytes)"
    return next((name for magic, name in _MAGIC if head.startswith(magic)), f"{size:,} bytes that are no tar")


def _cut(offset: int, size: int, reason: str) -> str:
    return f"cut short or damaged at byte {offset:,} of {size:,} ({reason})"


def _after(path, offset: int, size: int) -> str:
    """What is wrong where tarfile stopped reading: nothing if the mark of zeros stands there and no data follows."""
    with open(path, "rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE) != _END_MARK:
            return _cut(offset, size, "no end mark" if offset >= size else "no header")
        if any(file.read(1 << 20)):
            return f"ended at byte {offset:,} of {size:,}, but data follows (tars joined by cat? give them one by one)"
    return ""


def _kept_at(path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    return cache_directory() / "tars" / f"{name}.npz"


def _load(kept: Path, size: int, modified: int) -> Index | None:
    """The index kept for a file of this size and time; None if there is none or it cannot be trusted."""
    try:
        with np.load(kept, allow_pickle=False) as arrays:
            if arrays["made_of"].tolist() != [_FORMAT, size, modified]:
                return None
            names = arrays["names"].tobytes().decode("utf-8", "surrogateescape").split("\0")
            spans = arrays["spans"]
    except Exception:  # absent, half a file, or anything else under that name
        return None
    whole = spans.dtype == np.int64 and spans.shape == (len(names), 2) and spans.min() >= 0
    return Index(names, spans, "") if whole and spans.sum(axis=1).max() <= size else None


def _save(kept: Path, size: int, modified: int, index: Index) -> None:
    """Write beside the name, then rename, so that a kill or a second process leaves no half a file."""
    arrays = {
        "made_of": np.array([_FORMAT, size, modified], np.int64),
        "names": np.frombuffer("\0".join(index.names).encode("utf-8", "surrogateescape"), np.uint8),
        "spans": index.spans,
    }
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=kept.parent, suffix=".tmp", delete=False) as file:
            np.savez(file, **arrays)
        os.replace(file.name, kept)
    except OSError:
        pass  # a full disk or a read-only home costs time at the next start, nothing else
