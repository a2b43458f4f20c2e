import json
import os
import pickle
import tarfile

import pytest

from clipjax.config import DataConfig
from clipjax.data.sources.record import RecordError
from clipjax.data.sources.tar import TarSource, open_tars, read_members
from clipjax.errors import UserError


@pytest.fixture
def source_of(tmp_path, write_tar):
    def make(files, **data):
        return TarSource(str(write_tar(tmp_path / "a.tar", files)), DataConfig(**data))

    return make


def test_members_of_a_key_are_a_sample_wherever_they_stand(tmp_path, write_tar):
    names = ["a/0.jpg", "a/1.jpg", "./a/0.txt", "b/0.JPG", "a/1.seg.png", "._0.jpg", ".hidden", "noext", "a/0.jpg"]
    path = write_tar(tmp_path / "a.tar", {name: name for name in names[:-1]})
    found = [(key, list(members)) for key, members in read_members(path)]
    assert found == [("a/0", ["jpg", "txt"]), ("a/1", ["jpg", "seg.png"]), ("b/0", ["jpg"])]


def test_a_second_file_of_a_key_and_extension_starts_a_sample(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name in ["0.jpg", "0.txt", "0.jpg", "0.txt"]:
            tar.addfile(tarfile.TarInfo(name))
    assert [list(members) for _, members in read_members(path)] == [["jpg", "txt"]] * 2


def test_members_can_be_read_at_their_offsets(tmp_path, write_tar):
    path = write_tar(tmp_path / "a.tar", {"0.jpg": b"picture", "0.cls": "7"})
    ((key, members),) = read_members(path)
    offset, size = members["cls"]
    assert key == "0" and path.read_bytes()[offset : offset + size] == b"7"


@pytest.mark.parametrize(
    "files, data, captions",
    [
        ({"0.txt": "one\n\ntwo\n"}, {}, ("one", "two")),
        ({"0.txt": "one", "0.json": '{"captions": ["a", "b"]}'}, {}, ("a", "b")),
        ({"0.txt": "one", "0.json": '{"caption": "a"}'}, {}, ("one",)),
        ({"0.txt": "one", "0.json": "{broken"}, {}, ("one",)),
        ({"0.txt": "one", "0.json": "[" * 100_000}, {}, ("one",)),
        ({"0.txt": "one", "0.json": "[1]"}, {}, ("one",)),
        ({"0.txt": "one", "0.json": '{"captions": []}'}, {}, ("one",)),
        ({"0.json": '{"captions": []}'}, {}, ()),
        ({"0.txt": " \n"}, {}, ()),
        ({"0.txt": "one", "0.json": '{"title": "a", "captions": ["b"]}'}, {"caption_key": "title"}, ("a",)),
        ({"0.txt": "one", "0.json": '{"captions": ["b"]}'}, {"caption_key": "title"}, ()),
        ({"0.txt": "one", "0.json": '{"captions": ["b"]}'}, {"caption_key": "txt"}, ("one",)),
        ({"0.txt": "one", "0.alt.txt": "other"}, {"caption_key": "alt.txt"}, ("other",)),
    ],
)
def test_captions_come_from_json_then_text_or_where_the_key_says(source_of, files, data, captions):
    record = source_of({"0.jpg": b"picture", **files}, **data)[0]
    assert record.captions == captions
    assert record.image == b"picture" and record.key.endswith("a.tar/0")


@pytest.mark.parametrize("extension", ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "PNG"])
def test_pictures_have_the_usual_extensions(source_of, extension):
    assert source_of({f"0.{extension}": b"picture", "0.txt": "one"})[0].image == b"picture"


def test_image_key_names_the_picture(source_of):
    source = source_of({"0.jpg": b"small", "0.full.jpg": b"large", "0.txt": "one"}, image_key="full.jpg")
    assert source[0].image == b"large"


def test_samples_without_a_part_are_counted_and_named(source_of):
    source = source_of({"0.jpg": "", "0.txt": "", "1.jpg": "", "2.txt": "", "README.md": ""})
    assert len(source) == 1 and source.dropped.count == 3
    assert [name.split("/")[-1] for name in source.dropped.names] == [
        "1: no caption beside .jpg",
        "2: no picture beside .txt",
        "README: no picture beside .md",
    ]


def test_a_source_survives_pickling_and_holds_no_open_file(source_of):
    source = source_of({"0.jpg": b"picture", "0.txt": "one"})
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    assert pickle.loads(pickle.dumps(source))[0] == source[0]
    assert before == (os.listdir("/proc/self/fd") if before else [])


def test_a_shard_that_shrinks_while_in_use_is_a_bad_record(source_of):
    source = source_of({"0.jpg": b"picture", "0.txt": "one"})
    os.truncate(source.path, 600)
    with pytest.raises(RecordError, match="0 of 3 bytes are there"):
        source[0]


def test_a_shard_that_vanishes_while_in_use_gives_bad_records(source_of):
    source = source_of({"0.jpg": b"picture", "0.txt": "one"})
    os.unlink(source.path)
    with pytest.raises(RecordError, match="/0: .*No such file"):
        source[0]


def test_a_key_of_a_mile_is_cut_where_it_only_names(source_of):
    source = source_of({"k" * 5000 + ".jpg": b"picture", "k" * 5000 + ".txt": json.dumps("one")})
    assert len(source[0].key) < 1000


def test_shards_keep_their_order_and_a_bad_one_is_named(tmp_path, write_tar):
    paths = [write_tar(tmp_path / f"{i}.tar", {f"{i}.jpg": "", f"{i}.txt": "x"}) for i in range(20)]
    assert [source.path for source in open_tars(paths, DataConfig())] == [str(path) for path in paths]
    paths[7].write_bytes(b"")
    with pytest.raises(UserError, match="7.tar: found an empty file"):
        open_tars(paths, DataConfig())
