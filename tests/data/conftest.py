"""What the tests of data share: a cache of their own, small pictures, shards made of them, and a small config."""

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from clipjax.config import Config, DataConfig, preset


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Nothing is written into the home of whoever runs the tests."""
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def picture():
    """picture(number, width, height, form, mode) -> encoded bytes, other ones for each number."""

    def make(number=0, width=40, height=48, form="JPEG", mode="RGB", **options):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(buffer, form, **options)
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def write_tar():
    """write_tar(path, {name: bytes or str}) -> path."""

    def write(path, files):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for name, content in files.items():
                content = content.encode() if isinstance(content, str) else content
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return path

    return write


@pytest.fixture(scope="session")
def shards(tmp_path_factory, picture, write_tar):
    """Three shards of 5 pairs: record i shows picture i, its captions are `caption i a` and `caption i b`."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(3):
        files = {}
        for number in range(5 * shard, 5 * shard + 5):
            files[f"{number:04}.jpg"] = picture(number)
            files[f"{number:04}.json"] = json.dumps({"captions": [f"caption {number} a", f"caption {number} b"]})
        write_tar(folder / f"train-{shard:05}.tar", files)
    return folder


@pytest.fixture(scope="session")
def config_for():
    """config_for(*sources, batch_size=…, **data keys) -> Config with 32-pixel pictures and 16 tokens."""

    def make(*sources, batch_size=4, seed=42, **data):
        data = {"workers": 0, **data}
        train = tuple(str(source) for source in sources)
        return replace(
            Config(total_steps=10),
            batch_size=batch_size,
            seed=seed,
            model=preset("tiny"),
            data=DataConfig(train, **data),
        )

    return make
