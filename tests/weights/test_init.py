"""What a path is, and that a new file or folder stands there whole or not at all."""

import dataclasses
import json
import os

import numpy as np
import pytest

from clipjax import weights
from clipjax.errors import UserError
from clipjax.weights import safetensors, torch_write


@pytest.mark.parametrize(
    "name",
    [
        "open_clip_config.json",
        "model.safetensors",
        "pytorch_model.bin.index.json",
        "pytorch_model.bin",
        "open_clip_pytorch_model.bin",
    ],
)
def test_folders_of_other_programs_are_known_by_their_files(tmp_path, name):
    assert not weights.is_foreign(tmp_path) and not weights.is_foreign(tmp_path / "nothing")
    (tmp_path / name).write_text("{}")
    assert weights.is_foreign(tmp_path) and weights.is_foreign(str(tmp_path / name))


def test_a_folder_with_both_configs_is_what_its_weights_are(tmp_path):
    """LAION's models come with both, and with weights of both names; open_clip's are the ones that were trained."""
    for name in ("config.json", "open_clip_config.json", "pytorch_model.bin"):
        (tmp_path / name).write_text("{}")
    assert weights._folder_format(tmp_path) == "huggingface"
    (tmp_path / "open_clip_pytorch_model.bin").write_text("")
    assert weights._folder_format(tmp_path) == "open_clip"


def test_a_checkpoint_of_ours_is_not_foreign(tmp_path):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    assert not weights.is_foreign(tmp_path) and weights.is_foreign("hf:owner/name")


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="none.pt: no such file or folder"):
        weights.read(tmp_path / "none.pt")
    with pytest.raises(UserError, match="no CLIP weights found. Give .* open_clip_config.json"):
        weights.read(tmp_path)
    with pytest.raises(UserError, match="activation: 'relu' found, 'quick_gelu' or 'gelu' expected"):
        weights.read(tmp_path, activation="relu")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"PK")
    (tmp_path / "a.pt").chmod(0)
    with pytest.raises(UserError, match="a.pt: cannot be read"):
        weights.read(tmp_path / "a.pt")


def test_the_kind_of_a_bare_file_is_told_from_its_bytes(tmp_path, release, foreign):
    safetensors.write(tmp_path / "a.bin", release("vit"))
    torch_write.write(tmp_path / "b.safetensors", release("vit"))
    for name in ("a.bin", "b.safetensors"):
        found = weights.read(tmp_path / name, activation="quick_gelu")
        assert found.model == foreign("vit").model and found.name == str(tmp_path / name)
        assert all(np.array_equal(found.arrays[path], x) for path, x in foreign("vit").arrays.items())


def test_a_bare_file_that_is_named_like_one_of_transformers_is_told_from_the_names_in_it(tmp_path, release, foreign):
    """A folder of them would have config.json beside it."""
    safetensors.write(tmp_path / "model.safetensors", release("vit"))
    found = weights.read(tmp_path / "model.safetensors", activation="quick_gelu")
    assert found.model == foreign("vit").model
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="config.json"):
        weights.read(tmp_path / "model.safetensors", activation="quick_gelu")


def test_a_vocabulary_that_the_tokenizer_does_not_have_is_said(tmp_path, foreign):
    weights.write("openai", tmp_path / "a.pt", foreign("vit"))
    assert any(
        "a vocabulary of 100, CLIP's tokenizer has 49408" in note for note in weights.read(tmp_path / "a.pt").notes
    )


@pytest.mark.parametrize("format", ["openai", "open_clip"])
def test_texts_end_at_clip_s_token_where_the_vocabulary_was_made_longer(tmp_path, foreign, format):
    """Rows of the embedding are filled up to round numbers; the tokenizer's largest id stays what ends a text."""
    small = foreign("vit")
    words = dataclasses.replace(small.model.text, vocab_size=49472, end_token=49407)
    key = "text/token_embedding"
    rows = np.resize(small.arrays[key], (49472, words.width))
    longer = small._replace(
        model=dataclasses.replace(small.model, text=words), arrays={**small.arrays, key: rows}, notes=()
    )
    weights.write(format, tmp_path / "a", longer)
    found = weights.read(tmp_path / "a")
    assert found.model.text == words
    assert "a vocabulary of 49472, CLIP's tokenizer has 49408: the ids beyond are in no text" in found.notes


@pytest.mark.parametrize("format", ["openai", "open_clip"])
def test_the_same_model_gives_the_same_bytes(tmp_path, foreign, format):
    files = []
    for name in ("a", "b"):
        weights.write(format, tmp_path / name, foreign("resnet"))
        path = tmp_path / name
        files.append([file.read_bytes() for file in sorted(path.iterdir())] if path.is_dir() else [path.read_bytes()])
    assert files[0] == files[1]


def test_what_stands_there_already_stays(tmp_path, foreign):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    (tmp_path / "empty").mkdir()
    for format, name in (("openai", "file"), ("open_clip", "file"), ("open_clip", "full"), ("openai", "empty")):
        with pytest.raises(UserError, match="is there already"):
            weights.write(format, tmp_path / name, foreign("vit"))
    weights.write("open_clip", tmp_path / "empty", foreign("vit"))
    assert json.loads((tmp_path / "empty" / "open_clip_config.json").read_text())["model_cfg"]["embed_dim"] == 8
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "file").read_text() == "kept"


@pytest.mark.parametrize("format, module", [("openai", torch_write), ("open_clip", safetensors)])
def test_nothing_is_left_half_written(tmp_path, foreign, monkeypatch, format, module):
    def full(path, tensors):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write", full)
    with pytest.raises(UserError, match="new: cannot be written .No space left on device"):
        weights.write(format, tmp_path / "new", foreign("vit"))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, foreign):
    (tmp_path / "file").write_text("kept")
    for format in ("openai", "open_clip"):
        with pytest.raises(UserError, match="file/new: cannot be written .(File exists|Not a directory)"):
            weights.write(format, tmp_path / "file/new", foreign("vit"))


def test_an_address_is_refused(foreign):
    with pytest.raises(UserError, match="s3://bucket/out: an address"):
        weights.write("openai", "s3://bucket/out", foreign("vit"))


def test_an_unknown_format_is_refused(tmp_path, foreign):
    with pytest.raises(
        UserError, match="format: 'tensorflow' found, one of openai, open_clip, huggingface, flax, .* expected"
    ):
        weights.write("tensorflow", tmp_path / "new", foreign("vit"))


def test_importing_the_room_imports_no_format():
    import subprocess
    import sys

    code = (
        "import sys, clipjax.weights; print([name for name in ('jax', 'safetensors', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
