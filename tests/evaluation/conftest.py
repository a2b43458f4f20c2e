"""Data sets on disk in every layout, and a stand-in for a checkpoint that sees colours and reads their names."""

import hashlib
import io
import tarfile
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from clipjax.config import Config, preset

COLOURS = {
    "red": (220, 20, 20),
    "green": (20, 200, 20),
    "blue": (20, 20, 220),
    "yellow": (230, 230, 20),
    "white": (240, 240, 240),
    "black": (10, 10, 10),
}
WIDTH = 64  # of the stand-in's embeddings: a 4 x 4 x 4 histogram of colours


class _Weights(nnx.Module):
    def __init__(self):
        self.kernel = nnx.Param(np.zeros((3, 5), np.float32))


@dataclass
class FakeBundle:
    """Embeds a picture as its histogram of colours, a text as the colours it names and a little of its other words."""

    name: str = "fake"
    step: int | None = 120
    fingerprint: str = "f" * 64
    logit_scale: float = 14.3
    config: Config = field(default_factory=lambda: replace(Config(), model=replace(preset("tiny"), embed_dim=WIDTH)))
    model: nnx.Module = field(default_factory=_Weights)
    embedded: list = field(default_factory=list)  # what was asked for, in order

    def preprocess(self, image):
        return np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.NEAREST), np.float32)

    def encode_pixels(self, pixels):
        self.embedded.append(("pixels", len(pixels)))
        bins = (np.asarray(pixels).astype(int) // 64) @ np.array([16, 4, 1])  # [n, 8, 8]
        return _unit(np.stack([np.bincount(picture.ravel(), minlength=WIDTH) for picture in bins]))

    def greatest(self, values):
        return np.asarray(values, np.int32)

    def encode_text(self, texts):
        self.embedded.append(("texts", list(texts)))
        return _unit(np.stack([_words(text) for text in texts]))

    def class_embeddings(self, class_names, templates):
        self.embedded.append(("classes", list(class_names)))
        prompts = [[template.replace("{c}", name) for template in templates] for name in class_names]
        return _unit(np.stack([_unit(np.stack([_words(p) for p in of_class])).mean(axis=0) for of_class in prompts]))


def _unit(rows):
    rows = rows.astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _words(text):
    row = np.zeros(WIDTH)
    for word in text.lower().strip(".").split():
        if word in COLOURS:
            row[(np.array(COLOURS[word]) // 64) @ np.array([16, 4, 1])] += 1
        else:
            row[int(hashlib.sha256(word.encode()).hexdigest(), 16) % WIDTH] += 0.05
    return row


@pytest.fixture
def bundle():
    return FakeBundle()


@pytest.fixture
def picture():
    """picture("red", "blue") -> PNG bytes, upper part red, lower part blue."""

    def make(upper, lower=None, kind="PNG", size=(12, 10)):
        image = Image.new("RGB", size, COLOURS[upper])
        image.paste(COLOURS[lower or upper], (0, size[1] // 2, *size))
        stream = io.BytesIO()
        image.save(stream, kind)
        return stream.getvalue()

    return make


@pytest.fixture
def write_tar():
    """write_tar(path, {"key.png": bytes, …}): a tar with those members, in that order."""

    def make(path, members):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    return make


@pytest.fixture
def zeroshot_folder(tmp_path, picture, write_tar):
    """Four colours in two shards, three pictures each; the third blue one is red on top and so a mistake to make."""
    folder = tmp_path / "zeroshot"
    names = ["red", "green", "blue", "yellow"]
    for shard, classes in enumerate(([0, 1], [2, 3])):
        members = {}
        for label in classes:
            for number in range(3):
                wrong = label == 2 and number == 2
                members[f"c{label}_{number}.png"] = picture("red" if wrong else names[label])
                members[f"c{label}_{number}.cls"] = str(label).encode()
        write_tar(folder / "test" / f"{shard}.tar", members)
    (folder / "test" / "nshards.txt").write_text("2")
    (folder / "classnames.txt").write_text("\n".join(names) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na {c} thing\n")
    return folder


@pytest.fixture
def retrieval_folder(tmp_path, picture, write_tar):
    """All pairs of two of five colours, two captions a picture (three for the first)."""
    folder = tmp_path / "retrieval"
    members = {}
    names = list(COLOURS)[:5]
    for upper in names:
        for lower in names:
            captions = [f"{upper} above {lower}", f"a picture, {upper} and {lower}"]
            captions += ["red all over"] * (upper == lower == "red")
            members[f"{upper}_{lower}.png"] = picture(upper, lower)
            members[f"{upper}_{lower}.txt"] = "\n".join(captions).encode()
    write_tar(folder / "test" / "0.tar", members)
    (folder / "test" / "nshards.txt").write_text("1\n")
    (folder / "dataset_type.txt").write_text("retrieval\n")
    return folder


@pytest.fixture
def class_folder(tmp_path, picture):
    """A folder a colour with two JPEGs each."""
    folder = tmp_path / "colours"
    for name in ("red", "green", "blue"):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            (folder / name / f"{number}.jpg").write_bytes(picture(name, kind="JPEG"))
    return folder
