"""Layouts: what is read from each, and what a wrong folder is told."""

import shutil

import pytest

from clipjax.errors import UserError
from clipjax.evaluation.datasets import DEFAULT_TEMPLATES, open_datasets


def only(folder):
    (dataset,) = open_datasets(folder)
    return dataset


def test_classification_shards(zeroshot_folder, picture):
    dataset = only(zeroshot_folder)
    assert (dataset.name, dataset.protocol, len(dataset.samples)) == ("zeroshot", "zeroshot", 12)
    assert dataset.class_names == ["red", "green", "blue", "yellow"]
    assert dataset.templates == ["a photo of a {c}.", "a {c} thing"] and not dataset.default_templates
    assert [sample.label for sample in dataset.samples] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert dataset.samples[3].read() == picture("green") and dataset.samples[3].key == "test/0.tar/c1_0"
    assert dataset.missing == []


def test_retrieval_shards(retrieval_folder):
    dataset = only(retrieval_folder)
    assert (dataset.protocol, len(dataset.samples), dataset.class_names) == ("retrieval", 25, [])
    assert dataset.samples[0].captions == ("red above red", "a picture, red and red", "red all over")


def test_class_folders(class_folder, picture):
    (class_folder / "traffic_light").mkdir()
    (class_folder / "red" / "notes.heic").write_text("?")
    (class_folder / ".git").mkdir()
    dataset = only(class_folder)
    assert dataset.class_names == ["blue", "green", "red", "traffic light"]
    assert dataset.templates == DEFAULT_TEMPLATES and dataset.default_templates
    assert [(sample.key, sample.label) for sample in dataset.samples][:3] == [
        ("blue/0.jpg", 0),
        ("blue/1.jpg", 0),
        ("green/0.jpg", 1),
    ]
    assert dataset.samples[0].read() == picture("blue", kind="JPEG")
    assert [line.split(":")[0] for line in dataset.missing] == ["red/notes.heic", "traffic_light"]


def test_class_folders_may_bring_their_own_prompts(class_folder):
    (class_folder / "zeroshot_classification_templates.txt").write_text("{c}\n\nmuch {c}\n")
    dataset = only(class_folder)
    assert dataset.templates == ["{c}", "much {c}"] and not dataset.default_templates


def test_shards_without_prompts_use_the_default(zeroshot_folder):
    (zeroshot_folder / "zeroshot_classification_templates.txt").unlink()
    dataset = only(zeroshot_folder)
    assert dataset.templates == ["a photo of a {c}."] and dataset.default_templates


def test_shards_are_found_without_a_count_in_the_order_of_their_numbers(zeroshot_folder):
    (zeroshot_folder / "test" / "nshards.txt").unlink()
    shutil.copy(zeroshot_folder / "test" / "0.tar", zeroshot_folder / "test" / "10.tar")
    names = [sample.key.split("/")[1] for sample in only(zeroshot_folder).samples]
    assert list(dict.fromkeys(names)) == ["0.tar", "1.tar", "10.tar"]


def test_samples_without_picture_label_or_caption_are_named(zeroshot_folder, retrieval_folder, write_tar, picture):
    red = picture("red")
    members = {"a.png": red, "a.cls": b"0", "b.png": red, "c.cls": b"1"}
    write_tar(zeroshot_folder / "test" / "1.tar", members)
    dataset = only(zeroshot_folder)
    assert len(dataset.samples) == 7
    assert [line.split(":")[0] for line in dataset.missing] == ["test/1.tar/b", "test/1.tar/c"]
    write_tar(
        retrieval_folder / "test" / "0.tar",
        {"a.png": red, "a.txt": b"\n x \r\n\n", "b.png": red, "b.txt": b" \n", "c.png": red, "d.txt": b"words"},
    )
    dataset = only(retrieval_folder)
    assert [sample.captions for sample in dataset.samples] == [("x",)]
    assert [line.split("tar/")[1][0] for line in dataset.missing] == ["b", "c", "d"]


def test_a_cut_shard_is_named_and_its_complete_samples_are_used(zeroshot_folder):
    shard = zeroshot_folder / "test" / "1.tar"
    shard.write_bytes(shard.read_bytes()[:3000])  # members of 1,024 bytes with their headers: the third is cut
    dataset = only(zeroshot_folder)
    assert 6 < len(dataset.samples) < 12 and dataset.missing[0].startswith("test/1.tar: ")
    shard.write_bytes(b"no tar")
    with pytest.raises(UserError, match="1.tar"):
        only(zeroshot_folder)


def test_names_are_those_of_the_folders_with_the_parent_where_two_are_the_same(class_folder, tmp_path, monkeypatch):
    for parent in ("a", "b"):
        shutil.copytree(class_folder, tmp_path / parent / "test")
    names = [d.name for d in open_datasets([class_folder, tmp_path / "a" / "test", tmp_path / "b" / "test"])]
    assert names == ["colours", "a/test", "b/test"]
    monkeypatch.chdir(class_folder)
    assert only(".").name == "colours"


def test_the_fingerprint_follows_files_and_prompts_and_the_samples_hash_does_not_depend_on_the_place(
    zeroshot_folder, tmp_path
):
    first = only(zeroshot_folder)
    moved = shutil.move(zeroshot_folder, tmp_path / "moved")
    second = only(moved)
    assert (second.samples_hash, second.prompts_hash) == (first.samples_hash, first.prompts_hash)
    (moved / "zeroshot_classification_templates.txt").write_text("{c}")
    third = only(moved)
    assert third.fingerprint != second.fingerprint and third.prompts_hash != second.prompts_hash
    assert third.samples_hash == second.samples_hash


MISTAKES = {  # what is done to a good folder → what the user reads
    "no folder": (lambda f: shutil.rmtree(f), "is no folder"),
    "nothing known": (
        lambda f: (shutil.rmtree(f), (f / "x").mkdir(parents=True)),
        "Looked for classnames.txt.*found: x/",
    ),
    "empty folder": (lambda f: (shutil.rmtree(f), f.mkdir()), "no layout that can be read.*found: -"),
    "a shard is absent": (lambda f: (f / "test" / "1.tar").unlink(), "counts 2 tars, but test/1.tar is absent"),
    "too many shards": (
        lambda f: (f / "test" / "nshards.txt").write_text("1"),
        "holds 2 tars, but nshards.txt counts 1",
    ),
    "no count": (lambda f: (f / "test" / "nshards.txt").write_text("two"), "says 'two'"),
    "no shards": (lambda f: shutil.rmtree(f / "test"), "holds no tar"),
    "label out of range": (
        lambda f: (f / "classnames.txt").write_text("a\nb\nc\n"),
        r"c3_0.cls holds class 3, .*3 classes",
    ),
    "one class": (lambda f: (f / "classnames.txt").write_text("a"), "names 1 classes"),
    "a blank class": (lambda f: (f / "classnames.txt").write_text("a\n\nb\nc\nd"), "line 2 is empty"),
    "not UTF-8": (lambda f: (f / "classnames.txt").write_bytes(b"caf\xe9\nb\nc\nd\n"), "is not UTF-8"),
    "prompt without class": (
        lambda f: (f / "zeroshot_classification_templates.txt").write_text("a photo of {}."),
        "'a photo of {}.' has no {c}",
    ),
    "another kind": (lambda f: (f / "dataset_type.txt").write_text("multilabel"), "says 'multilabel'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_folder_is_told_what_is_wrong(zeroshot_folder, name):
    spoil, message = MISTAKES[name]
    spoil(zeroshot_folder)
    with pytest.raises(UserError, match=message) as caught:
        open_datasets(zeroshot_folder)
    assert str(caught.value).startswith("data: ") and "\n" not in str(caught.value)


def test_a_label_that_is_no_number_is_named(zeroshot_folder, write_tar, picture):
    write_tar(zeroshot_folder / "test" / "1.tar", {"a.png": picture("red"), "a.cls": b"red"})
    with pytest.raises(UserError, match=r"1.tar/a.cls holds 'red'"):
        open_datasets(zeroshot_folder)


def test_nothing_to_score_names_the_first_reason(retrieval_folder, write_tar, picture):
    write_tar(retrieval_folder / "test" / "0.tar", {"a.png": picture("red"), "b.png": picture("red")})
    with pytest.raises(UserError, match=r"nothing that can be scored: test/0.tar/a: no .txt .*1 more"):
        open_datasets(retrieval_folder)


def test_one_class_folder_none_and_the_same_folder_twice(class_folder):
    with pytest.raises(UserError, match="given 2 times"):
        open_datasets([class_folder, str(class_folder) + "/"])
    with pytest.raises(UserError, match="no folder was given"):
        open_datasets([])
    shutil.rmtree(class_folder / "red")
    shutil.rmtree(class_folder / "blue")
    with pytest.raises(UserError, match="one class folder, green"):
        open_datasets(class_folder)
