import pickle

import pytest

from clipjax.config import DataConfig
from clipjax.data.sources import RecordError, open_source
from clipjax.data.sources.pictures import PictureSource


@pytest.fixture
def folder(tmp_path):
    for name in ["b/2.jpg", "b/1.PNG", "a/x/3.webp", "a/notes.txt", ".a/4.jpg", "a/._3.jpg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def records(spec, **data):
    source = open_source((str(spec),), DataConfig(**data), captions=False)
    return [source[i] for i in range(len(source))]


def test_a_folder_is_all_pictures_below_it_sorted(folder):
    found = records(folder)
    assert [record.image for record in found] == [b"a/x/3.webp", b"b/1.PNG", b"b/2.jpg"]
    assert [record.key for record in found] == [str(folder / record.image.decode()) for record in found]
    assert all(record.captions == () for record in found)


def test_a_glob_and_a_path_of_pictures_are_sources(folder):
    assert [record.image for record in records(f"{folder}/b/*.jpg,{folder}/b/1.PNG")] == [b"b/2.jpg", b"b/1.PNG"]


def test_a_picture_that_is_gone_is_a_record_error(folder):
    source = PictureSource([str(folder / "b/2.jpg"), "a\0b"])
    (folder / "b/2.jpg").unlink()
    with pytest.raises(RecordError, match="b/2.jpg: No such file"):
        source[0]
    with pytest.raises(RecordError):
        source[1]
    assert pickle.loads(pickle.dumps(source)).files == source.files


def test_shards_below_a_folder_come_before_pictures(folder, write_tar):
    write_tar(folder / "b" / "s.tar", {"0.jpg": b"0"})
    assert [record.image for record in records(folder)] == [b"0"]


@pytest.mark.parametrize("form", ["tar", "csv", "jsonl", "parquet"])
def test_where_captions_are_not_needed_a_picture_alone_is_a_record(tmp_path, write_tar, form):
    path = tmp_path / f"t.{form}"
    if form == "tar":
        write_tar(path, {"0.jpg": "0", "1.jpg": "1", "1.txt": "one", "2.txt": "two"})
    else:
        for name in "01":
            (tmp_path / f"{name}.jpg").write_text(name)
        write_table(path, [("0.jpg", ""), ("1.jpg", "one"), ("", "two")])
    found = records(path, max_unreadable=1.0)
    assert [(record.image, record.captions) for record in found] == [(b"0", ()), (b"1", ("one",))]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_table_needs_no_column_of_captions_then(tmp_path, form):
    (tmp_path / "0.jpg").write_text("0")
    write_table(tmp_path / f"t.{form}", [("0.jpg",)])
    assert [record.captions for record in records(tmp_path / f"t.{form}")] == [()]


def test_a_column_without_a_name_is_not_taken_for_captions(tmp_path):
    (tmp_path / "0.jpg").write_text("0")
    (tmp_path / "t.csv").write_text(",path\n17,0.jpg\n")
    assert records(tmp_path / "t.csv")[0].captions == ()


def write_table(path, rows):
    import json

    import pyarrow as pa
    from pyarrow import parquet

    names = ("image", "caption")[: len(rows[0])]
    if path.suffix == ".csv":
        path.write_text("\n".join(",".join(row) for row in [names, *rows]))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    else:
        columns = map(list, zip(*rows, strict=True))
        parquet.write_table(pa.table(dict(zip(names, columns, strict=True))), path)


def test_files_tell_what_is_read(tmp_path, write_tar, folder):
    tar = write_tar(tmp_path / "t.tar", {"0.jpg": "0"})
    write_table(tmp_path / "t.csv", [("b/2.jpg", "x")])
    for spec, files in [(tar, [tar]), (tmp_path / "t.csv", [tmp_path / "t.csv", folder / "b/2.jpg"])]:
        assert open_source((str(spec),), DataConfig(), captions=False).files == list(map(str, files))
