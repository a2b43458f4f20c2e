"""Flax's msgpack files as `{path: array}`: read without running anything, written array by array."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
from ml_dtypes import bfloat16

from clipjax.errors import UserError
from clipjax.trees import unflatten

_ARRAY, _SCALAR = 1, 3  # flax.serialization's extension types; 2, a complex number, is in no model
_DTYPES = {
    name: np.dtype(name)
    for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32", "bool")
} | {"bfloat16": np.dtype(bfloat16)}
_CHUNKED = "__msgpack_chunked_array__"


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a msgpack file by slash-separated path, in the types they are stored in.

    Raises UserError for a damaged file, an unknown type of value, and a name that comes twice.
    """
    try:
        tree = msgpack.unpackb(
            path.read_bytes(),
            ext_hook=_array,
            object_pairs_hook=_fields,
            raw=False,
            strict_map_key=True,
            max_array_len=0,
            max_map_len=1 << 17,
        )
        arrays: dict[str, np.ndarray] = {}
        _collect(tree, "", arrays)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"{path}: not a msgpack file of arrays ({reason:.200}).") from None
    return arrays


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A msgpack file that flax.serialization.msgpack_restore reads; holds one array at a time in memory."""
    packer = msgpack.Packer(use_bin_type=True, strict_types=True)
    with open(path, "wb") as file:
        _pack(unflatten(arrays), packer, file)


def _pack(value: Any, packer: msgpack.Packer, file: Any) -> None:
    if isinstance(value, dict):
        file.write(packer.pack_map_header(len(value)))
        for key, item in value.items():
            file.write(packer.pack(key))
            _pack(item, packer, file)
    else:
        value = np.asarray(value)
        stored = packer.pack([list(value.shape), value.dtype.name, value.tobytes()])
        file.write(packer.pack(msgpack.ExtType(_ARRAY, stored)))


def _array(code: int, data: bytes) -> np.ndarray:
    if code not in (_ARRAY, _SCALAR):
        raise ValueError(f"extension type {code} is unknown")
    stored = msgpack.unpackb(data, raw=False, max_array_len=32, max_map_len=0)
    if not isinstance(stored, list) or len(stored) != 3:
        raise ValueError("an array is not (shape, type, bytes)")
    shape, name, values = stored
    if not isinstance(name, str) or name not in _DTYPES:
        raise ValueError(f"arrays of {name!r:.40} are unknown")
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"{shape!r:.60} is no shape")
    if not isinstance(values, bytes) or len(values) != math.prod(shape) * _DTYPES[name].itemsize:
        raise ValueError(f"an array of {name} {shape} does not have the bytes for that")
    return np.frombuffer(values, _DTYPES[name]).reshape(shape)


def _fields(pairs: list[tuple[Any, Any]]) -> Any:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name comes twice")
    return _joined(fields) if _CHUNKED in fields else fields


def _joined(fields: dict) -> np.ndarray:
    """An array that Flax cut because it is larger than 1 GiB."""
    shape, parts = fields.get("shape"), fields.get("chunks")
    if not isinstance(shape, dict) or not isinstance(parts, dict):
        raise ValueError("a chunked array has no shape or no chunks")
    try:
        values = np.concatenate([parts[str(part)] for part in range(len(parts))])
        return values.reshape([shape[str(axis)] for axis in range(len(shape))])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a chunked array does not fit together: {error}") from None


def _collect(value: Any, path: str, arrays: dict[str, np.ndarray]) -> None:
    if isinstance(value, np.ndarray):
        if path in arrays:
            raise ValueError(f"{path}: comes twice")
        arrays[path] = value
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{path}: {key!r:.40} is no name")
            _collect(item, f"{path}/{key}" if path else key, arrays)
    else:
        raise ValueError(f"{path or 'the file'}: is {value!r:.40}, no array")
