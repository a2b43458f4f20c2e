import functools
import http.server
import threading

import fsspec
import pytest

from clipjax.data import storage
from clipjax.errors import UserError


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    system.store.clear()
    for number in range(12):
        system.pipe(f"memory://bucket/set/{number:02}.tar", bytes(number))
    yield system
    system.store.clear()


@pytest.fixture
def server(tmp_path):
    """A folder that a web server on this machine gives out, with its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield tmp_path, f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


@pytest.mark.parametrize("count", [1, 12])  # asked one by one, and listed
def test_what_is_there_has_its_size_and_what_is_not_is_none(memory, count):
    urls = [f"memory://bucket/set/{number:02}.tar" for number in range(count)]
    found = storage.look_up([*urls, "memory://bucket/set/99.tar", "memory://bucket/set", "memory://nowhere/x.tar"])
    assert [file.size for file in found[:count]] == list(range(count))
    assert [file.url for file in found[:count]] == urls
    assert found[count:] == [None, None, None]


def test_a_changed_file_has_another_version(memory):
    (before,) = storage.look_up(["memory://bucket/set/03.tar"])
    memory.pipe("memory://bucket/set/03.tar", b"new")
    (after,) = storage.look_up(["memory://bucket/set/03.tar"])
    assert before.size == after.size and before.version != after.version


def test_globs_and_folders_come_sorted(memory):
    matched = storage.match("memory://bucket/set/0*.tar")
    assert [name.rsplit("/", 1)[1] for name in matched] == [f"{number:02}.tar" for number in range(10)]
    assert [file.size for file in storage.list_folder("memory://bucket/set")] == list(range(12))
    assert storage.list_folder("memory://bucket/none") == [] == storage.match("memory://bucket/none/*.tar")


def test_a_file_is_fetched_from_a_web_server(server, tmp_path_factory):
    folder, url = server
    (folder / "a.tar").write_bytes(bytes(range(256)) * 1000)
    file, absent = storage.look_up([f"{url}/a.tar", f"{url}/b.tar"])
    assert absent is None and file.size == 256_000
    copy = tmp_path_factory.mktemp("copies") / "a"
    storage.fetch(file, copy)
    assert copy.read_bytes() == (folder / "a.tar").read_bytes()


def test_a_failed_copy_is_tried_again_and_then_named(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_PAUSES", (0, 0))
    (file,) = storage.look_up(["memory://bucket/set/05.tar"])
    get, failures = type(memory).get_file, iter([ConnectionError("reset"), ConnectionError("reset")])

    def unsteady(self, *args, **kwargs):
        if error := next(failures, None):
            raise error
        return get(self, *args, **kwargs)

    monkeypatch.setattr(type(memory), "get_file", unsteady)
    storage.fetch(file, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == bytes(5)
    with pytest.raises(OSError, match="set/05.tar: cannot be fetched .5 of 6 bytes came"):
        storage.fetch(file._replace(size=6), tmp_path / "x")
    memory.rm("memory://bucket/set/05.tar")
    with pytest.raises(OSError, match="set/05.tar: is there no more"):
        storage.fetch(file, tmp_path / "x")


def test_a_library_that_is_absent_and_a_protocol_that_is_none_are_named(monkeypatch):
    def absent(url):
        raise ImportError("Install gcsfs to access Google Cloud Storage")

    with pytest.raises(UserError, match="^none://a/b: none:// is no known protocol. Give gs://, s3:// or a local path"):
        storage.file_system("none://a/b")
    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(UserError, match=r"gs:// is not installed. Run: pip install 'clipjax\[gcs\]'"):
        storage.file_system("gs://bucket/a.tar")
    with pytest.raises(UserError, match=r"'clipjax\[s3\]'"):
        storage.file_system("s3://bucket/a.tar")
    with pytest.raises(UserError, match="Install gcsfs"):
        storage.file_system("other://bucket/a.tar")


def test_a_store_that_refuses_is_told_in_a_line(memory, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("403 Forbidden\nmore")

    monkeypatch.setattr(type(memory), "info", refuse)
    with pytest.raises(UserError, match="a.tar: cannot be read .403 Forbidden.. Check the address, the network and"):
        storage.look_up(["memory://bucket/a.tar"])
