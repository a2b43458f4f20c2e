"""`embed`: the same rows from every form of source, and the same bytes whether or not it was stopped."""

import csv
import json

import fsspec
import numpy as np
import pytest

from clipjax.errors import UserError
from clipjax.evaluation import export as module
from clipjax.evaluation import stored
from clipjax.evaluation.export import export
from clipjax.images.decode import decode

PAIRS = [("red", "green"), ("blue", "white"), ("black", "red"), ("yellow", "yellow"), ("green", "blue")]
CAPTIONS = [[f"{upper} above {lower}", "a picture"] for upper, lower in PAIRS]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(module, "_PART", 2)


@pytest.fixture
def contents(picture):
    return [picture(*pair) for pair in PAIRS]


@pytest.fixture
def folder(tmp_path, contents):
    """Five pictures in two folders and what is not to be read beside them."""
    for number, content in enumerate(contents):
        path = tmp_path / "photos" / ("a" if number < 3 else "b/c") / f"{number}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "photos" / "notes.md").write_text("not a picture")
    (tmp_path / "photos" / ".hidden.png").write_bytes(contents[0])
    return tmp_path / "photos"


@pytest.fixture
def tar(tmp_path, contents, write_tar):
    """The same five with their captions in a tar, a sixth without any."""
    members = {}
    for number, (content, captions) in enumerate(zip(contents, CAPTIONS, strict=True)):
        members |= {f"{number}.png": content, f"{number}.txt": "\n".join(captions).encode()}
    return write_tar(tmp_path / "tars" / "x.tar", members | {"5.png": contents[0]})


@pytest.fixture
def table(tmp_path, folder):
    with open(tmp_path / "photos.csv", "w", newline="") as file:
        names = sorted(str(path.relative_to(tmp_path)) for path in folder.rglob("[0-9].PNG"))
        csv.writer(file).writerows([("path", "note"), *((name, "x") for name in names)])
    return tmp_path / "photos.csv"


def expected(bundle, contents):
    return bundle.encode_pixels(np.stack([bundle.preprocess(decode(content, "x")) for content in contents]))


@pytest.mark.parametrize("form", ["npz", "parquet"])
@pytest.mark.parametrize(
    ("source", "keys"),
    [
        ("folder", ["a/0.PNG", "a/1.PNG", "a/2.PNG", "b/c/3.PNG", "b/c/4.PNG"]),
        ("table", ["photos/a/0.PNG", "photos/a/1.PNG", "photos/a/2.PNG", "photos/b/c/3.PNG", "photos/b/c/4.PNG"]),
        ("tar", ["x.tar/0", "x.tar/1", "x.tar/2", "x.tar/3", "x.tar/4", "x.tar/5"]),
    ],
)
def test_every_source_gives_the_rows_of_its_pictures_in_order(bundle, contents, tmp_path, request, form, source, keys):
    said = export(bundle, str(request.getfixturevalue(source)), tmp_path / f"out.{form}")
    file = stored.read(tmp_path / f"out.{form}")
    np.testing.assert_array_equal(file.images, expected(bundle, [*contents, contents[0]][: len(keys)]))
    assert file.keys == keys and file.index.tolist() == list(range(len(keys)))
    assert said == file.about and said["pictures"] == len(keys) and not said["unreadable"]
    assert not (tmp_path / f"out.{form}.parts").exists()


def test_several_sources_are_one(bundle, contents, tmp_path, folder, tar):
    export(bundle, [f"{folder}/b", f"{folder}/a/*.PNG", str(tar)], tmp_path / "out.npz")
    file = stored.read(tmp_path / "out.npz")
    assert file.keys == [f"photos/{name}.PNG" for name in ("b/c/3", "b/c/4", "a/0", "a/1", "a/2")] + [
        f"tars/x.tar/{number}" for number in range(6)
    ]
    np.testing.assert_array_equal(file.images[[2, 3, 4, 0, 1]], expected(bundle, contents))


def test_captions_are_embedded_where_asked(bundle, tmp_path, tar):
    said = export(bundle, str(tar), tmp_path / "out.npz", texts=True)
    captions = [caption for group in CAPTIONS for caption in group]
    assert (said["pictures"], said["captions"]) == (6, 10)
    with np.load(tmp_path / "out.npz") as file:
        assert json.loads(file["captions.json"]) == captions
        assert file["owner"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
        np.testing.assert_array_equal(file["texts"], bundle.encode_text(captions))


def test_a_source_without_captions_is_named_where_they_are_asked(bundle, tmp_path, folder):
    with pytest.raises(UserError, match="none of the first 2 records has a caption"):
        export(bundle, str(folder), tmp_path / "out.npz", texts=True)


class Killed(BaseException):
    pass


def stop_after(bundle, monkeypatch, calls):
    """Let the bundle encode so many batches, then die."""
    encode, left = bundle.encode_pixels, [calls]

    def dying(pixels):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return encode(pixels)

    monkeypatch.setattr(bundle, "encode_pixels", dying)


@pytest.mark.parametrize("form", ["npz", "parquet"])
@pytest.mark.parametrize("calls", [0, 1, 2])
def test_stopped_and_started_again_it_goes_on_to_the_same_bytes(
    bundle, tmp_path, tar, monkeypatch, capsys, form, calls
):
    export(bundle, str(tar), tmp_path / f"whole.{form}", texts=True)
    out = tmp_path / f"out.{form}"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(bundle, patch, calls)
        export(bundle, str(tar), out, texts=True)
    assert not out.exists() and len(list((tmp_path / f"out.{form}.parts").glob("*.npz"))) == calls
    bundle.embedded.clear()
    export(bundle, str(tar), out, texts=True)
    assert [what for what, _ in bundle.embedded].count("pixels") == 3 - calls
    assert out.read_bytes() == (tmp_path / f"whole.{form}").read_bytes()
    assert (f"going on: {2 * calls} of 6" in capsys.readouterr().err) == (calls > 0)


@pytest.mark.parametrize("change", ["checkpoint", "data", "option", "none", "damage"])
def test_parts_count_only_where_nothing_changed(bundle, tmp_path, folder, contents, monkeypatch, change):
    out = tmp_path / "out.npz"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(bundle, patch, 2)
        export(bundle, str(folder), out)
    if change == "checkpoint":
        bundle.fingerprint = "e" * 64
    if change == "data":
        (folder / "b" / "c" / "4.PNG").write_bytes(contents[0])
    if change == "damage":
        (tmp_path / "out.npz.parts" / "000000.npz").write_bytes(b"")
    bundle.embedded.clear()
    export(bundle, str(folder), out, batch_size=1 if change == "option" else 64)
    assert len(bundle.embedded) == {"none": 1, "damage": 2}.get(change, 3)
    shown = [*contents[:4], contents[0 if change == "data" else 4]]
    np.testing.assert_array_equal(stored.read(out).images, expected(bundle, shown))


def test_what_is_complete_is_left_alone_and_what_changed_is_made_anew(bundle, tmp_path, folder, capsys):
    out = tmp_path / "out.npz"
    said = export(bundle, str(folder), out)
    bundle.embedded.clear()
    assert export(bundle, str(folder), out) == said
    assert bundle.embedded == [] and "is complete: nothing to do" in capsys.readouterr().err
    (folder / "a" / "0.PNG").unlink()
    assert export(bundle, str(folder), out)["pictures"] == 4
    assert len(stored.read(out).keys) == 4


def test_unreadable_pictures_are_counted_and_named(bundle, tmp_path, folder):
    (folder / "a" / "0.PNG").write_bytes(b"")
    (folder / "a" / "1.PNG").write_bytes(b"no picture")
    said = export(bundle, str(folder), tmp_path / "out.npz")
    file = stored.read(tmp_path / "out.npz")
    assert file.keys == ["a/2.PNG", "b/c/3.PNG", "b/c/4.PNG"] and file.index.tolist() == [2, 3, 4]
    assert said["pictures"] == 3 and len(said["unreadable"]) == 2
    assert "a/0.PNG: empty" in said["unreadable"][0] and "a/1.PNG: no picture" in said["unreadable"][1]


def test_a_path_of_a_table_that_leads_nowhere_is_one_unreadable_picture(bundle, tmp_path, table, folder):
    (folder / "a" / "2.PNG").unlink()
    said = export(bundle, str(table), tmp_path / "out.npz")
    assert said["pictures"] == 4 and "2.PNG: No such file" in said["unreadable"][0]


def test_a_file_name_that_is_no_text_can_be_kept(bundle, tmp_path, picture):
    (tmp_path / "odd").mkdir()
    with open(bytes(tmp_path / "odd") + b"/caf\xe9.png", "wb") as file:
        file.write(picture("red"))
    for name in ("out.npz", "out.parquet"):
        export(bundle, str(tmp_path / "odd"), tmp_path / name)
        assert stored.read(tmp_path / name).keys == ["caf?.png"]


def test_a_folder_of_shards_in_folders_stands_for_all_of_them(bundle, tmp_path, tar, write_tar, contents):
    write_tar(tmp_path / "tars" / "more" / "y.tar", {"0.png": contents[0]})
    write_tar(tmp_path / "whole" / "test" / "0.tar", {"0.png": contents[0], "0.cls": b"0"})
    write_tar(tmp_path / "whole" / "train" / "0.tar", {"0.png": contents[1], "0.cls": b"0"})
    assert export(bundle, str(tmp_path / "tars"), tmp_path / "1.npz")["pictures"] == 6
    export(bundle, str(tmp_path / "whole"), tmp_path / "2.npz")
    assert stored.read(tmp_path / "2.npz").keys == ["test/0.tar/0", "train/0.tar/0"]


@pytest.mark.parametrize(
    ("data", "out", "message"),
    [
        ("photos", "out.csv", "'.*out.csv' should end with .npz or .parquet"),
        ("photos", "mine.npz", "mine.npz is there and no file of embeddings"),
        ("none", "out.npz", "^data: no file matches"),
        ("empty", "out.npz", "^data: the folder .*empty holds no tar.* and no picture"),
        ("broken", "out.npz", "^data: none of the 1 pictures can be read: .*a.png: empty"),
        ("none://bucket/a.tar", "out.npz", "^none://bucket/a.tar: none:// is no known protocol"),
    ],
)
def test_a_mistake_is_told_in_a_line(bundle, tmp_path, folder, monkeypatch, data, out, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"")
    np.savez(tmp_path / "mine.npz", a=np.zeros(3))
    with pytest.raises(UserError, match=message) as caught:
        export(bundle, data, tmp_path / out)
    assert "\n" not in str(caught.value)


def test_an_address_and_a_folder_are_one_source(bundle, tmp_path, tar, folder, contents):
    system = fsspec.filesystem("memory")
    system.pipe("memory://photos/a.tar", tar.read_bytes())
    said = export(bundle, ["memory://photos/a.tar", str(folder)], tmp_path / "out.npz")
    system.rm("memory://photos", recursive=True)  # other tests of this process share it
    assert said["pictures"] > 2 and stored.read(tmp_path / "out.npz").keys[0].startswith("memory://photos/a.tar/")


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(bundle, tmp_path, folder, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match=r"000000.npz: cannot be written \(No space left on device\)"):
        export(bundle, str(folder), tmp_path / "out.npz")
    assert not list(tmp_path.rglob("*.tmp"))


def test_features_that_are_not_finite_are_refused(bundle, tmp_path, folder):
    bundle.encode_pixels = lambda pixels: np.full((len(pixels), 64), np.nan, np.float32)
    with pytest.raises(UserError, match="fake embeds 2 of 2 pictures as NaN"):
        export(bundle, str(folder), tmp_path / "out.npz")


def test_processes_share_the_parts_and_the_first_joins_them(bundle, tmp_path, folder, monkeypatch):
    export(bundle, str(folder), tmp_path / "whole.npz")
    out, process, made = tmp_path / "out.npz", [0], {}

    def meet(what):
        made[process[0], what] = sorted(path.name for path in tmp_path.glob("out.npz.parts/*.npz"))
        if (what, process[0]) == ("made", 0):  # the second process runs while the first waits for it
            process[0] = 1
            export(bundle, str(folder), out)
            process[0] = 0

    monkeypatch.setattr(module, "_meet", meet)
    monkeypatch.setattr(module.jax, "process_count", lambda: 2)
    monkeypatch.setattr(module.jax, "process_index", lambda: process[0])
    export(bundle, str(folder), out)
    assert made[0, "made"] == ["000000.npz", "000002.npz"]
    assert made[1, "made"] == ["000000.npz", "000001.npz", "000002.npz"]
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()
