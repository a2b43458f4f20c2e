"""Captions of very different lengths."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

WORDS = (3, 4, 5, 6, 7, 4, 20, 5, 3, 8, 60, 4, 5, 6, 3, 3)  # of the captions, again and again


@pytest.fixture(scope="session")
def captions(tmp_path_factory):
    """A shard of 48 pictures with a caption each: most fit 16 tokens, some do not fit 24; one picture is broken."""
    path = tmp_path_factory.mktemp("captions") / "train.tar"
    rng = np.random.default_rng(3)
    with tarfile.open(path, "w") as tar:
        for item in range(48):
            picture = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(picture, "png")
            words = " ".join(("red", "dog", "on", "a")[n % 4] for n in range(WORDS[item % 16]))
            for name, content in (("png", picture.getvalue() if item != 7 else b"bad"), ("txt", words.encode())):
                member = tarfile.TarInfo(f"{item:03}.{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return str(path)
