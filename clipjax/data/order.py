"""Which record stands at which position of the run: pure functions of the seed, whatever the hosts and workers."""

import threading
from functools import lru_cache

import numpy as np

_ORDER, _VIEW = 0, 1  # purposes, so that an epoch and a position of one number draw different streams
_lock = threading.Lock()  # threads that meet at the end of an epoch shuffle once


def epoch_order(seed: int, epoch: int, records: int) -> np.ndarray:
    """The order in which an epoch visits the records: [records] uint32, a permutation, the same array at each call."""
    with _lock:
        return _epoch_order(seed, epoch, records)


def shard_order(seed: int, epoch: int, sizes: tuple[int, ...], together: int) -> np.ndarray:
    """The same where shards of `sizes` records are mixed `together` at a time: only those have to be at hand.

    The shards are shuffled, then the records of each group of them; a group's shards are not met again in the epoch.
    """
    with _lock:
        return _shard_order(seed, epoch, sizes, together)


def position_rng(seed: int, position: int) -> np.random.Generator:
    """The random numbers of one position of the run: its caption and its crop."""
    return np.random.default_rng([seed, _VIEW, position])


@lru_cache(maxsize=2)
def _epoch_order(seed, epoch, records):
    order = np.arange(records, dtype=np.uint32)
    np.random.default_rng([seed, _ORDER, epoch]).shuffle(order)
    order.flags.writeable = False
    return order


@lru_cache(maxsize=2)
def _shard_order(seed, epoch, sizes, together):
    rng = np.random.default_rng([seed, _ORDER, epoch])
    starts, shards, groups = np.cumsum([0, *sizes]), rng.permutation(len(sizes)), []
    for first in range(0, len(shards), together):
        group = [np.arange(starts[one], starts[one + 1], dtype=np.uint32) for one in shards[first : first + together]]
        groups.append(np.concatenate(group))
        rng.shuffle(groups[-1])
    order = np.concatenate(groups)
    order.flags.writeable = False
    return order
