"""Shards from addresses: bounded, whole, fetched once, and safe among threads and processes."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import fsspec
import pytest

from clipjax.config import DataConfig
from clipjax.data import storage
from clipjax.data.sources import open_source, shard_cache
from clipjax.data.sources.shard_cache import ShardCache
from clipjax.errors import UserError


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def files(tmp_path):
    """Six files of 100 bytes at file:// addresses, as a store that other processes see too."""
    (tmp_path / "store").mkdir()
    for number in range(6):
        (tmp_path / f"store/{number}").write_bytes(bytes([number]) * 100)
    return storage.look_up([f"file://{tmp_path}/store/{number}" for number in range(6)])


@pytest.fixture
def fetched(monkeypatch):
    """The addresses that were fetched, in order."""
    urls, fetch = [], shard_cache.fetch

    def counted(file, path):
        urls.append(file.url[-1])
        fetch(file, path)

    monkeypatch.setattr(shard_cache, "fetch", counted)
    return urls


def content(cache, file):
    descriptor = cache.open(file)
    try:
        return os.pread(descriptor, 1000, 0)
    finally:
        os.close(descriptor)


def held(cache):
    return sum(entry.stat().st_size for entry in os.scandir(cache.folder) if entry.is_file())


def test_a_shard_is_fetched_once_and_the_least_recently_used_goes(files, fetched):
    cache = ShardCache(350)
    for number in (0, 1, 2, 0, 3, 0, 1, 2):  # 3 takes the place of 1, which was used before 2 and 0
        assert content(cache, files[number]) == bytes([number]) * 100
        assert held(cache) <= 350
    assert "".join(fetched) == "012312"


def test_another_version_is_another_shard(files, fetched, tmp_path):
    cache = ShardCache(350)
    content(cache, files[0])
    content(cache, files[0]._replace(version="newer"))
    assert "".join(fetched) == "00"


def test_a_descriptor_outlives_the_file(files):
    cache = ShardCache(100)
    descriptor = cache.open(files[0])
    content(cache, files[1])
    assert not cache.path(files[0]).exists()
    assert os.pread(descriptor, 1000, 0) == bytes(100)
    os.close(descriptor)


def test_a_pinned_shard_stays(files):
    cache = ShardCache(250)
    with cache.pinned(files[0]) as path:
        for file in files[1:]:
            content(cache, file)
        assert path.read_bytes() == bytes(100)
    content(cache, files[1]), content(cache, files[2])
    assert not path.exists()


def test_a_shard_replaced_before_it_was_locked_is_locked_anew(files, monkeypatch):
    cache, flock = ShardCache(250), shard_cache.fcntl.flock
    path, turns = cache.path(files[0]), []

    def replaced_once(descriptor, kind):  # another process removes the file here, and a third fetches it again
        if kind == shard_cache.fcntl.LOCK_SH:
            turns.append(descriptor)
            if len(turns) == 1:
                path.unlink()
                path.write_bytes(bytes(100))
        flock(descriptor, kind)

    monkeypatch.setattr(shard_cache.fcntl, "flock", replaced_once)
    with cache.pinned(files[0]):
        assert len(turns) == 2
        for file in files[1:]:
            content(cache, file)
        assert path.exists()


def test_what_a_killed_process_left_is_cleared_away(files):
    cache = ShardCache(250)
    (cache.folder / f"{'a' * 32}.200.part").write_bytes(b"half")
    content(cache, files[0])
    assert sorted(os.listdir(cache.folder)) == sorted([cache.path(files[0]).name, "locks"])


def test_a_failed_fetch_leaves_nothing(files, monkeypatch):
    monkeypatch.setattr(storage, "_PAUSES", ())
    cache = ShardCache(250)
    with pytest.raises(OSError, match="is there no more"):
        cache.open(files[0]._replace(url=files[0].url + "-gone"))
    assert os.listdir(cache.folder) == ["locks"]


def test_threads_meet_in_a_cache_of_two_shards(files, fetched):
    cache = ShardCache(250)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: content(cache, files[number % 6]), range(300)))
    assert found == [bytes([number % 6]) * 100 for number in range(300)]
    assert held(cache) <= 250


def test_a_shard_that_arrives_while_another_thread_counts_is_counted(files, monkeypatch):
    cache, scandir, fetch = ShardCache(250), os.scandir, shard_cache.fetch
    content(cache, files[0])
    fetching, listed = threading.Event(), threading.Event()

    def slow(file, path):
        fetching.set()
        listed.wait(10)
        fetch(file, path)

    with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patch:
        patch.setattr(shard_cache, "fetch", slow)
        arriving = pool.submit(content, cache, files[1])
        fetching.wait()
        patch.setattr(shard_cache, "fetch", fetch)

        def listing(folder):  # the other shard has its time to arrive between the listing and the counting
            entries = list(scandir(folder))
            listed.set()
            wait([arriving], timeout=1)
            return entries

        patch.setattr(os, "scandir", listing)
        assert content(cache, files[2]) == bytes([2]) * 100
    assert arriving.result() == bytes([1]) * 100
    assert held(cache) == 200


def test_two_threads_that_want_one_shard_fetch_it_once(files, fetched, monkeypatch):
    arrived, fetch = threading.Barrier(2), shard_cache.fetch
    monkeypatch.setattr(shard_cache, "fetch", lambda file, path: fetch(file, path))
    cache = ShardCache(1000)

    def want(_):
        arrived.wait()
        return content(cache, files[0])

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(want, range(2))) == [bytes(100)] * 2
    assert fetched == ["0"]


PROCESS = """
import os, sys
from clipjax.data import storage
from clipjax.data.sources.shard_cache import ShardCache

cache = ShardCache(250)
files = storage.look_up(sys.argv[1:])
for turn in range(200):
    number = (turn * 7 + os.getpid()) % len(files)
    descriptor = cache.open(files[number])
    assert os.pread(descriptor, 1000, 0) == bytes([number]) * 100
    os.close(descriptor)
"""


def test_processes_share_a_cache_of_two_shards(files):
    command = [sys.executable, "-W", "error", "-c", PROCESS, *(file.url for file in files)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    cache = ShardCache(250)
    assert 0 < held(cache) <= 250 and not list(cache.folder.glob("*.part"))


@pytest.fixture
def bucket(shards):
    """The shards of the data tests in fsspec's memory, as the glob of their addresses."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    for path in shards.glob("*.tar"):
        system.pipe(f"memory://bucket/set/{path.name}", path.read_bytes())
    yield "memory://bucket/set"
    system.store.clear()


@pytest.mark.parametrize("form", ["/*.tar", "", "/", "/train-{00000..00002}.tar", "/train-0000{0,2,1}.tar"])
def test_shards_at_addresses_hold_what_the_files_hold(bucket, shards, form):
    remote = open_source([bucket + form], DataConfig())
    local = open_source([f"{shards}{form}"], DataConfig())
    assert len(remote) == len(local) == 15
    for index in range(15):
        assert remote[index][1:] == local[index][1:]
        assert remote[index].key.startswith("memory://") and remote[index].key.endswith(
            local[index].key.removeprefix(str(shards))
        )


def test_a_second_start_needs_no_shard_for_its_index(bucket, fetched):
    first = open_source([bucket], DataConfig())
    assert len(fetched) == 3
    for path in shard_cache.ShardCache(10**9).folder.iterdir():
        path.unlink() if path.is_file() else None
    second = open_source([bucket], DataConfig())
    assert len(fetched) == 3 and len(second) == len(first)
    assert second[0] == first[0] and len(fetched) == 4


def test_shards_that_do_not_fit_are_mixed_some_at_a_time(bucket, fetched):
    system = fsspec.filesystem("memory")
    largest = max(info["size"] for info in system.ls("memory://bucket/set", detail=True))
    small = {"cache_gb": 1.01 * largest / 1e9}
    with pytest.raises(UserError, match="data.cache_gb: .* but 3 shards of .* are mixed.*data.shuffle_shards"):
        open_source([bucket], DataConfig(**small))
    source = open_source([bucket], DataConfig(**small, shuffle_shards=1))
    del fetched[:]
    for epoch in range(2):
        [source[int(index)] for index in source.order(0, epoch)]
    assert len(fetched) <= 6  # once an epoch each
    with pytest.raises(UserError, match="hold no shard of"):
        ShardCache(10).open(storage.look_up([f"{bucket}/train-00000.tar"])[0])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/train-{00000..00005}.tar", "3 of the 6 names of .* are absent, first 'memory://bucket/set/train-00003.tar'"),
        ("/none*.tar", "1 of the 1 names of 'memory://bucket/set/none"),
        ("/pairs.csv", "only tar shards are read from an address"),
        ("/broken.tar", "broken.tar: found 100 bytes that are no tar"),
    ],
)
def test_what_is_not_there_or_no_shard_is_named(bucket, name, said):
    fsspec.filesystem("memory").pipe("memory://bucket/set/pairs.csv", b"image,caption\n")
    fsspec.filesystem("memory").pipe("memory://bucket/set/broken.tar", b"x" * 100)
    with pytest.raises(UserError, match=said):
        open_source([bucket + name], DataConfig())


def test_a_shard_that_vanishes_makes_its_records_unreadable(bucket, monkeypatch):
    from clipjax.data.sources import RecordError

    source = open_source([bucket], DataConfig())
    fsspec.filesystem("memory").rm("memory://bucket/set/train-00000.tar")
    for path in shard_cache.ShardCache(10**9).folder.iterdir():
        path.unlink() if path.is_file() else None
    with pytest.raises(RecordError, match="train-00000.tar: is there no more"):
        source[0]
    assert source[5].captions
