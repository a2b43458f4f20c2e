"""A state dict as `torch.save` writes it, without torch; the same tensors give the same bytes."""

import os
import pathlib
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

_STORAGES = {"float32": "FloatStorage", "int64": "LongStorage"}
_ALIGNMENT = 64  # of each storage in the file, as torch's, so that it can be mapped into memory
_LOCAL_HEADER = 30


def write(path: str | os.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Write the tensors (float32 or int64) as a zip that `torch.load(path, weights_only=True)` reads."""
    with pathlib.Path(path).open("xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, file, "data.pkl", _pickle(tensors))
        _add(archive, file, "byteorder", b"little")
        for index, tensor in enumerate(tensors.values()):
            plain = np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<"))
            _add(archive, file, f"data/{index}", plain.reshape(-1).view(np.uint8).data)
        _add(archive, file, "version", b"3\n")


def _add(archive: zipfile.ZipFile, file, name: str, content) -> None:
    info = zipfile.ZipInfo(f"archive/{name}", date_time=(1980, 1, 1, 0, 0, 0))
    start = file.tell() + _LOCAL_HEADER + len(info.filename)
    padding = (-start - 4) % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(info, content)


def _pickle(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Protocol 2: an OrderedDict of tensors, each rebuilt from a storage of its own."""
    parts = [b"\x80\x02", _ORDERED_DICT, b"("]
    for index, (key, tensor) in enumerate(tensors.items()):
        kind = f"ctorch\n{_STORAGES[tensor.dtype.name]}\n".encode()
        storage = _tuple(_text("storage"), kind, _text(str(index)), _text("cpu"), _number(tensor.size)) + b"Q"
        strides: list[int] = []
        step = 1
        for size in reversed(tensor.shape):
            strides.insert(0, step)
            step *= size
        size, stride = (_tuple(*map(_number, numbers)) for numbers in (tensor.shape, strides))
        arguments = _tuple(storage, _number(0), size, stride, b"\x89", _ORDERED_DICT)
        parts += [_text(key), b"ctorch._utils\n_rebuild_tensor_v2\n", arguments, b"R"]
    return b"".join([*parts, b"u."])


_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def _tuple(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t" if parts else b")"


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)
