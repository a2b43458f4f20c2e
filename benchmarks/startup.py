"""Seconds from the command to the end of the first training step of the demo, with an empty and with a filled cache.

    python benchmarks/startup.py

Each start is a process of its own. The demo set is drawn beforehand; its time does not count.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]


def seconds_to_first_step(folder: pathlib.Path, name: str) -> float:
    """Start the demo's training and wait for the first line of its metrics.jsonl."""
    workdir = folder / name
    command = [sys.executable, "-m", "clipjax", "train", f"--config={ROOT}/configs/demo.py", f"--workdir={workdir}"]
    overrides = [
        f"--config.data.train={folder}/demo/train/*.tar",
        "--config.evaluate_every=0",
        "--config.total_steps=2",
    ]
    environment = {**os.environ, "CLIPJAX_CACHE": str(folder / "cache")}
    begin = time.monotonic()
    process = subprocess.Popen([*command, *overrides], env=environment, stderr=subprocess.DEVNULL)
    metrics = workdir / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
        time.sleep(0.02)
    seconds = time.monotonic() - begin
    if process.wait() != 0:
        sys.exit(f"the run failed with exit code {process.returncode}")
    return seconds


def main():
    """Print both figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prepare = [sys.executable, "-m", "clipjax", "prepare", "demo", f"--out={folder}/demo"]
        subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL)
        for label in ("empty cache", "filled cache"):
            print(
                f"{label}: {seconds_to_first_step(folder, label.split()[0]):.1f} s from the command to the first step"
            )


if __name__ == "__main__":
    main()
