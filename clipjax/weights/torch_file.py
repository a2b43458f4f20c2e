"""torch's files without torch: zips of a state dict, of a training checkpoint or of a TorchScript model.

Only `data.pkl` is read, as data (`torch_pickle`), and the numbers that it points to, in place (`zip_file`). Code that
lies in the zip is never looked at.
"""

import math
import os
import pathlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from clipjax.errors import UserError
from clipjax.weights.torch_pickle import Record, Tensor, load
from clipjax.weights.zip_file import Member, content, directory

_LARGEST_PICKLE = 1 << 24  # bytes; a model's has some hundred kilobytes
_MOST_MODULES = 100_000
_LONGEST_KEY = 1000
_MOST_SHARED = 8  # bytes of tensors for each byte of the file; storages may be shared, but a bomb must not unfold
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # what torch < 1.6 wrote, a bare pickle, begins with


class TorchFile(NamedTuple):
    """What a torch file holds: views of the file under the keys of its state dict, and what kind of file it was."""

    tensors: dict[str, np.ndarray]  # in the file's own types, bfloat16 and whole numbers among them
    kind: str  # "state dict", "training checkpoint" or "TorchScript"
    classes: frozenset[str]  # the TorchScript classes, "module name"; empty for the other kinds


def read(path: str | os.PathLike) -> TorchFile:
    """The tensors of a torch file, read in place: nothing is copied before it is used, nothing is executed.

    Raises UserError for a file that is truncated or damaged, that names anything but tensors, whose tensors leave
    their storage, or that an old torch (before 1.6) wrote.
    """
    path = pathlib.Path(path)
    try:
        data = np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size else np.zeros(0, np.uint8)
        return _read(data)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}.") from None


def _read(data: np.ndarray) -> TorchFile:
    _check_beginning(data[:512].tobytes())
    members = directory(data)
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("a zip file without the data.pkl of torch")
    top = pickles[0].removesuffix("data.pkl")
    if f"{top}byteorder" in members:
        order = _content(data, members, f"{top}byteorder", 16).tobytes()
        if order.strip() != b"little":
            raise ValueError(f"byte order {order.decode('ascii', 'replace')!r}, 'little' expected")
    found = load(_content(data, members, pickles[0], _LARGEST_PICKLE).tobytes())
    tensors, kind, classes = _state_dict(found, script=f"{top}constants.pkl" in members)
    arrays, total = {}, 0
    for key, tensor in tensors.items():
        try:
            arrays[key] = _array(tensor, data, members, f"{top}data/")
        except ValueError as error:
            raise ValueError(f"{key} {error}") from None
        total += arrays[key].nbytes
        if total > _MOST_SHARED * len(data):
            raise ValueError(f"its tensors unfold to more than {_MOST_SHARED} times its {len(data)} bytes")
    return TorchFile(arrays, kind, classes)


def _check_beginning(head: bytes) -> None:
    """Raise ValueError that says what a file is if it is no zip."""
    if head.startswith(b"PK\x03\x04"):
        return
    again = "load it with a newer torch and torch.save its state_dict()"
    if head.startswith(_LEGACY):
        raise ValueError(f"written by torch before 1.6, a bare pickle; {again}")
    if head[257:262] == b"ustar":
        raise ValueError(f"written by torch before 0.2, a tar; {again}")
    if head[:1] == b"\x80":
        raise ValueError("a bare pickle, which could execute anything; a zip of torch.save is expected")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError("a Git LFS pointer instead of the weights; run `git lfs pull`")
    raise ValueError(f"not a torch file, which is a zip; it begins with {head[:8]!r}" if head else "empty")


def _content(data: np.ndarray, members: dict[str, Member], name: str, largest: int | None = None) -> np.ndarray:
    if name not in members:
        raise ValueError(f"{name} is missing in the zip")
    if largest is not None and members[name].size > largest:
        raise ValueError(f"{name} has {members[name].size} bytes, at most {largest} expected")
    try:
        return content(data, members[name])
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _state_dict(found: Any, script: bool) -> tuple[dict[str, Tensor], str, frozenset[str]]:
    """The tensors by key, the kind of file, and the classes of a TorchScript model."""
    if script and isinstance(found, Record):
        tensors, classes = _modules(found)
        return tensors, "TorchScript", frozenset(classes)
    if isinstance(found, dict):
        kind, inner = ("training checkpoint", found["state_dict"]) if "state_dict" in found else ("state dict", found)
        if isinstance(inner, dict):
            tensors = {key: value for key, value in inner.items() if isinstance(value, Tensor)}
            if tensors and all(isinstance(key, str) for key in tensors):
                return tensors, kind, frozenset()
        keys = ", ".join(map(str, list(found)[:8]))
        raise ValueError(f"holds a dict of {keys[:120]}, but no tensors by name and no state_dict")
    raise ValueError(f"holds a {type(found).__name__}, a dict of tensors or a TorchScript model expected")


def _modules(top: Record) -> tuple[dict[str, Tensor], set[str]]:
    """The tensors of a module and its submodules under the keys that a state dict gives them, and all classes."""
    tensors: dict[str, Tensor] = {}
    classes: set[str] = set()
    visits, waiting = 0, [(top, "")]
    while waiting:
        module, prefix = waiting.pop()
        visits += 1
        if visits > _MOST_MODULES or len(prefix) > _LONGEST_KEY:
            raise ValueError(f"modules nested without end, {prefix[:60]!r} …")
        classes.add(module.name)
        for name, value in module.attributes.items():
            if isinstance(value, Tensor):
                tensors[f"{prefix}{name}"] = value
            elif isinstance(value, Record):
                waiting.append((value, f"{prefix}{name}."))
    return tensors, classes


def _array(tensor: Tensor, data: np.ndarray, members: dict[str, Member], folder: str) -> np.ndarray:
    """The view of the file that a tensor describes. Raises ValueError where it leaves its storage."""
    storage, size, stride = tensor.storage, tensor.size, tensor.stride
    dtype = np.dtype(ml_dtypes.bfloat16 if storage.dtype == "bfloat16" else storage.dtype)
    raw = _content(data, members, f"{folder}{storage.key}")
    if storage.count * dtype.itemsize > len(raw):
        raise ValueError(f"declares {storage.count} numbers of {storage.dtype}, its storage has {len(raw)} bytes")
    numbers = raw[: storage.count * dtype.itemsize].view(dtype)
    steps = [step if n > 1 else 1 for n, step in zip(size, stride, strict=True)]  # others mean nothing
    last = tensor.offset + sum((n - 1) * step for n, step in zip(size, steps, strict=True))
    if not 0 < math.prod(size) <= storage.count or last >= storage.count:
        where = f"of shape {list(size)}, offset {tensor.offset}, strides {list(stride)}"
        raise ValueError(f"{where} leaves its storage of {storage.count} numbers")
    steps = [step * dtype.itemsize for step in steps]
    return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], size, steps, writeable=False)
