import fnmatch
import pathlib
import shutil
import sys

import huggingface_hub
import pytest
from huggingface_hub import errors

from clipjax import weights
from clipjax.errors import UserError
from clipjax.weights import hub

FOLDER = pathlib.Path(__file__).parents[1] / "fixtures/huggingface"


class Repository:
    """Stands for the Hub: `snapshot_download` copies the files that match from `files` to a cache."""

    def __init__(self, cache, files):
        self.cache, self.files, self.asked = cache, files, []

    def snapshot_download(self, name, *, revision=None, allow_patterns):
        self.asked.append((name, revision))
        self.cache.mkdir(exist_ok=True)
        for path in self.files.iterdir():
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, self.cache)
        return str(self.cache)


@pytest.fixture
def online(tmp_path, monkeypatch):
    """A repository that holds what the test puts into its folder `files`."""
    (tmp_path / "files").mkdir()
    repository = Repository(tmp_path / "cache", tmp_path / "files")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", repository.snapshot_download)
    return repository


def _put(repository, *names):
    for name in names:
        (repository.files / name).write_bytes(b"")


def test_a_model_is_fetched_and_read(online):
    for path in FOLDER.iterdir():
        shutil.copy(path, online.files)
    found = weights.read("hf:owner/name@v1.0")
    assert found.name == "hf:owner/name@v1.0" and found.format == "huggingface"
    assert set(online.asked) == {("owner/name", "v1.0")}
    assert {path.name for path in online.cache.iterdir()} == {
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
    }


@pytest.mark.parametrize(
    "files, fetched",
    [
        (("model-00001-of-00002.safetensors", "model.safetensors.index.json"), True),
        # as timm's repositories of open_clip's weights: model.safetensors is an image tower there
        (("open_clip_config.json", "open_clip_model.safetensors", "model.safetensors"), False),
        (("open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"), False),
        (("open_clip_config.json", "open_clip_pytorch_model.bin", "pytorch_model.bin"), False),
        (("pytorch_model.bin", "flax_model.msgpack", "tf_model.h5"), False),
        (("flax_model.msgpack", "README.md", "model.onnx"), False),
    ],
)
def test_one_set_of_weights_is_fetched_and_nothing_that_is_not_read(files, fetched, online):
    _put(online, *files)
    hub.fetch("hf:owner/name")
    there = {path.name for path in online.cache.iterdir()}
    configs = {name for name in files if name in ("open_clip_config.json",)}
    assert there == set(files) if fetched else there == configs | {files[len(configs)]}


def test_a_repository_without_weights_is_refused(online):
    _put(online, "config.json", "tf_model.h5")
    with pytest.raises(
        UserError, match="hf:owner/name: has no weights that can be read .looked for open_clip_model.safetensors,"
    ):
        hub.fetch("hf:owner/name")


@pytest.mark.parametrize("name", ["hf:", "hf:name", "hf:a/b/c", "hf:../x/y", "hf:a b/c", "hf:a/b@", "hf:a/b@c@d"])
def test_a_malformed_name_is_refused(name):
    with pytest.raises(UserError, match="not a model on the Hub. Write hf:owner/name"):
        hub.fetch(name)


def _response(kind, message):
    error = kind.__new__(kind)
    error.args = (message,)
    return error


@pytest.mark.parametrize(
    "error, reason",
    [
        (_response(errors.RepositoryNotFoundError, "404\nlong"), "no such model, or one that you may not see"),
        (_response(errors.GatedRepoError, "403"), "its owner must grant you access"),
        (_response(errors.RevisionNotFoundError, "404"), "it has no such revision"),
        (errors.LocalEntryNotFoundError("no cache"), "it cannot be reached and is not in the local cache"),
        (errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set"),
        (ConnectionResetError("reset"), "the Hub cannot be reached"),
        (OSError(28, "No space left on device"), "cannot be fetched .OSError: .*No space left on device"),
        (errors.HFValidationError("Repo id must\nbe"), "cannot be fetched .HFValidationError: Repo id must"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(error, reason, monkeypatch):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match=f"^hf:owner/name: {reason}") as caught:
        hub.fetch("hf:owner/name")
    assert "\n" not in str(caught.value)


def test_without_the_library_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"needs huggingface_hub. Install it with `pip install clipjax\[hub\]`"):
        hub.fetch("hf:owner/name")
