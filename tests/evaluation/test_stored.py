"""Files of embeddings: joined from parts, the same in both forms, refused when they are something else."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from clipjax.errors import UserError
from clipjax.evaluation import stored

SAID = {"checkpoint": "c", "fingerprint": "f", "dimensions": 3, "texts": True}
FORMS = ["f.npz", "f.parquet"]


def part(first, captions, unreadable=()):
    """A part of len(captions) pictures; captions[i] are those of picture i."""
    rng = np.random.default_rng(first)
    words = [word for group in captions for word in group]
    return stored.Part(
        images=rng.normal(size=(len(captions), 3)).astype(np.float32),
        keys=[f"folder/é{first + row}.jpg" for row in range(len(captions))],
        index=np.arange(first, first + len(captions)),
        texts=rng.normal(size=(len(words), 3)).astype(np.float32),
        captions=words,
        owner=np.repeat(np.arange(len(captions)), [len(group) for group in captions]),
        unreadable=list(unreadable),
    )


@pytest.fixture
def parts(tmp_path):
    """The second is empty: none of its pictures could be read."""
    made = [part(0, [["a", "b\n\0"], [], ["x" * 10_000]]), part(5, [], ["5: bad", "6: bad"]), part(7, [["a"]])]
    paths = [tmp_path / f"{number}.part" for number in range(len(made))]
    for path, one in zip(paths, made, strict=True):
        stored.save_part(path, one)
    return made, paths


@pytest.mark.parametrize("name", FORMS)
def test_parts_are_joined_in_order(parts, tmp_path, name):
    made, paths = parts
    said = stored.write(tmp_path / name, SAID, paths)
    file = stored.read(tmp_path / name)
    np.testing.assert_array_equal(file.images, np.concatenate([one.images for one in made]))
    assert file.images.dtype == np.float32
    assert file.keys == [key for one in made for key in one.keys]
    assert file.index.tolist() == [0, 1, 2, 7]
    assert file.about == said == stored.about(tmp_path / name)
    assert said | SAID == said
    assert (said["pictures"], said["captions"], said["unreadable"]) == (4, 4, ["5: bad", "6: bad"])


@pytest.mark.parametrize("texts", [True, False])
def test_the_npz_is_read_by_numpy_alone(parts, tmp_path, texts):
    made, paths = parts
    stored.write(tmp_path / "f.npz", SAID | {"texts": texts}, paths)
    with np.load(tmp_path / "f.npz", allow_pickle=False) as file:
        assert file["keys"].tolist() == [key for one in made for key in one.keys]
        assert ("texts" in file) == ("owner" in file) == texts
        if texts:
            np.testing.assert_array_equal(file["texts"], np.concatenate([one.texts for one in made]))
            assert file["owner"].tolist() == [0, 0, 2, 3]
            assert json.loads(file["captions.json"]) == ["a", "b\n\0", "x" * 10_000, "a"]


def test_the_parquet_holds_a_row_a_picture_with_its_captions(parts, tmp_path):
    made, paths = parts
    stored.write(tmp_path / "f.parquet", SAID, paths)
    rows = parquet.read_table(tmp_path / "f.parquet").to_pylist()
    assert [row["captions"] for row in rows] == [["a", "b\n\0"], [], ["x" * 10_000], ["a"]]
    np.testing.assert_array_equal(np.array(rows[0]["texts"], np.float32), made[0].texts[:2])
    np.testing.assert_array_equal(np.array([row["image"] for row in rows[:3]], np.float32), made[0].images)
    stored.write(tmp_path / "bare.parquet", SAID | {"texts": False}, paths)
    assert parquet.read_table(tmp_path / "bare.parquet").column_names == ["key", "index", "image"]


@pytest.mark.parametrize("name", FORMS)
def test_the_same_parts_give_the_same_bytes_and_nothing_else_stays(parts, tmp_path, name):
    for folder in ("1", "2"):
        (tmp_path / folder).mkdir()
        stored.write(tmp_path / folder / name, SAID, parts[1])
    assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert [path.name for path in (tmp_path / "2").iterdir()] == [name]


def test_a_part_that_is_damaged_or_absent_is_none(parts, tmp_path):
    path = parts[1][0]
    loaded = stored.load_part(path)
    assert loaded.keys == parts[0][0].keys and loaded.captions == parts[0][0].captions
    path.write_bytes(path.read_bytes()[:-300])
    assert stored.load_part(path) is None
    path.write_bytes(b"")
    assert stored.load_part(path) is None
    assert stored.load_part(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.npz", "no file .*none.npz. Make it with `clipjax embed`"),
        ("f.txt", r"'.*f.txt' should end with .npz or .parquet"),
        ("other.npz", "other.npz is no file of `clipjax embed`"),
        ("other.parquet", "other.parquet is no file of `clipjax embed`"),
        ("junk.npz", "junk.npz is no file of `clipjax embed`"),
        ("junk.parquet", "junk.parquet is no file of `clipjax embed`"),
        ("later.npz", "format 99, expected 1"),
    ],
)
def test_what_is_no_file_of_embeddings_is_named(parts, tmp_path, monkeypatch, name, message):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    parquet.write_table(pa.table({"key": ["a"]}), tmp_path / "other.parquet")
    for junk in ("junk.npz", "junk.parquet", "f.txt"):
        (tmp_path / junk).write_bytes(b"junk" * 9)
    with monkeypatch.context() as patch:
        patch.setattr(stored, "_FORMAT", 99)
        stored.write(tmp_path / "later.npz", SAID, parts[1])
    with pytest.raises(UserError, match=message):
        stored.read(tmp_path / name)
    if name != "f.txt":
        assert stored.about(tmp_path / name) is None
