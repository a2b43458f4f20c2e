"""The first signal asks, the second one acts, and afterwards all is as before."""

import os
import signal
import threading

import pytest

from clipjax.training.stop_signal import StopSignal


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_acts_as_usual(kind):
    heard = []
    before = signal.signal(kind, lambda *_: heard.append(kind))
    try:
        with StopSignal() as stop:
            assert not stop.asked
            os.kill(os.getpid(), kind)
            assert stop.asked and not heard
            os.kill(os.getpid(), kind)
            assert heard == [kind]
        os.kill(os.getpid(), kind)
        assert heard == [kind, kind]
    finally:
        signal.signal(kind, before)


def test_another_thread_than_the_main_one_leaves_the_handlers_alone():
    before, asked = signal.getsignal(signal.SIGTERM), []

    def run():
        with StopSignal() as stop:
            asked.append(stop.asked)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert asked == [False] and signal.getsignal(signal.SIGTERM) is before
