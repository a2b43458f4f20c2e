"""Loss of the demo after the same steps under each precision, on the same batches.

    python benchmarks/precision.py --steps=300

Prints a row a recipe: the mean loss of the last tenth of the steps, how far it lies from float32's, and the steps that
were skipped. Another seed shows how much is chance. The last recipes round moments and text weights to the
nearest instead.
"""

import argparse
import contextlib
import io
import pathlib
import runpy
import tempfile
from unittest import mock

import numpy as np

from clipjax.config import resolve
from clipjax.data.demo import prepare_demo
from clipjax.training import half_storage
from clipjax.training.loop import train
from clipjax.training.telemetry import read_metrics

ROOT = pathlib.Path(__file__).parents[1]
RECIPES = {  # name: precision, moments_dtype, weights_dtype, whether rounding is stochastic, seed
    "float32": ("float32", "float32", "float32", True, 0),
    "float32, another seed": ("float32", "float32", "float32", True, 1),
    "bfloat16 compute": ("bfloat16", "float32", "float32", True, 0),
    "float16 compute, loss scaling": ("float16", "float32", "float32", True, 0),
    "bfloat16 moments": ("float32", "bfloat16", "float32", True, 0),
    "float16 moments": ("float32", "float16", "float32", True, 0),
    "bfloat16 text weights": ("float32", "float32", "bfloat16", True, 0),
    "the paper's: bfloat16 compute, moments and text weights": ("bfloat16", "bfloat16", "bfloat16", True, 0),
    "bfloat16 moments, nearest": ("float32", "bfloat16", "float32", False, 0),
    "bfloat16 text weights, nearest": ("float32", "float32", "bfloat16", False, 0),
}


def losses(folder: pathlib.Path, name: str, options) -> tuple[np.ndarray, int]:
    """Loss of each step of a run, and how many were skipped."""
    precision, moments, text, stochastic, seed = RECIPES[name]
    config = runpy.run_path(str(ROOT / "configs/demo.py"))["get_config"]()
    config.update({"seed": seed, "precision": precision, "total_steps": options.steps})
    config.update({"evaluate_every": 0, "checkpoint_every": 0})
    config.data.train = f"{folder}/demo/train/*.tar"
    config.optimizer.update({"moments_dtype": moments, "learning_rate": options.learning_rate})
    config.model.text.weights_dtype = text
    nearest = mock.patch.object(half_storage, "round_stochastically", lambda x, dtype, bits: x.astype(dtype))
    workdir = folder / name.replace(" ", "-")
    with contextlib.nullcontext() if stochastic else nearest, contextlib.redirect_stderr(io.StringIO()):
        train(resolve(config), workdir)
    rows = read_metrics(workdir / "metrics.jsonl")
    return np.array([row["loss"] for row in rows]), rows[-1]["skipped_steps"]


def main():
    """Train under every recipe and print the rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            prepare_demo(folder / "demo")
        print("| recipe | loss | against float32 | skipped |\n|---|---|---|---|")
        base = None
        for recipe in RECIPES:
            rows, skipped = losses(folder, recipe, options)
            final = np.nanmean(rows[-max(len(rows) // 10, 1) :])
            base = final if base is None else base
            print(f"| {recipe} | {final:.4f} | {final - base:+.4f} | {skipped} |", flush=True)


if __name__ == "__main__":
    main()
