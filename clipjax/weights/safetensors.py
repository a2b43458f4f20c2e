"""safetensors files: the library checks the header, the numbers are read in place and written one by one."""

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
        raise UserError(f"{path}: not a whole safetensors file ({str(error):.300}).") from None
    header.pop("__metadata__", None)
    return {key: _array(path, key, entry, data[8 + length :]) for key, entry in header.items()}


def write(path: str | os.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Write the tensors as a new file, marked as torch's layout, which transformers asks for.

    The library would hold a second copy of all tensors, and makes files that only their owner may read.
    """
    names = {np.dtype(kind): name for name, kind in _TYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    tensors = dict(sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])))  # keeps all of them aligned
    for key, tensor in tensors.items():
        offsets = [start, start + tensor.nbytes]
        header[key] = {"dtype": names[tensor.dtype], "shape": tensor.shape, "data_offsets": offsets}
        start += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with pathlib.Path(path).open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.asarray(tensor, tensor.dtype.newbyteorder("<"), order="C").tobytes())


def _array(path: pathlib.Path, key: str, entry: dict[str, Any], data: np.ndarray) -> np.ndarray:
    if entry["dtype"] not in _TYPES:
        raise UserError(f"{path}: {key} is of type {entry['dtype']}, one of {', '.join(_TYPES)} expected.")
    first, last = entry["data_offsets"]
    return data[first:last].view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
