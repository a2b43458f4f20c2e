"""The feed: whole batches in order, cut to what all processes need, and never read further than the run goes."""

import jax
import numpy as np
import pytest

from clipjax.config import MeshConfig, resolve
from clipjax.data.batch import Batch
from clipjax.errors import UserError
from clipjax.parallel.mesh import make_mesh
from clipjax.text import END
from clipjax.training.feed import Feed

LONGEST = (5, 30, 17, 40)  # tokens of the longest caption of each batch


@pytest.fixture
def config(tiny):
    tiny.model.text.context_length = 40
    tiny.batch_size = 4
    return resolve(tiny)


def batch_with(longest):
    tokens = np.zeros((4, 40), np.int32)
    tokens[:, 1] = END
    tokens[2, :longest] = [*range(1, longest), END]
    return Batch(np.full((4, 16, 16, 3), longest, np.uint8), tokens)


class Data:
    """The batches of LONGEST, and how many were read."""

    def __init__(self):
        self.read = 0

    def __next__(self):
        self.read += 1
        return batch_with(LONGEST[self.read - 1])


def feed_of(config, steps=4):
    data = Data()
    return Feed(config, make_mesh(MeshConfig(), jax.devices()[:4]), np.arange(4), data, steps), data


@pytest.fixture(params=[1, 2])
def processes(request, monkeypatch):
    """Alone, or as if another process with the same rows were there: the exchange is then a program on all devices."""
    monkeypatch.setattr(jax, "process_count", lambda *_: request.param)
    return request.param


def test_batches_are_cut_to_the_bucket_of_their_longest_caption(config, processes):
    feed, _ = feed_of(config)
    for longest, length in zip(LONGEST, (16, 32, 24, 40), strict=True):
        batch, stop = feed.next(asked=False)
        assert not stop and batch.tokens.shape == (4, length)
        np.testing.assert_array_equal(batch.tokens, batch_with(longest).tokens[:, :length])
        np.testing.assert_array_equal(batch.images, batch_with(longest).images)


def test_the_first_length_is_known_before_the_first_step(config, processes):
    feed, data = feed_of(config)
    assert (feed.length, data.read) == (16, 1)


def test_nothing_is_read_past_the_last_step(config, processes):
    feed, data = feed_of(config, steps=2)
    feed.next(asked=False), feed.next(asked=False)
    assert data.read == 2 and feed.length is None


def test_a_run_without_steps_reads_nothing(config, processes):
    feed, data = feed_of(config, steps=0)
    assert data.read == 0 and feed.length is None


def test_a_process_alone_stops_at_once_and_several_with_the_batch_that_is_read_next(config, processes):
    feed, _ = feed_of(config)
    found = [feed.next(asked)[1] for asked in (False, True, True)]
    assert found == ([False, True, True] if processes == 1 else [False, False, True])


def test_mistakes_in_the_data_come_through(config):
    class Wrong:
        def __next__(self):
            raise UserError("data.train: is wrong")

    with pytest.raises(UserError, match="is wrong"):
        Feed(config, make_mesh(MeshConfig(), jax.devices()[:1]), np.arange(4), Wrong(), 1)
