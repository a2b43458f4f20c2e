"""Positions at another size equal what open_clip's own functions make of them (fixtures/make_positions.py)."""

import dataclasses
import pathlib

import numpy as np
import pytest

from clipjax.config import preset
from clipjax.models.positions import fit_positions, resize_context, resize_grid

STORED = np.load(pathlib.Path(__file__).parent / "fixtures/positions.npz")


@pytest.mark.parametrize(("old", "new"), [(7, 14), (16, 24), (7, 5)])
def test_a_grid_is_resized_as_open_clip_does(old, new):
    found = resize_grid(STORED[f"grid_{old}"], new)
    np.testing.assert_allclose(found, STORED[f"grid_{old}_to_{new}"], atol=2e-6)
    np.testing.assert_array_equal(found[0], STORED[f"grid_{old}"][0])
    assert found.dtype == np.float32


@pytest.mark.parametrize(("old", "new"), [(5, 12), (16, 23)])
def test_a_longer_context_is_interpolated_as_open_clip_does(old, new):
    found = resize_context(STORED[f"context_{old}"], new)
    np.testing.assert_allclose(found, STORED[f"context_{old}_to_{new}"], atol=1e-6)


def test_a_shorter_context_is_the_first_rows():
    rows = STORED["context_16"]
    np.testing.assert_array_equal(resize_context(rows, 9), rows[:9])


def at(model, image_size, context_length):
    return dataclasses.replace(
        model,
        image=dataclasses.replace(model.image, image_size=image_size),
        text=dataclasses.replace(model.text, context_length=context_length),
    )


@pytest.mark.parametrize(
    ("name", "path", "sizes"),
    [
        ("tiny", "image/positional_embedding", (32, 48)),
        ("tiny-resnet", "image/pool/positional_embedding", (64, 96)),
    ],
)
def test_both_kinds_of_towers_are_fitted_and_it_is_said(name, path, sizes):
    found, wanted = at(preset(name), sizes[0], 16), at(preset(name), sizes[1], 20)
    sides = [size // found.image.patch_size for size in sizes]
    rows = np.random.default_rng(0).normal(size=(1 + sides[0] ** 2, 3)).astype(np.float32)
    table = {path: rows, "text/positional_embedding": STORED["context_16"], "logit_scale": np.float32(1)}
    fitted, lines = fit_positions(table, found, wanted)
    np.testing.assert_array_equal(fitted[path], resize_grid(rows, sides[1]))
    assert len(fitted["text/positional_embedding"]) == 20 and fitted["logit_scale"] == 1
    assert len(lines) == 2 and path in lines[0] and "linear" in lines[1]
    assert ("open_clip does not" in lines[0]) == (name == "tiny-resnet")
    assert len(table[path]) == len(rows)  # the table that was given stays as it is


def test_what_fits_is_left_alone():
    table = {"image/positional_embedding": np.ones((17, 2), np.float32)}
    assert fit_positions(table, preset("tiny"), preset("tiny")) == (table, [])
