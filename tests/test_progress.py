"""Progress: quiet when short, a line with rate and time left when long, silent on other hosts."""

import time

import pytest

from clipjax import progress


def test_short_work_says_nothing(capsys):
    assert list(progress.track(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_long_work_tells_rate_and_time_left(capsys, clock):
    meter = progress.Meter("training", 100, "steps")
    clock[0] = 10.0
    meter.advance(25)
    assert capsys.readouterr().err == "training: 25/100 steps | 2.5 steps/s | 30 s left\n"


def test_work_that_is_broken_off_gives_the_terminal_back(monkeypatch):
    closed = []
    monkeypatch.setattr(progress.Meter, "close", lambda meter: closed.append(meter.done))
    with pytest.raises(ZeroDivisionError):
        for item in progress.track([2, 1, 0], "dividing"):
            1 / item
    assert closed == [2]


def test_a_resumed_meter_counts_the_rate_from_where_it_began(capsys, clock):
    meter = progress.Meter("training", 100, "steps", done=50)
    clock[0] = 10.0
    meter.advance(10, "loss 1.0")
    assert capsys.readouterr().err == "training: 60/100 steps | loss 1.0 | 40 s left\n"


def test_other_hosts_are_silent(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_first_host", lambda: False)
    progress.say("hello")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (61, "1 min 01 s"), (7260, "2 h 01 min")])
def test_durations_are_for_people(seconds, text):
    assert progress.duration(seconds) == text
