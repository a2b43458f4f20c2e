"""A run in stages: small pictures and short texts first; stopped inside any stage it goes on to the same end."""

import json

import jax
import numpy as np
import pytest

from clipjax import checkpoints
from clipjax.training.feed import Feed
from clipjax.training.loop import Stopped, train
from clipjax.trees import flatten


@pytest.fixture
def staged(tiny):
    """Two steps each of 8 pixels and 8 tokens, of 16 pixels with half of the patches, and of everything."""
    tiny.stages = [dict(share=1 / 3, image_size=8, context_length=8), dict(share=1 / 3, patch_dropout=0.5)]
    tiny.dropout = 0.1
    tiny.mesh.data = -1
    tiny.micro_batch_size = 8
    return tiny


def metrics(workdir, name):
    return [json.loads(line)[name] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_stopped_inside_any_stage_goes_on_to_the_same_end(staged, tmp_path, monkeypatch, capsys):
    train(staged, tmp_path / "whole")
    assert "pictures of 16 pixels" in capsys.readouterr().err
    assert metrics(tmp_path / "whole", "text_length") == [8, 8, 16, 16, 16, 16]
    taken = Feed.next
    for at in (1, 3, 5):  # one step into each stage
        counted = iter(range(at + 1))
        with monkeypatch.context() as patch, pytest.raises(Stopped, match=f"step {at}"):
            patch.setattr(Feed, "next", lambda self, asked, counted=counted, at=at: taken(self, next(counted) == at))
            train(staged, tmp_path / f"stopped {at}")
        train(staged, tmp_path / f"stopped {at}")
        whole, parts = (checkpoints.read(tmp_path / name) for name in ("whole", f"stopped {at}"))
        assert whole.step == parts.step == 6
        for path, leaf in flatten(whole.params).items():
            np.testing.assert_array_equal(flatten(parts.params)[path], leaf, path)
        assert metrics(tmp_path / "whole", "loss") == metrics(tmp_path / f"stopped {at}", "loss")


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
    """A run takes all devices there are; here those are two."""
    devices = jax.devices()[:2]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: devices)
    monkeypatch.setattr(jax, "device_count", lambda *_: 2)
