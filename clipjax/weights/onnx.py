"""ONNX: both encoders through jax2onnx, the maintained converter from JAX."""

import contextlib
import dataclasses
import functools
import logging
import pathlib

import numpy as np

from clipjax import text
from clipjax.errors import UserError
from clipjax.weights import Weights, json_file
from clipjax.weights.program import functions_of

_INSTALL = "Install it: pip install 'clipjax[onnx]' && pip install --no-deps jax2onnx"  # its pins exclude current orbax


def write(path: pathlib.Path, weights: Weights) -> None:
    """A new folder: image.onnx and text.onnx (the number of rows is free), config.json.

    Raises UserError where the converter is not installed.
    """
    try:
        from jax2onnx import to_onnx
    except ImportError as error:
        raise UserError(f"onnx: the converter jax2onnx cannot be imported ({error}). {_INSTALL}.") from None
    variables, image, encode_text = functions_of(weights)
    size, length = weights.model.image.image_size, weights.model.text.context_length
    path.mkdir()
    with _quiet("onnx_ir", "jax2onnx"):
        for name, function, shape, dtype in (
            ("image", image, ("rows", size, size, 3), np.float32),
            ("text", encode_text, ("rows", length), np.int32),
        ):
            spec = _spec(shape, dtype)
            to_onnx(
                lambda rows, function=function: function(variables, rows),
                [spec],
                return_mode="file",
                output_path=str(path / f"{name}.onnx"),
            )
    tokenizer = {**text.identity(), "context_length": length}
    json_file.write(path / "config.json", {"model": dataclasses.asdict(weights.model), "tokenizer": tokenizer})


def programs(path: pathlib.Path):
    """The (image, text) functions of a folder in onnxruntime, rows in and features [n, E] out."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"onnx: onnxruntime cannot be imported ({error}). {_INSTALL}.") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of constants that it drops

    def run(name, rows):
        session = onnxruntime.InferenceSession(path / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: rows})[0]

    return functools.partial(run, "image"), functools.partial(run, "text")


def _spec(shape, dtype):
    import jax

    return jax.ShapeDtypeStruct(shape, dtype)


@contextlib.contextmanager
def _quiet(*names: str):
    """The loggers' warnings off: the converter warns of shapes that it does not need."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
