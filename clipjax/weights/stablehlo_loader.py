"""Load an exported CLIP: needs jax, the NumPy it brings, and flatbuffers (which jax.export reads with), nothing else.

    from load import load
    model = load("folder")
    model.image(pixels)   # [n, height, width, 3] float32, preprocessed -> [n, E] float32, not normalised
    model.text(tokens)    # [n, L] int32, zero-padded -> [n, E] float32, not normalised
    model.logit_scale     # exponentiated: softmax(logit_scale · unit(image) · unit(text)ᵀ) over texts
    model.config          # sizes, mean, std and interpolation of the preprocessing, activation, tokenizer

The number of rows n is free. Every n is compiled once; give batches of few different lengths.
"""

import json
import pathlib
from types import SimpleNamespace

import jax
import numpy as np
from jax import export


def load(folder) -> SimpleNamespace:
    """The model in `folder`: `image`, `text` (functions), `logit_scale` (float) and `config` (dict)."""
    folder = pathlib.Path(folder)
    with np.load(folder / "weights.npz", allow_pickle=False) as stored:
        variables = _nested({path: stored[path] for path in stored.files})
    variables = jax.device_put(variables)
    programs = {name: export.deserialize((folder / f"{name}.stablehlo").read_bytes()) for name in ("image", "text")}
    calls = {name: jax.jit(program.call) for name, program in programs.items()}
    return SimpleNamespace(
        image=lambda pixels: calls["image"](variables, np.asarray(pixels, np.float32)),
        text=lambda tokens: calls["text"](variables, np.asarray(tokens, np.int32)),
        logit_scale=float(np.exp(variables["logit_scale"])),
        config=json.loads((folder / "config.json").read_text()),
    )


def _nested(leaves):
    root = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        node = root
        for part in folders:
            node = node.setdefault(part, {})
        node[name] = leaf
    return root
