"""A tiny run that is killed at random moments, and started again each time, against the same run left alone.

    python benchmarks/soak.py --kills=50 [--seed=0]

A kill is SIGKILL or SIGTERM, while a process starts or some steps later: in a step, in a save, while it ends. Exit code
0 if both runs end with the same bytes: parameters, moments, step, and the loss of every step.
"""

import argparse
import io
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter

import numpy as np
from PIL import Image

STEPS_A_KILL = 40  # of the run's length: far more than a life makes, so that no kill is left when the run ends
LONGEST_LIFE = 20  # steps from a start to a kill
STARTING = 0.25  # share of the kills that come before a process has made its first step
CONFIG = """
from clipjax.config import default_config

def get_config():
    config = default_config()
    config.model.preset = "tiny"
    config.model.image.image_size = 16
    config.data.train = {data!r}
    config.batch_size = 16
    config.total_steps = {steps}
    config.optimizer.warmup_steps = 2
    config.checkpoint_every = 8
    config.mesh.data = 1
    return config
"""


def soak(folder: pathlib.Path, kills: int, seed: int = 0) -> Counter:
    """Make both runs and hold them against each other; returns how many kills there were of each kind.

    Raises AssertionError where a start fails, the run ends before its last kill, or the ends differ.
    """
    _draw(folder / "pairs.tar")
    steps = STEPS_A_KILL * (kills + 1)
    (folder / "config.py").write_text(CONFIG.format(data=str(folder / "pairs.tar"), steps=steps))
    began = time.monotonic()
    process = _start(folder, "alone")
    _wait_for_step(process, folder / "alone", 1)
    start_seconds = time.monotonic() - began
    assert process.wait() == 0, _log(folder, "alone")
    counts = _kill_often(folder, kills, start_seconds, random.Random(seed))
    assert _start(folder, "killed").wait() == 0, _log(folder, "killed")
    _assert_same_end(folder / "alone", folder / "killed", steps)
    return counts


def _kill_often(folder: pathlib.Path, kills: int, start_seconds: float, draw: random.Random) -> Counter:
    counts = Counter()
    for kill in range(kills):
        process = _start(folder, "killed")
        if draw.random() < STARTING:
            moment = "while starting"
            _sleep(process, draw.uniform(0, start_seconds))
        else:
            moment = "after some steps"
            _wait_for_step(process, folder / "killed", _last_step(folder / "killed") + draw.randint(1, LONGEST_LIFE))
            _sleep(process, draw.uniform(0, 0.1))
        assert process.poll() is None, f"kill {kill}: the process had ended\n{_log(folder, 'killed')}"
        sent = draw.choice([signal.SIGKILL, signal.SIGTERM])
        process.send_signal(sent)
        code = process.wait()
        # before the first step a SIGTERM ends the process as it ends any other
        assert code in (-sent, 75 if sent == signal.SIGTERM else -sent), f"exit code {code}\n{_log(folder, 'killed')}"
        counts[f"{sent.name} {moment}, exit code {code}"] += 1
    return counts


def _start(folder: pathlib.Path, name: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "clipjax", "train", f"--config={folder}/config.py", f"--workdir={folder / name}"]
    with (folder / f"{name}.log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)


def _wait_for_step(process: subprocess.Popen, workdir: pathlib.Path, step: int) -> None:
    while process.poll() is None and _last_step(workdir) < step:
        time.sleep(0.01)


def _sleep(process: subprocess.Popen, seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass


def _rows(workdir: pathlib.Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _last_step(workdir: pathlib.Path) -> int:
    return max((row["step"] for row in _rows(workdir)), default=0)


def _log(folder: pathlib.Path, name: str) -> str:
    return (folder / f"{name}.log").read_text()[-3000:]


def _assert_same_end(alone: pathlib.Path, killed: pathlib.Path, steps: int) -> None:
    (expected, found), (losses, found_losses) = (
        [make(run) for run in (alone, killed)]
        for make in (lambda run: _state_bytes(run, steps), lambda run: {row["step"]: row["loss"] for row in _rows(run)})
    )
    different = [path for path in expected if found.get(path) != expected[path]]
    assert found.keys() == expected.keys() and not different, f"the ends differ: {different[:5]}"
    assert len(losses) == steps and found_losses == losses, "the losses differ"


def _state_bytes(workdir: pathlib.Path, step: int) -> dict[str, bytes]:
    """Every array of the saved state as bytes by path."""
    import jax
    import orbax.checkpoint as ocp

    from clipjax.trees import flatten

    folder = workdir / f"checkpoints/{step}/state"
    with ocp.PyTreeCheckpointer() as reader:
        shapes = reader.metadata(folder).item_metadata.tree
        kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        found = reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=kinds))
    return {path: np.asarray(leaf).tobytes() for path, leaf in flatten(found).items()}


def _draw(path: pathlib.Path) -> None:
    """A shard of 48 noisy pictures with captions of several lengths."""
    noise = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for item in range(48):
            picture = io.BytesIO()
            Image.fromarray(noise.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(picture, "png")
            caption = " ".join(["red", "dog"] * (1 + item % 5))
            for name, content in ((f"{item:03}.png", picture.getvalue()), (f"{item:03}.txt", caption.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def main() -> None:
    """Soak in a folder that goes away, and print what was done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts = soak(pathlib.Path(folder), options.kills, options.seed)
    for kind, count in sorted(counts.items()):
        print(f"{count:4}  {kind}")
    print(f"{counts.total()} kills in {time.monotonic() - began:,.0f} s: the same bytes at the end")


if __name__ == "__main__":
    main()
