"""The parity note of a conversion: how far features move between a model and what was written of it."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from clipjax.config import ModelConfig
from clipjax.data.files import replace_text, replacing
from clipjax.text import START

Encode = Callable[[np.ndarray], np.ndarray]


def inputs(model: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Two pictures [2, height, width, 3] float32 and three texts [3, L] int32, the same ones for a model every time."""
    generator = np.random.default_rng(0)
    size, length = model.image.image_size, model.text.context_length
    pixels = generator.standard_normal((2, size, size, 3), np.float32)
    tokens = np.zeros((3, length), np.int32)
    for row, words in zip(tokens, (1, max(1, length // 4), length - 2), strict=True):
        row[: words + 2] = [
            min(START, model.text.vocab_size - 2),
            *generator.integers(0, model.text.vocab_size - 2, words),
            model.text.end_token,
        ]
    return pixels, tokens


def note(
    destination: pathlib.Path,
    format: str,
    source: str,
    model: ModelConfig,
    before: tuple[Encode, Encode],
    after: tuple[Encode, Encode],
) -> dict[str, Any]:
    """Compare the (image, text) encoders of a model before and after its conversion, and store what was found.

    Writes parity.json and parity.npz (the inputs, and the features before) into the folder `destination`, or beside a
    file under its name. Returns the content of the JSON: the largest absolute differences, and the largest features.
    """
    pixels, tokens = inputs(model)
    rows = {"image": pixels, "text": tokens}
    expected = {name: np.asarray(encode(rows[name])) for name, encode in zip(rows, before, strict=True)}
    found = {name: np.asarray(encode(rows[name])) for name, encode in zip(rows, after, strict=True)}
    result = {"source": source, "format": format, "compared": "features, not normalised, float32"}
    for name in rows:
        result[f"{name}_difference"] = float(np.abs(found[name] - expected[name]).max())
        result[f"{name}_largest"] = float(np.abs(expected[name]).max())
    stem = destination / "parity" if destination.is_dir() else destination.with_name(f"{destination.name}.parity")
    arrays = {"pixels": pixels, "tokens": tokens}
    arrays |= {f"{name}_features": features for name, features in expected.items()}
    with replacing(stem.with_name(f"{stem.name}.npz")) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    replace_text(stem.with_name(f"{stem.name}.json"), json.dumps(result, indent=1) + "\n")
    return result
