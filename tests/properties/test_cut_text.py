"""Texts cut to the longest caption of each batch: the numbers of whole texts, and a run that resumes bit for bit."""

import json

import jax
import numpy as np
import pytest

from clipjax import checkpoints
from clipjax.training import feed
from clipjax.training.feed import Feed
from clipjax.training.loop import Stopped, train
from clipjax.trees import flatten


@pytest.fixture
def config(tiny, captions, monkeypatch):
    """Six steps of four pairs on one device."""
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: devices)
    monkeypatch.setattr(jax, "device_count", lambda *_: 1)
    tiny.data.train = captions
    tiny.batch_size = 4
    tiny.model.text.context_length = 24
    tiny.optimizer.eps = 1e-3  # above the noise of the gradients
    return tiny


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_on_cut_texts_is_the_run_on_whole_ones_and_resumes_bit_for_bit(config, tmp_path, monkeypatch):
    train(config, tmp_path / "cut")
    cut = flatten(checkpoints.read(tmp_path / "cut").params)
    lengths = [row["text_length"] for row in rows(tmp_path / "cut")]
    assert set(lengths[:3]) == set(lengths[3:]) == {16, 24}

    with monkeypatch.context() as patch, pytest.raises(Stopped, match="step 3"):
        counted, taken = iter(range(6)), Feed.next
        patch.setattr(Feed, "next", lambda self, asked: taken(self, next(counted) == 3))
        train(config, tmp_path / "parts")
    train(config, tmp_path / "parts")
    for path, leaf in flatten(checkpoints.read(tmp_path / "parts").params).items():
        np.testing.assert_array_equal(leaf, cut[path], path)
    assert [row["text_length"] for row in rows(tmp_path / "parts")] == lengths

    monkeypatch.setattr(feed, "bucket", lambda longest, context_length: context_length)
    train(config, tmp_path / "whole")
    for row, whole in zip(rows(tmp_path / "cut"), rows(tmp_path / "whole"), strict=True):
        assert whole["text_length"] == 24
        for name in ("loss", "gradient_norm", "parameter_norm", "recall_at_1"):
            assert row[name] == pytest.approx(whole[name], rel=2e-5), name
    for path, leaf in flatten(checkpoints.read(tmp_path / "whole").params).items():
        np.testing.assert_allclose(leaf, cut[path], rtol=1e-4, atol=2e-6, err_msg=path)
