"""The mapping engine: a format is a table of rows, each tying one path of ours to the keys of theirs, both ways.

    TABLE = [
        Row("text/ln_final/scale", "ln_final.weight"),
        Row("text/blocks/{i}/attention/out/kernel", "transformer.resblocks.{i}.attn.out_proj.weight", TRANSPOSED),
        Row("text/blocks/{i}/attention/qkv/kernel", ("q.{i}.weight", "k.{i}.weight", "v.{i}.weight"), SPLIT_QKV),
    ]
    arrays = read(TABLE, tensors, model, "model.bin")   # {our path, one entry a layer: float32}
    tensors = write(TABLE, arrays)                      # {their key: float32}, in the table's order

Which paths there are, and their shapes, comes from the model itself: what the file lacks, has too much or has in
another shape is found without a second list.
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.config import ModelConfig, preset
from clipjax.config.presets import preset_names
from clipjax.errors import UserError
from clipjax.text import END

PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")  # the fields of ImageConfig that are no sizes

_LARGEST = 1 << 20  # of any size in a config; no CLIP comes near, and a lie must not fill the memory
_MOST_LAYERS = 1 << 10
_MOST_ROWS = 20  # mistakes shown in one error
_LONGEST_ROW = 240  # characters of each
_LAYER = re.compile(r"\bblocks/(\d+)/")


class Layout(NamedTuple):
    """How a tensor lies in a file: `read(*theirs) -> ours` and `write(ours) -> (theirs, …)`, views where possible."""

    read: Callable[..., np.ndarray]
    write: Callable[[np.ndarray], tuple[np.ndarray, ...]]


SAME = Layout(lambda x: x, lambda x: (x,))
TRANSPOSED = Layout(lambda x: x.T, lambda x: (x.T,))  # torch's linear [out, in] <-> ours [in, out]
CONVOLUTION = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: (x.transpose(3, 2, 0, 1),))  # OIHW <-> HWIO
POINTWISE = Layout(lambda x: x[:, :, 0, 0].T, lambda x: (x.T[:, :, None, None],))  # [O, I, 1, 1] <-> [I, O]
FUSED_QKV = Layout(  # [3W, W] <-> [W, 3, W]
    lambda x: x.reshape(3, -1, x.shape[1]).transpose(2, 0, 1),
    lambda x: (x.transpose(1, 2, 0).reshape(-1, x.shape[0]),),
)
FUSED_QKV_BIAS = Layout(lambda x: x.reshape(3, -1), lambda x: (x.reshape(-1),))  # [3W] <-> [3, W]
SPLIT_QKV = Layout(  # three of [W, W] <-> [W, 3, W]
    lambda *qkv: np.stack([x.T for x in qkv], axis=1), lambda x: tuple(x[:, part].T for part in range(3))
)
SPLIT_QKV_BIAS = Layout(lambda *qkv: np.stack(qkv), lambda x: tuple(x))  # three of [W] <-> [3, W]


class Row(NamedTuple):
    """One path of ours and the key, or keys, of theirs that hold it. `{i}` is a layer's index, `{i+1}` the next one."""

    path: str
    keys: str | tuple[str, ...]
    layout: Layout = SAME


def read(
    table: Sequence[Row],
    tensors: Mapping[str, Any],
    model: ModelConfig,
    source: str,
    ignore: str = "(?!)",
    also: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, np.ndarray]:
    """{our path, one entry a layer: float32 array of its own} from {their key: array of any float type}.

    `ignore` is a regular expression; keys that it matches as a whole are left out.
    `also`: paths, with their shapes, that this file has beside those of the model. Raises one UserError that names
    `source` and lists every key that is missing, unknown, or of another shape or type than the model wants.
    """
    shapes = {**expected_shapes(model, source), **(also or {})}
    places = _places(table, shapes)
    wanted = {key: shape for path, place in places.items() for key, shape in _their_shapes(place, shapes[path]).items()}
    found = {key: tensor for key, tensor in tensors.items() if not re.fullmatch(ignore, key)}
    rows = [f"{key} is missing, {_text(shape)} expected" for key, shape in wanted.items() if key not in found]
    rows += [f"{key} {_text(found[key].shape)} is not part of the model" for key in found if key not in wanted]
    for key, shape in wanted.items():
        if key in found:
            rows += _misfit(key, found[key], shape)
    refuse(source, rows)
    return {
        path: np.array(
            place.layout.read(*(_shaped(found[key], wanted[key]) for key in place.keys)), np.float32, order="C"
        )
        for path, place in places.items()
    }


def write(table: Sequence[Row], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{their key: array} of our arrays, one entry a layer: the table's order, layer by layer within a tower's blocks.

    Views where the layout allows it, so not always contiguous. Raises ValueError for a path that no row names.
    """
    return {
        key: tensor
        for path, place in _places(table, arrays).items()
        for key, tensor in zip(place.keys, place.layout.write(arrays[path]), strict=True)
    }


def expected_shapes(model: ModelConfig, source: str) -> dict[str, tuple[int, ...]]:
    """{our path, one entry a layer: shape} of the model's parameters and running averages, without their memory.

    Raises UserError that names `source` where the config's sizes cannot be a model's.
    """
    _check_sizes(model, source)
    return dict(_model_shapes(model))


def rename(tensors: Mapping[str, Any], change: Callable[[str], str], source: str) -> dict[str, Any]:
    """The tensors under `change(key)`. Raises UserError where two keys become the same."""
    counts = Counter(map(change, tensors))
    refuse(source, [f"{key} is there under two names" for key in tensors if counts[change(key)] > 1])
    return {change(key): tensor for key, tensor in tensors.items()}


def named(model: ModelConfig) -> ModelConfig:
    """The model with the name of the preset whose sizes it has, or none."""
    for name in preset_names():
        other = preset(name)
        image = {key: getattr(model.image, key) for key in PREPROCESSING}
        other = dataclasses.replace(
            other,
            activation=model.activation,
            image=dataclasses.replace(other.image, **image),
            text=dataclasses.replace(other.text, end_token=model.text.end_token),
        )
        if other == dataclasses.replace(model, preset=name):
            return other
    return dataclasses.replace(model, preset="")


def end_token(vocab_size: int) -> int:
    """The id to pool at where a file means the largest of a text: CLIP's end, or the last of a smaller vocabulary."""
    return min(vocab_size - 1, END)


def refuse(source: str, rows: Sequence[str]) -> None:
    """Raise one UserError of these mistakes, if there are any; very long lists are cut."""
    if rows:
        more = f"; and {len(rows) - _MOST_ROWS} more" if len(rows) > _MOST_ROWS else ""
        shown = "; ".join(row[:_LONGEST_ROW] for row in rows[:_MOST_ROWS])
        raise UserError(f"{source}: {shown}{more}.")


@functools.lru_cache(8)
def _model_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    from flax import nnx

    from clipjax.models.clip import CLIP
    from clipjax.models.stacking import unstack_layers
    from clipjax.trees import flatten

    _, params, stats = nnx.split(nnx.eval_shape(lambda: CLIP(model)), nnx.Param, nnx.BatchStat)
    leaves = {**flatten(params), **flatten(stats)}
    layers = unstack_layers({path: _hollow(leaf.shape) for path, leaf in leaves.items()})
    return {path: leaf.shape for path, leaf in layers.items()}


def _places(table: Sequence[Row], paths: Mapping[str, Any]) -> dict[str, Row]:
    """{path: its row with the keys written out}, in the table's order; {i} runs over the rows of a tower's blocks."""
    positions = {row.path: position for position, row in enumerate(table)}
    if len(positions) < len(table):
        raise ValueError(f"{[path for path, n in Counter(row.path for row in table).items() if n > 1]}: two rows each")
    first: dict[str, int] = {}
    for path, position in positions.items():
        first.setdefault(path.partition("{i}")[0], position)
    found = []
    for path in paths:
        layer = _LAYER.search(path)
        pattern = _LAYER.sub("blocks/{i}/", path)
        if pattern not in positions:
            raise ValueError(f"{path}: no row of the table names it")
        row, index = table[positions[pattern]], int(layer[1]) if layer else 0
        keys = (row.keys,) if isinstance(row.keys, str) else row.keys
        keys = tuple(key.replace("{i}", str(index)).replace("{i+1}", str(index + 1)) for key in keys)
        order = first[pattern.partition("{i}")[0]], index, positions[pattern]
        found.append((order, Row(path, keys, row.layout)))
    places = {row.path: row for _, row in sorted(found, key=lambda item: item[0])}
    twice = [key for key, n in Counter(key for row in places.values() for key in row.keys).items() if n > 1]
    if twice:
        raise ValueError(f"{twice}: named by two rows of the table")
    return places


def _their_shapes(place: Row, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    tensors = place.layout.write(_hollow(shape))
    return {key: tensor.shape for key, tensor in zip(place.keys, tensors, strict=True)}


def _misfit(key: str, tensor: Any, shape: tuple[int, ...]) -> list[str]:
    """A line if the tensor has another shape, or is not of floats. A scalar may come as a list of one."""
    if tensor.shape != shape and not (shape == () and tensor.shape == (1,)):
        return [f"{key} is {_text(tensor.shape)}, {_text(shape)} expected"]
    if not (np.issubdtype(tensor.dtype, np.floating) or tensor.dtype.name == "bfloat16"):
        return [f"{key} is {tensor.dtype}, a float type expected"]
    return []


def _shaped(tensor: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(tensor).reshape(shape)


def _check_sizes(model: ModelConfig, source: str) -> None:
    rows = []
    for place, section in (("", model), ("image ", model.image), ("text ", model.text)):
        rows += [f"{place}{row}" for row in section.mistakes()]
        for name, value in vars(section).items():
            most = _MOST_LAYERS if name == "layers" else _LARGEST
            if isinstance(value, int) and value > most:
                rows.append(f"{place}{name}: {value} should be at most {most}")
    if any(blocks > _MOST_LAYERS for blocks in model.image.stages):
        rows.append(f"image stages: {model.image.stages} should each be at most {_MOST_LAYERS}")
    refuse(source, rows)


def _hollow(shape: tuple[int, ...]) -> np.ndarray:
    """An array of that shape without memory of its own, to learn what becomes of the shape."""
    return np.broadcast_to(np.float32(0), shape)


def _text(shape: Sequence[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
