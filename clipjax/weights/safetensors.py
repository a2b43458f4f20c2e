"""safetensors files: the library checks the header, the numbers are read in place."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from clipjax.errors import UserError

_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """{key: view of the file, in its own type (bfloat16 is ml_dtypes')}; nothing is copied before it is used.

    Raises UserError for a file that is truncated, or whose header lies about types, shapes or places.
    """
    import safetensors

    path = pathlib.Path(path)
    try:
        with safetensors.safe_open(path, "numpy"):  # checks sizes, places, overlaps and the file's length
            pass
        data = np.asarray(np.memmap(path, np.uint8, "r"))
        length = int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8 : 8 + length].tobytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}).") from None
    header.pop("__metadata__", None)
    return {key: _array(path, key, entry, data[8 + length :]) for key, entry in header.items()}


def write(path: str | os.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Write the tensors as a new file, marked as torch's layout, which transformers asks for."""
    from safetensors.numpy import save_file

    save_file({key: np.asarray(tensor, order="C") for key, tensor in tensors.items()}, path, {"format": "pt"})


def _array(path: pathlib.Path, key: str, entry: dict[str, Any], data: np.ndarray) -> np.ndarray:
    if entry["dtype"] not in _TYPES:
        raise UserError(f"{path}: {key} is of type {entry['dtype']}, one of {', '.join(_TYPES)} expected.")
    first, last = entry["data_offsets"]
    return data[first:last].view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
