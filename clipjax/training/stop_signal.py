"""How a run is asked to stop."""

import signal

from clipjax.progress import say


class StopSignal:
    """Turns the first SIGTERM or SIGINT into a flag; a second one acts as usual."""

    def __enter__(self):
        self.asked = False
        self._before = {}
        for kind in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[kind] = signal.signal(kind, self._note)
            except ValueError:  # not in the main thread: the caller's own handlers stay
                break
        return self

    def _note(self, kind, frame):
        self.asked = True
        signal.signal(kind, self._before[kind])
        say("stopping after this step; saving")

    def __exit__(self, *_):
        for kind, handler in self._before.items():
            signal.signal(kind, handler)
