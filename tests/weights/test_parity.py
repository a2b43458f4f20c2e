"""The parity note: the same inputs every time, and differences that are really there."""

import json

import numpy as np

from clipjax.config import preset
from clipjax.text import END
from clipjax.weights import parity


def test_inputs_fit_the_model_and_are_the_same_every_time():
    model = preset("tiny")
    (pixels, tokens), again = parity.inputs(model), parity.inputs(model)
    assert pixels.shape == (2, 32, 32, 3) and tokens.shape == (3, 16)
    assert np.array_equal(pixels, again[0]) and np.array_equal(tokens, again[1])
    assert ((tokens == END).sum(1) == 1).all() and tokens[2, -1] == END


def test_the_note_tells_the_largest_difference_and_keeps_the_inputs(tmp_path):
    model = preset("tiny")

    def before(rows):
        return np.full((len(rows), 3), 2.0, np.float32)

    def after(rows):
        return before(rows) - np.float32(0.5)

    note = parity.note(tmp_path, "flax", "here", model, (before, before), (before, after))
    assert (note["image_difference"], note["text_difference"], note["text_largest"]) == (0.0, 0.5, 2.0)
    assert json.loads((tmp_path / "parity.json").read_text()) == note
    stored = np.load(tmp_path / "parity.npz")
    assert np.array_equal(stored["pixels"], parity.inputs(model)[0]) and (stored["text_features"] == 2).all()


def test_the_note_of_a_file_stands_beside_it(tmp_path):
    (tmp_path / "a.pt").touch()
    same = (lambda rows: rows[:, :1], lambda rows: rows[:, :1])
    parity.note(tmp_path / "a.pt", "openai", "here", preset("tiny"), same, same)
    assert {path.name for path in tmp_path.iterdir()} == {"a.pt", "a.pt.parity.json", "a.pt.parity.npz"}
