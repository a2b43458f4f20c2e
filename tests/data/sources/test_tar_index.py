import gzip
import io
import os
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipjax.data.sources import tar_index as module
from clipjax.data.sources.tar_index import tar_index
from clipjax.errors import UserError


def contents(path):
    index = tar_index(path)
    data = path.read_bytes()
    return {name: data[offset : offset + size] for name, (offset, size) in zip(index.names, index.spans, strict=True)}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_index_finds_what_tarfile_reads(tmp_path, form):
    path, files = tmp_path / "a.tar", {f"folder/{'n' * (20 * i)}é{i}.txt": bytes([i]) * (i * 300) for i in range(5)}
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert contents(path) == files
    assert tar_index(path).damage == ""


def test_links_folders_devices_and_hostile_names_do_no_harm(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo("link.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        for name in ["../../etc/x.jpg", "/abs.jpg", "\udcff.jpg"]:
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    assert list(contents(path)) == ["../../etc/x.jpg", "/abs.jpg", "\udcff.jpg"]
    assert sorted(os.listdir(tmp_path)) == ["a.tar"]


@pytest.fixture
def three(tmp_path, write_tar):
    return write_tar(tmp_path / "three.tar", {f"{i}.txt": bytes([65 + i]) * 700 for i in range(3)})


@pytest.mark.parametrize(
    "kept, complete", [(1536, 1), (1537, 1), (2000, 1), (3071, 2), (3072, 2), (4000, 2), (4608, 3)]
)
def test_a_truncated_tar_gives_its_complete_files_and_one_line(three, capsys, kept, complete):
    three.write_bytes(three.read_bytes()[:kept])
    assert list(contents(three)) == ["0.txt", "1.txt", "2.txt"][:complete]
    (line,) = capsys.readouterr().err.splitlines()
    assert "three.tar: cut short or damaged at byte" in line and f"the {complete} complete files before that" in line


def test_damage_in_the_middle_is_told(three, capsys):
    data = bytearray(three.read_bytes())
    data[1536 : 1536 + 512] = b"\x07" * 512
    three.write_bytes(data)
    assert list(contents(three)) == ["0.txt"]
    assert "damaged at byte 1,536 of 10,240 (no header); the 1 complete" in capsys.readouterr().err


def test_tars_joined_by_cat_are_told(three, capsys):
    three.write_bytes(three.read_bytes() * 2)
    assert len(contents(three)) == 3
    assert "data follows (tars joined by cat?" in capsys.readouterr().err


def test_a_header_that_points_back_does_not_loop(three):
    data = bytearray(three.read_bytes())
    header = tarfile.TarInfo("x.txt")
    header.size = -1024
    data[1536:2048] = header.tobuf(tarfile.GNU_FORMAT)
    three.write_bytes(data)
    assert list(contents(three)) == ["0.txt"]


@given(st.integers(0, 10_239), st.integers(0, 255), st.integers(0, 10_240))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_raises_anything_but_a_user_error(three, place, byte, kept):
    whole = three.read_bytes()
    data = bytearray(whole)
    data[place] = byte
    three.write_bytes(data[:kept] if kept % 2 else data)
    try:
        index = tar_index(three)
        assert len(index.names) <= 3 and (index.spans.sum(axis=1) <= len(data)).all()
    except UserError as error:
        assert "three.tar" in str(error)
    finally:
        three.write_bytes(whole)


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a", "b" * 1000)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content, found",
    [
        (b"", r"an empty file \(0 bytes\)"),
        (gzip.compress(b"x" * 5000), "a gzip file"),
        (zipped(), "a zip file"),
        (b"\xff\xd8\xff" * 300, "a JPEG picture"),
        (b"<html>" * 300, "a page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"hello", "5 bytes that are no tar"),
        (bytes(range(200)) * 10, "2,000 bytes that are no tar"),
    ],
)
def test_what_is_no_tar_is_named(tmp_path, content, found):
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"a.tar: found {found}.*expected a tar without compression"):
        tar_index(path)


def test_a_compressed_tar_is_named(tmp_path, three):
    path = tmp_path / "a.tar"
    path.write_bytes(gzip.compress(three.read_bytes()))
    with pytest.raises(UserError, match="found a gzip file"):
        tar_index(path)


def test_an_absent_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        tar_index(tmp_path / "a.tar")


def test_a_tar_of_nothing_is_empty(tmp_path, write_tar):
    assert tar_index(write_tar(tmp_path / "a.tar", {})).names == []


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """Every index is worth keeping, and the folder where it is kept."""
    monkeypatch.setattr(module, "_WORTH_KEEPING", 0)
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tars"


def same(one, other):
    return one.names == other.names and np.array_equal(one.spans, other.spans) and one.damage == other.damage


def test_the_second_look_reads_no_header(three, kept, monkeypatch):
    first = tar_index(three)
    monkeypatch.setattr(module, "_scan", None)
    assert same(tar_index(three), first)


def test_the_index_of_a_damaged_tar_is_not_kept(three, kept):
    three.write_bytes(three.read_bytes()[:4000])
    assert tar_index(three).damage and not kept.exists()


def test_a_changed_tar_is_read_again(three, kept, write_tar):
    tar_index(three)
    write_tar(three, {"new.txt": "x"})
    assert tar_index(three).names == ["new.txt"]
    os.utime(three, ns=(0, 0))
    assert tar_index(three).names == ["new.txt"] and len(list(kept.iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_a_spoilt_cache_is_made_again(three, kept, content):
    first = tar_index(three)
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert same(tar_index(three), first)
    assert len(file.read_bytes()) == len(whole)


def test_a_kept_index_that_points_outside_is_not_trusted(three, kept):
    first = tar_index(three)
    (file,) = kept.iterdir()
    with np.load(file) as arrays:
        content = dict(arrays)
    content["spans"] = content["spans"] + 10**9
    np.savez(file, **content)
    assert same(tar_index(three), first)


def test_a_cache_that_cannot_be_written_costs_only_time(three, kept):
    kept.parent.write_text("a file where the folder should be")
    assert len(tar_index(three).names) == 3


def test_small_tars_leave_no_cache(three, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    tar_index(three)
    assert not (tmp_path / "cache").exists()
