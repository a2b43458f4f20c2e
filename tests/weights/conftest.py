"""What tests of weights share: small models under the release's own keys, and torch files made without torch."""

import pathlib
import pickle
import struct
import zipfile
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest

from clipjax.weights import Weights, openai, table

KEYS = pathlib.Path(__file__).with_name("keys")


class Spec(NamedTuple):
    """A tensor as a torch pickle describes it, true or not."""

    storage: str  # member data/NAME
    count: int
    offset: int
    size: tuple
    stride: tuple
    kind: str = "FloatStorage"


class Module(NamedTuple):
    """An object of a TorchScript class."""

    name: str  # "__torch__.package Class"
    attributes: dict


@pytest.fixture(scope="session")
def release():
    """`release("vit" or "resnet")`: {key: float32} of CLIP's own code in its order, filled by a fixed rule.

    The keys and shapes were listed by openai/CLIP's `CLIP(8, 32, 2, 128, 16, 10, 100, 128, 2, 2).state_dict()`, and by
    `CLIP(8, 64, (2, 1, 1, 1), 8, None, 10, 100, 128, 2, 2)`.
    """
    return {kind: _fill(KEYS / f"{kind}.txt") for kind in ("vit", "resnet")}.__getitem__


@pytest.fixture(scope="session")
def foreign(release):
    """`foreign("vit" or "resnet")`: the same as Weights under our names, QuickGELU."""

    def make(kind):
        tensors = release(kind)
        model = openai.infer(tensors, "quick_gelu", kind)
        arrays = table.read(openai.TABLE, tensors, model, kind, openai.IGNORE)
        return Weights(arrays, model, kind, (), "openai")

    return {kind: make(kind) for kind in ("vit", "resnet")}.__getitem__


@pytest.fixture
def torch_zip(tmp_path):
    """`torch_zip(value or bytes of a pickle, storages {name: bytes}, **members)` -> the path of a new torch file."""

    def make(value, storages=(), script=False, name="model.pt", compression=zipfile.ZIP_STORED, **members):
        pickled = value if isinstance(value, bytes) else assemble(value)
        with zipfile.ZipFile(tmp_path / name, "w", compression) as archive:
            archive.writestr("model/data.pkl", pickled)
            for key, content in dict(storages).items():
                archive.writestr(f"model/data/{key}", content)
            if script:
                archive.writestr("model/constants.pkl", pickle.dumps((), 2))
                archive.writestr("model/code/__torch__.py", "raise SystemExit('executed')")
            for member, content in members.items():
                archive.writestr(f"model/{member}", content)
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def spec():
    """The kind of tensor that `torch_zip` knows, and `spec.module` for TorchScript."""
    Spec.module = Module
    return Spec


def assemble(value) -> bytes:
    """A pickle of protocol 2 as torch writes it, of dicts, tuples, texts, numbers, Spec and Module."""
    return b"\x80\x02" + _piece(value) + b"."


def _piece(value) -> bytes:
    match value:
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case int():
            long = value.to_bytes(9, "little", signed=True)
            return b"J" + struct.pack("<i", value) if abs(value) < 1 << 31 else b"\x8a\x09" + long
        case float():
            return b"G" + struct.pack(">d", value)
        case Module(name, attributes):
            return _global(name) + b")\x81" + _piece(attributes) + b"b"
        case Spec(storage, count, offset, size, stride, kind):
            place = b"(" + b"".join(
                [_piece("storage"), _global(f"torch {kind}"), _piece(storage), _piece("cpu"), _piece(count), b"tQ"]
            )
            rest = b"".join(map(_piece, (offset, size, stride, False))) + _global("collections OrderedDict") + b")R"
            return _global("torch._utils _rebuild_tensor_v2") + b"(" + place + rest + b"tR"
        case tuple():
            return b"(" + b"".join(map(_piece, value)) + b"t"
        case list():
            return b"](" + b"".join(map(_piece, value)) + b"e"
        case dict():
            new = _global("collections OrderedDict") + b")R" if isinstance(value, OrderedDict) else b"}"
            return new + b"(" + b"".join(_piece(key) + _piece(item) for key, item in value.items()) + b"u"
    raise TypeError(value)


def _global(name: str) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def _fill(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Numbers of a sensible size, the same on every machine; float64 draws kept as float32."""
    shapes = {}
    for line in path.read_text().splitlines():
        key, *shape = line.split()
        shapes[key] = tuple(map(int, shape))
    drawn = sorted(key for key in shapes if not key.endswith("num_batches_tracked"))
    tensors = {key: np.zeros((), np.int64) for key in shapes}
    for index, key in enumerate(drawn):
        shape = shapes[key]
        s = np.random.RandomState(1000 + index).uniform(-1, 1, shape)
        if key.endswith("running_var"):
            s = 1 + 0.5 * s
        elif key.endswith(("running_mean", "bias")):
            s = 0.1 * s
        elif len(shape) == 1 and key.endswith("weight"):
            s = 1 + 0.1 * s
        elif key == "logit_scale":
            s = np.log(1 / 0.07)
        else:
            s = s * np.sqrt(6 / (np.prod(shape) / shape[0]))
        tensors[key] = np.asarray(s, np.float32)
    return tensors
