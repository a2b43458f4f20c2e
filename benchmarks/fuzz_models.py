"""The smallest model there is in every format that is read, for `fuzz_weights.py` to damage."""

import io
import json
import pathlib
import pickle
import re
import zipfile

import numpy as np
from safetensors.numpy import load_file, save_file

from clipjax import weights
from clipjax.config import ImageConfig, ModelConfig, TextConfig
from clipjax.weights import msgpack_file
from clipjax.weights.openai import state_dict
from clipjax.weights.safetensors import write as write_safetensors
from clipjax.weights.table import expected_shapes


def model(head: int = 64) -> weights.Weights:
    """Two towers of one head, 64 wide where a format's sizes are told from its shapes."""
    words = TextConfig(context_length=5, vocab_size=20, width=head, layers=1, heads=1, end_token=19)
    image = ImageConfig(image_size=8, patch_size=4, width=head, layers=2, heads=1)
    config = ModelConfig(preset="", embed_dim=6, image=image, text=words)
    rng = np.random.default_rng(0)
    shapes = expected_shapes(config, "fuzz").items()
    return weights.Weights({path: rng.standard_normal(shape, np.float32) for path, shape in shapes}, config, "", (), "")


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip of uncompressed members, as torch's files are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _state_dict(folder: pathlib.Path) -> pathlib.Path:
    weights.write("openai", folder / "state.pt", model())
    return folder / "state.pt"


def _torchscript(folder: pathlib.Path) -> pathlib.Path:
    """An archive of a module: objects of `__torch__` classes that hold tensors and other modules."""
    tensors = state_dict(model().arrays)
    tree: dict = {}
    for index, (key, tensor) in enumerate(tensors.items()):
        *modules, name = key.split(".")
        node = tree
        for part in modules:
            node = node.setdefault(part, {})
        node[name] = _tensor(index, tensor)
    members = {"m/data.pkl": b"\x80\x02" + _module(tree) + b".", "m/constants.pkl": pickle.dumps((), 2)}
    members |= {f"m/data/{index}": tensor.tobytes() for index, tensor in enumerate(tensors.values())}
    (folder / "script.pt").write_bytes(zipped(members))
    return folder / "script.pt"


def _module(node: dict | bytes) -> bytes:
    if isinstance(node, bytes):
        return node
    items = b"".join(_text(name) + _module(item) for name, item in node.items())
    return b"c__torch__.model\nModule\n)\x81}(" + items + _text("training") + b"\x89ub"


def _tensor(index: int, tensor: np.ndarray) -> bytes:
    strides = np.cumprod((1, *tensor.shape[:0:-1]))[::-1] if tensor.ndim else ()
    storage = [_text("storage"), b"ctorch\nFloatStorage\n", _text(str(index)), _text("cpu"), _number(tensor.size)]
    size, stride = (b"(" + b"".join(map(_number, row)) + b"t" for row in (tensor.shape, strides))
    rest = [_number(0), size, stride, b"\x89ccollections\nOrderedDict\n)R"]
    return b"".join([b"ctorch._utils\n_rebuild_tensor_v2\n((", *storage, b"tQ", *rest, b"tR"])


def _text(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def _number(number: int) -> bytes:
    return b"J" + int(number).to_bytes(4, "little")


def _safetensors(folder: pathlib.Path) -> pathlib.Path:
    write_safetensors(folder / "state.safetensors", state_dict(model().arrays))
    return folder / "state.safetensors"


def _huggingface(folder: pathlib.Path) -> pathlib.Path:
    """A folder with its weights in two shards."""
    weights.write("huggingface", folder, model(8))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {key: f"model-{row % 2 + 1}.safetensors" for row, key in enumerate(tensors)}
    for name in set(where.values()):
        save_file({key: tensors[key] for key in tensors if where[key] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def _huggingface_flax(folder: pathlib.Path) -> pathlib.Path:
    """A folder with the older flax_model.msgpack: the same tensors in the names and layouts of Flax's modules."""
    weights.write("huggingface", folder, model(8))
    arrays = {}
    for key, tensor in load_file(folder / "model.safetensors").items():
        name = "scale" if "norm" in key else "embedding" if re.search("(token|position)_embedding", key) else "kernel"
        if name == "kernel" and key.endswith("weight"):
            tensor = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
        arrays[re.sub("weight$", name, key).replace(".", "/")] = tensor
    msgpack_file.write(folder / "flax_model.msgpack", arrays)
    (folder / "model.safetensors").unlink()
    return folder


def _folder(format: str):
    def make(folder: pathlib.Path) -> pathlib.Path:
        weights.write(format, folder, model(8))
        return folder

    return make


FORMATS = {  # each makes its files in an empty folder and returns what to load
    "torchscript": _torchscript,
    "state_dict": _state_dict,
    "safetensors": _safetensors,
    "huggingface": _huggingface,
    "huggingface_flax": _huggingface_flax,
    "open_clip": _folder("open_clip"),
    "flax": _folder("flax"),
}
