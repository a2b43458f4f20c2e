import json
import tarfile

import pytest

from clipjax.data import demo
from clipjax.data.demo import COMBINATIONS, held_out_combinations, prepare_demo
from clipjax.data.demo_shapes import COLORS, SHAPES
from clipjax.errors import UserError

SMALL = {"pairs": 72, "tests": 36}


def read(path):
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "set"
    return out, prepare_demo(out, **SMALL)


def test_the_same_seed_gives_the_same_bytes(made, tmp_path):
    prepare_demo(tmp_path / "again", **SMALL)
    assert contents(tmp_path / "again") == contents(made[0])


def test_another_seed_gives_other_pictures_and_other_held_out_combinations(made, tmp_path):
    summary = prepare_demo(tmp_path / "other", seed=1, **SMALL)
    assert summary["held_out"] != made[1]["held_out"]
    assert contents(tmp_path / "other")["train/train-00000.tar"] != contents(made[0])["train/train-00000.tar"]


@pytest.mark.parametrize("seed", range(20))
def test_every_color_and_shape_stays_in_training(seed):
    held_out = held_out_combinations(seed)
    assert len(set(held_out)) == len(held_out) == len(COLORS) and set(held_out) < set(COMBINATIONS)
    assert all(sum(color == c for c, _ in held_out) == 1 for color in COLORS)
    assert all(sum(shape == s for _, s in held_out) in (1, 2) for shape in SHAPES)


def test_training_never_names_a_held_out_combination_but_every_other(made):
    out, summary = made
    held_out = {tuple(name.split()) for name in summary["held_out"]}
    named = set()
    for name, content in read(out / "train" / "train-00000.tar").items():
        texts = json.loads(content)["captions"] if name.endswith(".json") else []
        for text in texts:
            words = text.replace(",", "").replace("crosses", "cross").split()
            (color,) = set(words) & set(COLORS)
            (shape,) = {w.removesuffix("s") if w != "cross" else w for w in words} & set(SHAPES)
            named.add((color, shape))
    assert named == set(COMBINATIONS) - held_out


def test_training_shards_hold_pictures_with_captions(made):
    members = read(made[0] / "train" / "train-00000.tar")
    assert len(members) == 3 * SMALL["pairs"]
    for key in {name.split(".")[0] for name in members}:
        assert members[f"{key}.png"].startswith(b"\x89PNG")
        assert json.loads(members[f"{key}.json"])["captions"][0] == members[f"{key}.txt"].decode()


def test_the_pairs_are_divided_over_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_PAIRS_PER_SHARD", 5)
    prepare_demo(tmp_path / "set", pairs=12, tests=12)
    shards = sorted((tmp_path / "set" / "train").iterdir())
    assert [s.name for s in shards] == [f"train-0000{i}.tar" for i in range(3)]
    assert [len(read(s)) // 3 for s in shards] == [5, 5, 2]


def test_zeroshot_shows_only_held_out_combinations_among_all_candidates(made):
    out, summary = made
    names = (out / "zeroshot" / "classnames.txt").read_text().splitlines()
    assert names == [" ".join(c) for c in COMBINATIONS]
    assert all("{c}" in t for t in (out / "zeroshot/zeroshot_classification_templates.txt").read_text().splitlines())
    assert (out / "zeroshot" / "test" / "nshards.txt").read_text().strip() == "1"
    members = read(out / "zeroshot" / "test" / "0.tar")
    assert {names[int(c)] for n, c in members.items() if n.endswith(".cls")} == set(summary["held_out"])
    assert sum(n.endswith(".png") for n in members) == SMALL["tests"]


def test_retrieval_captions_are_all_different(made):
    folder = made[0] / "retrieval"
    assert (folder / "dataset_type.txt").read_text().strip() == "retrieval"
    assert (folder / "test" / "nshards.txt").read_text().strip() == "1"
    texts = [c for n, c in read(folder / "test" / "0.tar").items() if n.endswith(".txt")]
    assert len(texts) == len(set(texts)) == SMALL["tests"] // 3


def test_a_complete_set_is_left_alone(made):
    before = {p: p.stat().st_mtime_ns for p in made[0].rglob("*")}
    assert prepare_demo(made[0], **SMALL) == made[1]
    assert {p: p.stat().st_mtime_ns for p in made[0].rglob("*")} == before


def test_a_set_made_otherwise_or_damaged_is_refused(tmp_path):
    out = tmp_path / "set"
    prepare_demo(out, pairs=12, tests=12)
    with pytest.raises(UserError, match="holds a demo set made with"):
        prepare_demo(out, seed=5, pairs=12, tests=12)
    (out / "train" / "train-00000.tar").write_bytes(b"")
    with pytest.raises(UserError, match="train-00000.tar is missing or changed"):
        prepare_demo(out, pairs=12, tests=12)


def test_a_foreign_folder_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="in use and holds no demo set"):
        prepare_demo(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_nothing_is_left_behind_when_drawing_breaks(tmp_path, monkeypatch):
    def broken(*args):
        raise RuntimeError("disk full")

    monkeypatch.setattr(demo, "_write_retrieval", broken)
    with pytest.raises(RuntimeError):
        prepare_demo(tmp_path / "set", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "set").mkdir()
    prepare_demo(tmp_path / "set", pairs=12, tests=12)
    assert (tmp_path / "set" / "summary.json").is_file()


def test_a_folder_that_cannot_be_written_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        prepare_demo(tmp_path / "file" / "set")
