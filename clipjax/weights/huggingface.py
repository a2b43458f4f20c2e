"""A transformers CLIPModel folder: config.json, weights in one file or in shards, preprocessor and tokenizer files."""

import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from clipjax import text
from clipjax.errors import UserError
from clipjax.weights import Weights, json_file, msgpack_file, safetensors, tokenizer_files, torch_file
from clipjax.weights.huggingface_config import (
    read_config,
    with_preprocessing,
    write_config,
    write_preprocessing,
)
from clipjax.weights.table import CONVOLUTION, SPLIT_QKV, SPLIT_QKV_BIAS, TRANSPOSED, Row, named, refuse
from clipjax.weights.table import read as read_table
from clipjax.weights.table import write as write_table

_IGNORED = r".*\.position_ids"  # buffers of older files


def _norm(path: str, key: str) -> list[Row]:
    return [Row(f"{path}/scale", f"{key}.weight"), Row(f"{path}/bias", f"{key}.bias")]


def _linear(path: str, key: str) -> list[Row]:
    return [Row(f"{path}/kernel", f"{key}.weight", TRANSPOSED), Row(f"{path}/bias", f"{key}.bias")]


def _blocks(path: str, key: str) -> list[Row]:
    qkv = [tuple(f"{key}.self_attn.{part}_proj.{kind}" for part in "qkv") for kind in ("weight", "bias")]
    return [
        *_norm(f"{path}/ln_1", f"{key}.layer_norm1"),
        Row(f"{path}/attention/qkv/kernel", qkv[0], SPLIT_QKV),
        Row(f"{path}/attention/qkv/bias", qkv[1], SPLIT_QKV_BIAS),
        *_linear(f"{path}/attention/out", f"{key}.self_attn.out_proj"),
        *_norm(f"{path}/ln_2", f"{key}.layer_norm2"),
        *_linear(f"{path}/mlp/fc", f"{key}.mlp.fc1"),
        *_linear(f"{path}/mlp/proj", f"{key}.mlp.fc2"),
    ]


TABLE = [
    Row("logit_scale", "logit_scale"),
    Row("text/token_embedding", "text_model.embeddings.token_embedding.weight"),
    Row("text/positional_embedding", "text_model.embeddings.position_embedding.weight"),
    *_blocks("text/blocks/{i}", "text_model.encoder.layers.{i}"),
    *_norm("text/ln_final", "text_model.final_layer_norm"),
    Row("text/projection/kernel", "text_projection.weight", TRANSPOSED),
    Row("image/class_embedding", "vision_model.embeddings.class_embedding"),
    Row("image/patch/kernel", "vision_model.embeddings.patch_embedding.weight", CONVOLUTION),
    Row("image/positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    *_norm("image/ln_pre", "vision_model.pre_layrnorm"),  # spelt so in transformers
    *_blocks("image/blocks/{i}", "vision_model.encoder.layers.{i}"),
    *_norm("image/ln_post", "vision_model.post_layernorm"),
    Row("image/projection/kernel", "visual_projection.weight", TRANSPOSED),
]


def read(path: pathlib.Path, activation: str | None = None) -> Weights:
    """The model of a folder, or of a weights file in one.

    Weights: model.safetensors, pytorch_model.bin or flax_model.msgpack, or the shards that `….index.json` lists.
    Raises UserError for a model that is not CLIP, for a tokenizer or preprocessing of another kind, and where the
    config's activation is not `activation`.
    """
    folder = path if path.is_dir() else path.parent
    place = folder / "config.json"
    if not place.is_file():
        raise UserError(f"{folder}: has no config.json, which says what the model is.")
    model = read_config(json_file.read(place), str(place))
    if activation not in (None, model.activation):
        raise UserError(f"{place}: hidden_act is {model.activation!r}, activation={activation!r} was asked for.")
    notes = tokenizer_files.check(folder)
    processor, where = _processor(folder)
    if processor is None:
        notes = ("no preprocessor file: CLIP's own preprocessing is used", *notes)
    else:
        model = with_preprocessing(model, processor, where)
    tensors, source = _tensors(folder, path if path.is_file() else None)
    arrays = read_table(TABLE, tensors, model, source, _IGNORED)
    return Weights(arrays, named(model), str(path), notes, "huggingface")


def write(path: pathlib.Path, weights: Weights) -> None:
    """A new folder that transformers' CLIPModel and CLIPProcessor load.

    A model with another vocabulary than CLIP's gets no tokenizer files. Raises UserError for a ResNet.
    """
    config = write_config(weights.model)
    path.mkdir()
    json_file.write(path / "config.json", config)
    json_file.write(path / "preprocessor_config.json", write_preprocessing(weights.model.image))
    if weights.model.text.vocab_size > text.END:
        tokenizer_files.write(path, weights.model.text.context_length)
    safetensors.write(path / "model.safetensors", write_table(TABLE, weights.arrays))


def _processor(folder: pathlib.Path) -> tuple[dict[str, Any] | None, str]:
    """The settings of the preprocessing and where they stand, looked for in transformers' order."""
    whole = folder / "processor_config.json"
    if whole.is_file():
        nested = json_file.section(json_file.read(whole), "image_processor", str(whole))
        if nested:
            return nested, str(whole)
    alone = folder / "preprocessor_config.json"
    return (json_file.read(alone), str(alone)) if alone.is_file() else (None, "")


def _read_flax(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Flax's modules under torch's names, in torch's layout: `a/b/kernel` [in, out] is `a.b.weight` [out, in]."""
    tensors: dict[str, np.ndarray] = {}
    for name, value in msgpack_file.read(path).items():
        head, _, last = name.rpartition("/")
        if last == "kernel":
            value = CONVOLUTION.write(value)[0] if value.ndim == 4 else value.T
        if last in ("kernel", "scale", "embedding"):
            name = f"{head}/weight"
        key = name.replace("/", ".")
        if key in tensors:
            raise UserError(f"{path}: {key} is there twice.")
        tensors[key] = value
    return tensors


_READERS: dict[str, Callable[[pathlib.Path], dict[str, np.ndarray]]] = {
    "model.safetensors": safetensors.read,
    "pytorch_model.bin": lambda path: torch_file.read(path).tensors,
    "flax_model.msgpack": _read_flax,
}


def _tensors(folder: pathlib.Path, only: pathlib.Path | None) -> tuple[dict[str, np.ndarray], str]:
    """The tensors of a folder under torch's names, and what they were read from."""
    for name, reader in _READERS.items():
        one, index = folder / name, folder / f"{name}.index.json"
        if only is not None and only not in (one, index):
            continue
        if one.is_file():
            return reader(one), str(one)
        if index.is_file():
            return _read_shards(index, reader), str(index)
    raise UserError(
        f"{only or folder}: no weights there (looked for {', '.join(_READERS)}, or the index of their shards)."
    )


def _read_shards(index: pathlib.Path, reader: Callable) -> dict[str, np.ndarray]:
    shards = json_file.section(json_file.read(index), "weight_map", str(index))
    rows = [f"{key} is in {name!r:.60}, which is no file's name" for key, name in shards.items() if not _is_plain(name)]
    refuse(str(index), rows)
    tensors: dict[str, np.ndarray] = {}
    for name in sorted(set(shards.values())):
        if not (index.parent / name).is_file():
            raise UserError(f"{index}: lists {name}, which is not there. Fetch all of its shards.")
        part = reader(index.parent / name)
        twice = [f"{key} is in {name} and in another shard" for key in part if key in tensors]
        refuse(str(index), twice)
        tensors |= part
    return tensors


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*", name) is not None
