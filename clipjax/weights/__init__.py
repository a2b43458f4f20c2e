"""Weights of other programs, in and out: each format one file, all through one `{our path: array}` table.

A format's module has `read(path, activation) -> Weights` and `write(path, weights)`, which makes the new file or folder
at `path`. No reader executes anything that stands in a file.
"""

import contextlib
import importlib
import os
import pathlib
import shutil
from typing import NamedTuple

import numpy as np

from clipjax.config import ModelConfig, TextConfig
from clipjax.data.files import local_path
from clipjax.errors import UserError
from clipjax.progress import say

FORMATS = ("openai", "open_clip", "huggingface", "flax")
PROGRAMS = ("onnx", "stablehlo")  # written only: their modules have `programs(path)` in the place of `read`

_OPEN_CLIP_CONFIG = "open_clip_config.json"
_FOLDER_FILES = {  # what stands in a folder of each format; the first that is there decides
    "clipjax_flax.msgpack": "flax",
    "open_clip_model.safetensors": "open_clip",
    "open_clip_pytorch_model.safetensors": "open_clip",
    "open_clip_pytorch_model.bin": "open_clip",
    "open_clip_pytorch_model.pth": "open_clip",
    **{
        f"{name}{index}": "huggingface"
        for name in ("model.safetensors", "pytorch_model.bin", "flax_model.msgpack")
        for index in ("", ".index.json")
    },
    _OPEN_CLIP_CONFIG: "open_clip",
}


class Weights(NamedTuple):
    """A model that came from a file, or is to become one."""

    arrays: dict[str, np.ndarray]  # our path, one entry a layer: float32; running averages included
    model: ModelConfig  # complete: sizes, activation, preprocessing, end token
    name: str
    notes: tuple[str, ...]  # what was assumed, one line each
    format: str


def is_foreign(source: str | os.PathLike) -> bool:
    """Whether `source` is a file or folder of one of the formats here, or `hf:owner/name`; opens nothing."""
    path = pathlib.Path(source)
    return str(source).startswith("hf:") or path.is_file() or _folder_format(path) is not None


def read(source: str | os.PathLike, *, activation: str | None = None) -> Weights:
    """The model in a file or folder of another program, or in `hf:owner/name[@revision]`.

    `activation` ("quick_gelu" or "gelu") settles what a bare file cannot say. Raises UserError, one line, for anything
    that is not a CLIP of a known format, is damaged, or disagrees with `activation`.
    """
    if activation not in (None, "quick_gelu", "gelu"):
        raise UserError(f"activation: {activation!r} found, 'quick_gelu' or 'gelu' expected.")
    path = pathlib.Path(source)
    if str(source).startswith("hf:"):
        path = _module("hub").fetch(str(source))
    if path.is_dir():
        format = _folder_format(path)
    else:
        format = _file_format(path)
    if format is None:
        names = ", ".join(_FOLDER_FILES)
        raise UserError(f"{path}: no CLIP weights found. Give a weights file, or a folder with one of {names}.")
    try:
        weights = _module(format).read(path, activation)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from None
    return weights._replace(name=str(source), notes=weights.notes + _vocabulary_note(weights.model))


def write(format: str, destination: str | os.PathLike, weights: Weights) -> None:
    """Write the model in a format: a file for `openai`, a folder for the others, whole or not at all.

    Raises UserError where something stands at `destination` already, and for a model that the format cannot hold.
    """
    if format not in FORMATS + PROGRAMS:
        raise UserError(f"format: {format!r} found, one of {', '.join(FORMATS + PROGRAMS)} expected.")
    if "logit_bias" in weights.arrays and format != "open_clip":
        say(f"{format} holds no logit_bias: it is left out, which changes no feature, similarity or class")
        kept = {path: array for path, array in weights.arrays.items() if path != "logit_bias"}
        weights = weights._replace(arrays=kept)
    path = local_path(destination).absolute()
    if path.exists() and not (path.is_dir() and format != "openai" and not any(path.iterdir())):
        raise UserError(f"{destination}: is there already. Give a new name.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _module(format).write(temporary, weights)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{destination}: cannot be written ({error.strerror or error}).") from None
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink()


def programs(format: str, path: pathlib.Path):
    """The (image, text) functions of a folder that `write` made in one of PROGRAMS: rows in, features [n, E] out."""
    return _module(format).programs(path)


def _vocabulary_note(model: ModelConfig) -> tuple[str, ...]:
    size, own = model.text.vocab_size, TextConfig().vocab_size
    if size == own:
        return ()
    meaning = "give token ids, not texts" if size < own else "the ids beyond are in no text"
    return (f"a vocabulary of {size}, CLIP's tokenizer has {own}: {meaning}",)


def _module(name: str):
    return importlib.import_module(f"clipjax.weights.{name}")


def _folder_format(path: pathlib.Path) -> str | None:
    """The format of a folder. LAION's models come with both configs, so that the weights decide."""
    if (path / _OPEN_CLIP_CONFIG).is_file() and not (path / "config.json").is_file():
        return "open_clip"
    return next((format for name, format in _FOLDER_FILES.items() if (path / name).is_file()), None)


def _file_format(path: pathlib.Path) -> str:
    """The format of one file: by the folder it stands in if that says, or a bare file in the release's names."""
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder.")
    if path.suffix == ".msgpack":
        return "huggingface" if path.name == "flax_model.msgpack" else "flax"
    found = _folder_format(path.parent) if path.name in _FOLDER_FILES else None
    if found == "huggingface" and path.suffix != ".json" and not (path.parent / "config.json").is_file():
        return "openai"  # which knows the names inside, and says what transformers' own would need
    return found or "openai"
