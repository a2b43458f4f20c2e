"""StableHLO: both encoders as portable programs for CPU, CUDA and TPU, with a loader that needs jax and flatbuffers."""

import dataclasses
import pathlib
import shutil

import numpy as np

from clipjax import text
from clipjax.trees import flatten
from clipjax.weights import Weights, json_file, stablehlo_loader
from clipjax.weights.program import functions_of

PLATFORMS = ("cpu", "cuda", "tpu")


def write(path: pathlib.Path, weights: Weights) -> None:
    """A new folder: image.stablehlo, text.stablehlo (the number of rows is free), weights.npz, config.json, load.py.

    The programs are what `jax.export` serialises; their weights are an argument, so that both stay small and one file
    holds them once.
    """
    import jax
    from jax import export

    variables, image, encode_text = functions_of(weights)
    size, length = weights.model.image.image_size, weights.model.text.context_length
    (rows,) = export.symbolic_shape("rows")
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    inputs = {
        "image": (image, jax.ShapeDtypeStruct((rows, size, size, 3), np.float32)),
        "text": (encode_text, jax.ShapeDtypeStruct((rows, length), np.int32)),
    }
    path.mkdir()
    for name, (function, rows_of) in inputs.items():
        exported = export.export(jax.jit(function), platforms=PLATFORMS)(shapes, rows_of)
        (path / f"{name}.stablehlo").write_bytes(exported.serialize())
    np.savez(path / "weights.npz", **flatten(variables))
    tokenizer = {**text.identity(), "context_length": length}
    json_file.write(path / "config.json", {"model": dataclasses.asdict(weights.model), "tokenizer": tokenizer})
    shutil.copyfile(stablehlo_loader.__file__, path / "load.py")


def programs(path: pathlib.Path):
    """The (image, text) functions of a folder, rows in and features [n, E] out."""
    model = stablehlo_loader.load(path)
    return model.image, model.text
