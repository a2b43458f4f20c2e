"""The start-up row of peers.py: from the command to the end of the first training step of two pairs.

python benchmarks/peers_start.py MODEL        what is timed for open_clip: import, random model, one step
"""

import io
import os
import pathlib
import subprocess
import sys
import tarfile
import time

import numpy as np
from PIL import Image

CONFIG = """
from clipjax.config import default_config

def get_config():
    config = default_config()
    config.model.preset = {name!r}
    config.batch_size = 2
    config.total_steps = 1
    config.data.train = {data!r}
    config.checkpoint_every = 0
    return config
"""


def seconds_to_first_step(variant: str, name: str, folder: pathlib.Path) -> float:
    """Seconds for `clipjax train` ("ours") or a minimal script of open_clip; files are kept in the folder."""
    if variant != "ours":
        return _seconds([sys.executable, __file__, name], lambda process: process.stdout.read(1))
    data, config = folder / "pairs.tar", folder / "config.py"
    if not data.exists():
        _draw(data)
        config.write_text(CONFIG.format(name=name, data=str(data)))
    workdir = folder / f"run-{time.monotonic_ns()}"
    metrics = workdir / "metrics.jsonl"

    def first_line(process):
        while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
            time.sleep(0.02)

    command = [sys.executable, "-m", "clipjax", "train", f"--config={config}", f"--workdir={workdir}"]
    return _seconds(command, first_line, {"CLIPJAX_CACHE": str(folder / "cache")})


def _seconds(command: list[str], wait, environment: dict | None = None) -> float:
    begin = time.monotonic()
    process = subprocess.Popen(
        command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    wait(process)
    seconds = time.monotonic() - begin
    process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed with exit code {process.returncode}")
    return seconds


def _draw(path: pathlib.Path) -> None:
    random = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for item in range(16):
            picture = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (240, 320, 3), dtype=np.uint8)).save(picture, "jpeg")
            for name, content in (("jpg", picture.getvalue()), ("txt", f"picture number {item}".encode())):
                member = tarfile.TarInfo(f"{item}.{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _open_clip_step(name: str) -> None:
    import open_clip
    import torch
    from peers_workers import _create

    model = _create(name).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    size = model.visual.image_size
    size = size if isinstance(size, int) else size[0]
    tokens = open_clip.get_tokenizer("ViT-B-32")(["picture number 1", "picture number 2"])
    open_clip.ClipLoss()(*model(torch.rand(2, 3, size, size), tokens)).backward()
    optimizer.step()
    print("done", flush=True)
    os._exit(0)


if __name__ == "__main__":
    _open_clip_step(sys.argv[1])
