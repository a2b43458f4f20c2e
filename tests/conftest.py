"""What all tests share: eight CPU devices, strict shapes, and no network."""

import io
import os
import pathlib
import tarfile

# Compiled programs and indexes are kept between runs of the tests, not among the user's own.
CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache"
os.environ["CLIPJAX_CACHE"] = str(CACHE)
# Neither here nor in the processes that tests start is an accelerator looked for, whatever plugins are installed.
os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling takes most of the time of small runs: optimise little, here and in the processes that tests start.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

import jax
import numpy as np
import pytest
from PIL import Image

from clipjax.config import default_config

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

jax.config.update("jax_compilation_cache_dir", str(CACHE / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}


@pytest.fixture(autouse=True)
def traced_steps(monkeypatch):
    """Tests change what a step is traced from in memory, where a kept one does not see it: none is kept."""
    monkeypatch.setattr("clipjax.training.program.step_directory", lambda: None)


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """A glob of two webdataset shards: 40 noisy 32-pixel pictures of four colours, two captions each."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    for shard in range(2):
        with tarfile.open(folder / f"train-{shard:05d}.tar", "w") as tar:
            for item in range(20):
                name = list(COLOURS)[item % 4]
                pixels = np.clip(rng.normal(COLOURS[name], 20, (32, 32, 3)), 0, 255).astype(np.uint8)
                key = f"{shard}-{item:03d}"
                _add(tar, f"{key}.png", _png(pixels))
                _add(tar, f"{key}.txt", f"a {name} picture\nsomething {name}, number {item}".encode())
    return f"{folder}/*.tar"


@pytest.fixture(scope="session")
def colour_folders(tmp_path_factory):
    """A plain folder of class folders: three pictures of each of the four colours."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(1)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for item in range(3):
            pixels = np.clip(rng.normal(colour, 20, (40, 32, 3)), 0, 255).astype(np.uint8)
            (folder / name / f"{item}.png").write_bytes(_png(pixels))
    return folder


@pytest.fixture
def tiny(shards):
    """A ConfigDict of the smallest run there is: 6 steps of 16 pairs."""
    config = default_config()
    config.model.preset = "tiny"
    config.model.image.image_size = 16
    config.data.train = shards
    config.batch_size = 16
    config.total_steps = 6
    config.optimizer.warmup_steps = 2
    config.optimizer.learning_rate = 1e-3
    config.checkpoint_every = 2
    config.mesh.data = 1
    return config


def _png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def _add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def pytest_make_parametrize_id(config, val, argname):
    """Bytes are named by their argument: compressed ones differ from one collection of the tests to the next."""
    return argname if isinstance(val, bytes) else None
