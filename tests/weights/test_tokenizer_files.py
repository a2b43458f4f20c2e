import json
import shutil

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from clipjax import text
from clipjax.errors import UserError
from clipjax.weights import tokenizer_files

TEXTS = (
    "Hello World!",
    "a photo of a cat",
    "I'm sure they'd've said: DON'T",
    "2024-01-15 100%",
    "日本語の テキスト",
    "",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer_files.write(folder, 77)
    return folder


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy")


def test_what_is_written_is_recognised(written):
    assert tokenizer_files.check(written) == ()
    assert {path.name for path in written.iterdir()} == {
        "vocab.json",
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    }


def test_a_folder_without_any_is_noted(tmp_path):
    assert tokenizer_files.check(tmp_path) == ("no tokenizer files: CLIP's own tokenizer is used",)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer.json"])
def test_one_of_the_files_is_enough(name, written, tmp_path):
    shutil.copy(written / name, tmp_path)
    assert tokenizer_files.check(tmp_path) == ()


def test_the_tokenizers_library_gives_the_releases_ids(written):
    tokenizer = Tokenizer.from_file(str(written / "tokenizer.json"))
    for caption in TEXTS:
        assert tokenizer.encode(caption).ids == [text.START, *text.encode(caption), text.END]
    assert tokenizer.encode("<|endoftext|>").ids == [text.START, text.END, text.END]


def test_vocabulary_and_merges_alone_give_the_same_ids(written):
    model = BPE.from_file(str(written / "vocab.json"), str(written / "merges.txt"), end_of_word_suffix="</w>")
    assert [token.id for token in model.tokenize("supercalifragilistic")] == text.encode("supercalifragilistic")


def test_files_with_windows_line_ends_are_recognised(copy):
    merges = (copy / "merges.txt").read_bytes()
    (copy / "merges.txt").write_bytes(merges.replace(b"\n", b"\r\n"))
    assert tokenizer_files.check(copy) == ()


def test_merges_written_as_one_text_are_recognised(copy):
    whole = json.loads((copy / "tokenizer.json").read_text())
    whole["model"]["merges"] = [" ".join(pair) for pair in whole["model"]["merges"]]  # tokenizers before 0.20
    (copy / "tokenizer.json").write_text(json.dumps(whole))
    assert tokenizer_files.check(copy) == ()


def _swap(merges):
    lines = merges.split("\n")
    return "\n".join([*lines[:9], lines[10], lines[9], *lines[11:]])


@pytest.mark.parametrize(
    "name, change, reason",
    [
        ("vocab.json", lambda old: '{"a": 0}', "its vocabulary is 1 entries, CLIP's 49408"),
        ("vocab.json", lambda old: old.replace('"!</w>"', '"!!!</w>/"'), "of the same number, not of the same symbols"),
        ("merges.txt", lambda old: "#version: 0.2\ni n\n", "1 merges, CLIP has 48894; merge 1 is the first other"),
        ("merges.txt", _swap, "48894 merges, CLIP has 48894; merge 8 is the first other"),
        ("merges.txt", lambda old: "\ud800", "cannot be read"),
        ("tokenizer.json", lambda old: '{"model": {"vocab": 3}}', "its vocabulary is 3"),
        ("tokenizer.json", lambda old: old.replace('"merges"', '"merged"'), "merges are NoneType, a list expected"),
        ("tokenizer_config.json", lambda old: '{"tokenizer_class": "BertTokenizer"}', "tokenizer_class is 'BertTok"),
        ("vocab.txt", lambda old: "", "a tokenizer other than CLIP's"),
    ],
)
def test_another_tokenizer_is_refused(name, change, reason, copy):
    old = (copy / name).read_text() if (copy / name).exists() else ""
    (copy / name).write_bytes(change(old).encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=rf"{name}: .*{reason}") as caught:
        tokenizer_files.check(copy)
    assert "\n" not in str(caught.value)
