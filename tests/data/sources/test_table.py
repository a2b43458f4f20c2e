import csv
import json
import pickle

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from clipjax.config import DataConfig
from clipjax.data.sources import table as module
from clipjax.data.sources.record import RecordError
from clipjax.data.sources.table import TableSource
from clipjax.errors import UserError

ROWS = [("a.jpg", "a dog"), ("sub/b.jpg", 'say "cat", é'), ("a.jpg", "second"), ("c.jpg", "two\nlines")]
RECORDS = [("a.jpg", ("a dog", "second")), ("sub/b.jpg", ('say "cat", é',)), ("c.jpg", ("two\nlines",))]


def write(path, rows, names=("image", "caption")):
    """Rows of (image, caption) as a table of the form that the path ends with."""
    if path.suffix in (".csv", ".tsv"):
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([names, *rows])
    elif path.suffix == ".parquet":
        columns = zip(*rows, strict=True)
        parquet.write_table(pa.table(dict(zip(names, map(list, columns), strict=True))), path)
    else:
        path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    return str(path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ["a.jpg", "sub/b.jpg", "c.jpg"]:
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "ndjson", "parquet"])
def test_every_form_gives_the_same_records(folder, form):
    source = TableSource(write(folder / f"t.{form}", ROWS), DataConfig())
    found = [source[i] for i in range(len(source))]
    assert [(record.image.decode(), record.captions) for record in found] == RECORDS
    assert found[1].key == str(folder / "sub/b.jpg")
    assert pickle.loads(pickle.dumps(source))[1] == found[1]


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_records_do_not_depend_on_how_rows_are_grouped(folder, monkeypatch, chunk):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    source = TableSource(write(folder / "t.parquet", ROWS), DataConfig())
    assert [(source[i].image.decode(), source[i].captions) for i in range(3)] == RECORDS


@pytest.mark.parametrize("names", [("filepath", "title"), ("file_name", "captions"), ("path", "text")])
def test_usual_column_names_are_known(folder, names):
    assert len(TableSource(write(folder / "t.csv", ROWS, names), DataConfig())) == 3


def test_other_columns_are_named_by_the_config(folder):
    path = write(folder / "t.csv", [("x", *row, "y") for row in ROWS], ("image", "photo", "alt", "caption"))
    source = TableSource(path, DataConfig(image_key="photo", caption_key="alt"))
    assert source[0].captions == ("a dog", "second")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_cell_may_hold_several_captions(folder, form):
    path = write(folder / f"t.{form}", [("a.jpg", ["one", "two"]), ("c.jpg", ["three"])], ("image", "captions"))
    assert TableSource(path, DataConfig())[0].captions == ("one", "two")


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_a_csv_may_use_another_delimiter(folder, delimiter):
    path = folder / "t.csv"
    path.write_text(delimiter.join(["image", "caption"]) + "\n" + delimiter.join(["a.jpg", "a dog, running"]))
    assert TableSource(str(path), DataConfig())[0].captions == ("a dog, running",)


def test_rows_without_a_part_are_counted_and_named(folder):
    path = folder / "t.csv"
    path.write_text("image,caption\na.jpg,\n,a dog\nc.jpg\n\nc.jpg,fine\n")
    source = TableSource(str(path), DataConfig())
    assert len(source) == 1 and source.dropped.count == 3
    assert [name.split(", ")[1] for name in source.dropped.names] == [
        "row 2: no caption",
        "row 3: no picture",
        "row 4: no caption",
    ]


def test_broken_lines_of_jsonl_are_dropped(folder):
    path = folder / "t.jsonl"
    path.write_text('{"image": "a.jpg", "caption": "one"}\n{broken\n[]\n{"image": 3, "caption": "x"}\n')
    source = TableSource(str(path), DataConfig())
    assert len(source) == 1 and source.dropped.count == 3


@pytest.mark.parametrize("name", ["absent.jpg", "sub", "a\0.jpg"])
def test_a_picture_that_is_not_there_is_a_bad_record(folder, name):
    with pytest.raises(RecordError):
        TableSource(write(folder / "t.jsonl", [(name, "x")]), DataConfig())[0]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.csv", b"", "no column named image or filepath or file_name or path; its first row names none"),
        ("t.csv", b"a,b\n1,2\n", "its first row names a, b. Set data.image_key"),
        ("t.csv", b"image,b\n1,2\n", "no column named caption or captions or title or text.*Set data.caption_key"),
        ("t.csv", b'image,caption\n"' + b"x" * 200_000, "line .*: field larger than field limit.*quotation mark"),
        ("t.jsonl", b'{"a": 1}', "its first row names a. Set data.image_key"),
        ("t.parquet", b"hello", "found no Parquet file"),
        ("t.csv", b"image,caption\nhttp://x/a.jpg,a dog\n", "is an address. Fetch the pictures first"),
    ],
)
def test_a_table_that_is_none_says_why(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: .*{message}"):
        TableSource(str(folder / name), DataConfig())


def test_a_parquet_with_damaged_data_is_one_line(folder):
    path = write(folder / "t.parquet", [(f"{number}.jpg", f"caption {number} " * 50) for number in range(2000)])
    content = bytearray((folder / "t.parquet").read_bytes())
    content[1000:3000] = bytes(2000)
    (folder / "t.parquet").write_bytes(content)
    with pytest.raises(UserError, match="t.parquet: .*(cannot be read|found no Parquet file)"):
        TableSource(path, DataConfig())


def test_pictures_inside_a_parquet_are_refused_by_name(folder):
    path = write(folder / "t.parquet", [({"bytes": b"x"}, "a dog")])
    with pytest.raises(UserError, match="column 'image' holds struct<bytes: binary>, expected paths"):
        TableSource(path, DataConfig())


@given(st.binary(max_size=200), st.sampled_from(["t.csv", "t.tsv", "t.jsonl", "t.parquet"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_records_or_a_user_error(folder, content, name):
    start = (
        b"" if name == "t.parquet" else b'{"image": "a", "caption": "b"}\n' if name == "t.jsonl" else b"image,caption\n"
    )
    (folder / name).write_bytes(start + content)
    try:
        TableSource(str(folder / name), DataConfig())
    except UserError as error:
        assert name in str(error)
