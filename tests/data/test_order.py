import threading

import numpy as np
import pytest

from clipjax.data.order import epoch_order, position_rng, shard_order


def test_the_order_for_seed_42_stays_what_it_is():
    # A run that resumes after an upgrade goes on at its step. If these numbers change, it sees other data than it would
    # have seen, and "resume equals uninterrupted" is broken for every checkpoint there is.
    assert epoch_order(42, 0, 10).tolist() == [5, 6, 0, 7, 3, 2, 4, 9, 1, 8]
    assert epoch_order(42, 1, 10).tolist() == [7, 3, 2, 5, 1, 8, 9, 0, 6, 4]
    assert position_rng(42, 7).integers(0, 1000, 5).tolist() == [947, 407, 401, 758, 422]


@pytest.mark.parametrize("records", [1, 2, 3, 10, 1000])
def test_each_epoch_visits_each_record_once(records):
    for epoch in range(3):
        assert sorted(epoch_order(0, epoch, records).tolist()) == list(range(records))


def test_seeds_and_epochs_give_orders_of_their_own():
    orders = {tuple(epoch_order(seed, epoch, 50).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_all_orders_of_three_records_are_about_as_likely():
    counts = {}
    for epoch in range(3000):
        order = tuple(epoch_order(1, epoch, 3).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6 and min(counts.values()) > 400  # 500 each, ± 5 standard deviations


def test_an_order_cannot_be_spoilt_by_who_reads_it():
    with pytest.raises(ValueError):
        epoch_order(0, 0, 5)[0] = 1


def test_threads_get_the_same_order():
    found = []
    threads = [threading.Thread(target=lambda: found.append(epoch_order(3, 9, 10_000))) for _ in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert all(np.array_equal(order, found[0]) for order in found)


def test_an_epoch_and_a_position_of_one_number_draw_different_streams():
    order = np.arange(100, dtype=np.uint32)
    position_rng(5, 0).shuffle(order)
    assert order.tolist() != epoch_order(5, 0, 100).tolist()


def test_shards_that_are_mixed_some_at_a_time_are_met_in_groups_and_each_record_once():
    sizes, ends = (3, 1, 4, 1, 5, 2), np.cumsum((3, 1, 4, 1, 5, 2))
    for epoch in range(3):
        order = shard_order(7, epoch, sizes, 2)
        assert sorted(order.tolist()) == list(range(16))
        shards = np.searchsorted(ends, order, side="right")
        groups, place = [], 0
        while place < len(shards):
            group = list(dict.fromkeys(shards[place:].tolist()))[:2]
            size = sum(sizes[shard] for shard in group)
            assert set(shards[place : place + size].tolist()) == set(group)
            groups.append(group)
            place += size
        assert sorted(sum(groups, [])) == list(range(6))
    # As above: checkpoints of runs with data.shuffle_shards depend on it.
    assert shard_order(42, 0, sizes, 2).tolist() == [5, 7, 8, 4, 6, 13, 12, 9, 11, 10, 14, 15, 3, 1, 2, 0]
