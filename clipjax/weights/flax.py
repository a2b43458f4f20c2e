"""The exported Flax checkpoint: one msgpack of the parameter tree and a config.json that says the rest.

`clipjax_flax.msgpack` is what `flax.serialization.msgpack_restore` reads: nested dicts `params` and, for a ResNet,
`batch_stats`, under this program's names with one entry a layer.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from clipjax import text
from clipjax.config import ImageConfig, ModelConfig, from_json
from clipjax.errors import UserError
from clipjax.weights import Weights, json_file, msgpack_file
from clipjax.weights.table import Row, expected_shapes
from clipjax.weights.table import read as read_table
from clipjax.weights.table import write as write_table

FORMAT_VERSION = 1

_LONGEST = 1000  # characters of a message

_NAME = "clipjax_flax"
_FILE = f"{_NAME}.msgpack"


def read(path: pathlib.Path, activation: str | None = None) -> Weights:
    """The model of an exported folder, or of the msgpack file in one.

    Raises UserError for another version, another tokenizer, tensors that do not fit, and where the config's activation
    is not `activation`.
    """
    folder = path if path.is_dir() else path.parent
    place = folder / "config.json"
    model = _model(json_file.read(place), str(place))
    if activation not in (None, model.activation):
        raise UserError(f"{place}: activation is {model.activation!r:.60}, activation={activation!r} was asked for.")
    file = path if path.is_file() else folder / _FILE
    table = _table(expected_shapes(model, str(place)))
    arrays = read_table(table, msgpack_file.read(file), model, str(file))
    return Weights(arrays, model, str(path), (), "flax")


def write(path: pathlib.Path, weights: Weights) -> None:
    """A new folder with the two files."""
    model = weights.model
    described = {
        "format": _NAME,
        "format_version": FORMAT_VERSION,
        "model": dataclasses.asdict(model),
        "preprocessing": _preprocessing(model.image),
        "tokenizer": {**text.identity(), "context_length": model.text.context_length},
    }
    path.mkdir()
    json_file.write(path / "config.json", described)
    msgpack_file.write(path / _FILE, write_table(_table(weights.arrays), weights.arrays))


def _model(described: dict[str, Any], where: str) -> ModelConfig:
    if described.get("format") != _NAME:
        raise UserError(f"{where}: format is {described.get('format')!r:.60}, {_NAME!r} expected.")
    version = described.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(f"{where}: format_version is {version!r:.60}, this program reads {FORMAT_VERSION}.")
    plain = json_file.section(described, "model", where)
    if "activation" not in plain:
        raise UserError(f"{where}: model.activation is missing.")
    try:
        model = from_json(json.dumps({"model": plain}), where).model
    except UserError as error:
        raise UserError(f"{error}"[:_LONGEST]) from None  # it quotes keys and values whole
    for key, ours in (("preprocessing", _preprocessing(model.image)), ("tokenizer", text.identity())):
        stated = json_file.section(described, key, where)
        rows = [f"{key}.{name} is {stated.get(name)!r:.80}, {ours[name]!r:.80} expected" for name in ours]
        rows = [row for row, name in zip(rows, ours, strict=True) if stated.get(name) != ours[name]]
        if rows:
            raise UserError(f"{where}: " + "; ".join(rows) + ".")
    return model


def _preprocessing(image: ImageConfig) -> dict[str, Any]:
    names = ("image_size", "mean", "std", "interpolation", "resize_mode")
    return {name: list(value) if isinstance(value := getattr(image, name), tuple) else value for name in names}


def _table(paths: Iterable[str]) -> list[Row]:
    """Each path under `params` or `batch_stats`; written with `{i}` for the index of a layer."""
    general = dict.fromkeys(re.sub(r"\bblocks/\d+/", "blocks/{i}/", path) for path in paths)
    return [Row(path, ("batch_stats/" if re.search(r"/(mean|var)$", path) else "params/") + path) for path in general]
