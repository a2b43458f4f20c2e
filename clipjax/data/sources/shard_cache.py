"""Whole shards from object storage in a folder of bounded size, shared by all processes of a host."""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from clipjax.config import DataConfig
from clipjax.data.storage import Remote, fetch, look_up
from clipjax.errors import UserError
from clipjax.parallel.runtime import cache_directory

_WAIT = 0.2  # seconds until a download that finds no room looks again
_LOCKS = 256  # files that processes lock so that a shard is fetched once
MODIFIED = 1_000_000_000  # ns: the time of each file here, so that what was made of one holds when it is fetched again


def cached(urls: Sequence[str], data: DataConfig) -> dict[str, "CachedShard"]:
    """Each address with its shard in the cache of data.cache_gb.

    Raises UserError for an address where nothing is, and where all that an order mixes does not fit into the cache:
    each shard would be fetched again and again.
    """
    if not urls:
        return {}
    files = [file for file in look_up(urls) if file is not None]
    if len(files) < len(urls):
        raise UserError(f"data.train: {sorted(set(urls) - {file.url for file in files})[0]} is there no more.")
    mixed = sorted((file.size for file in files), reverse=True)[: data.shuffle_shards or None]
    cache = ShardCache(int(data.cache_gb * 1e9))
    if sum(mixed) > cache.limit:
        raise UserError(
            f"data.cache_gb: {data.cache_gb:g} GB, but {len(mixed):,} shards of {sum(mixed) / 1e9:.3g} GB together are "
            "mixed, so each would be fetched again and again. Raise it, or mix fewer by data.shuffle_shards."
        )
    return {file.url: CachedShard(file, cache) for file in files}


class ShardCache:
    """Shards by (address, version) as files; the least recently used go when `limit` bytes would be passed.

    A file appears whole, by a rename. Two processes that want the same shard fetch it once. What is being fetched
    counts with its full size. An open descriptor outlives the file.
    """

    def __init__(self, limit: int, folder: Path | None = None):
        self.limit, self.folder = limit, folder or cache_directory() / "shards"
        try:
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be made ({error.strerror}). Set CLIPJAX_CACHE.") from None

    def path(self, file: Remote) -> Path:
        """Where the file of a shard lies if it is there."""
        name = hashlib.sha256("\n".join([file.url, str(file.size), file.version]).encode()).hexdigest()
        return self.folder / name[:32]

    def open(self, file: Remote) -> int:
        """A descriptor of a shard, which is fetched if it is not here. Raises OSError, naming it, where that fails.

        Raises UserError for a shard larger than the cache.
        """
        path = self.path(file)
        descriptor = _opened(path)
        if descriptor is None:
            with self._lock(path.name):
                descriptor = _opened(path)  # while this one waited, another may have fetched it
                if descriptor is None:
                    descriptor = self._fetch(file, path)
        with suppress(PermissionError):  # another user's file
            os.utime(descriptor, ns=(time.time_ns(), MODIFIED))  # the time of access is what "recently used" means
        return descriptor

    @contextmanager
    def pinned(self, file: Remote) -> Iterator[Path]:
        """The path of a shard that stays until the end of the block."""
        while True:
            descriptor = self.open(file)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if _is_at(descriptor, self.path(file)):  # not removed, and perhaps fetched again, before it was locked
                    yield self.path(file)
                    return
            finally:
                os.close(descriptor)

    def _fetch(self, file: Remote, path: Path) -> int:
        part = self._reserve(file, path)
        try:
            fetch(file, part.path)
            descriptor = os.open(part.path, os.O_RDONLY)
            with self._lock("room"):  # else someone who counts may see neither the old name nor the new one
                os.replace(part.path, path)
            return descriptor
        except BaseException as error:
            part.path.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno == 28:
                raise UserError(
                    f"data.cache_gb: {self.limit / 1e9:g} GB, but the disk of {self.folder} is full before that. "
                    "Lower it, or let CLIPJAX_CACHE name a folder on a larger disk."
                ) from None
            raise
        finally:
            os.close(part.lock)

    def _reserve(self, file: Remote, path: Path) -> "_Part":
        """An empty file that counts with the shard's size, once there is room; locked as long as someone fills it."""
        if file.size > self.limit:
            raise UserError(
                f"data.cache_gb: {self.limit / 1e9:g} GB hold no shard of {file.size / 1e9:.3g} GB ({file.url}). "
                "Give several times the size of a shard."
            )
        while True:
            with self._lock("room"):
                if self._make_room(file.size):
                    part = self.folder / f"{path.name}.{file.size}.part"
                    lock = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    return _Part(part, lock)
            time.sleep(_WAIT)  # others are fetching: theirs can go when they are done

    def _make_room(self, size: int) -> bool:
        """Remove what was used longest ago until `size` more bytes fit; False if what is in use does not let them."""
        kept, used = [], 0
        for entry in os.scandir(self.folder):
            try:
                stat = entry.stat()
            except FileNotFoundError:
                continue
            if entry.name.endswith(".part"):
                if not _remove_unused(entry.path):  # someone fills it
                    used += int(entry.name.split(".")[1])
            elif entry.is_file():
                kept.append((stat.st_atime_ns, stat.st_size, entry.path))
                used += stat.st_size
        for _, freed, path in sorted(kept):
            if used + size <= self.limit:
                break
            used -= freed if _remove_unused(path) else 0
        return used + size <= self.limit

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """Held by one thread of one process of this host at a time."""
        stripe = name if name == "room" else str(int(name, 16) % _LOCKS)
        descriptor = os.open(self.folder / "locks" / stripe, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class _Part(NamedTuple):
    path: Path
    lock: int  # descriptor


class CachedShard(NamedTuple):
    """A shard at an address and the cache that it comes through."""

    file: Remote
    cache: ShardCache

    def open(self) -> int:
        """A descriptor of its content, as `ShardCache.open`."""
        return self.cache.open(self.file)


def _opened(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _remove_unused(path: str) -> bool:
    """Remove a file unless someone has locked it; whether it is gone."""
    descriptor = _opened(Path(path))
    if descriptor is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
        return True
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    finally:
        os.close(descriptor)
