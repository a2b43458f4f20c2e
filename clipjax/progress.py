"""Progress for people: a bar on a terminal, a line every ten seconds elsewhere, nothing on hosts after the first."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

_EVERY_SECONDS = 10.0
_QUIET_SECONDS = 2.0
_BAR_SECONDS = 0.5


def say(message: str) -> None:
    """Print one line to stderr, on the first host only."""
    if _first_host():
        print(message, file=sys.stderr, flush=True)


def track(iterable: Iterable, what: str, total: int | None = None, unit: str = "items") -> Iterator:
    """Yield the items of `iterable`, showing how many are done, the rate and the time left.

    Nothing is shown for work that ends within two seconds. `total` defaults to `len(iterable)` where it has one.
    """
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    meter = Meter(what, total, unit)
    try:
        for item in iterable:
            yield item
            meter.advance()
    finally:  # a bar that stays would hide the terminal's cursor for good
        meter.close()


class Meter:
    """Counts work done and says so now and then; `extra` is a text shown in place of the rate."""

    def __init__(self, what: str, total: int | None, unit: str = "items", done: int = 0):
        self.what, self.total, self.unit = what, total, unit
        self.done = self._first = done
        self._start = time.monotonic()
        self._said = self._start - _EVERY_SECONDS + _QUIET_SECONDS
        self._bar: Any = None

    def advance(self, count: int = 1, extra: str = "") -> None:
        """Add `count` to the work done and show the state if the last time is long enough ago."""
        self.done += count
        now = time.monotonic()
        if now - self._said >= (_BAR_SECONDS if self._bar else _EVERY_SECONDS):
            self._said = now
            self._show(extra)

    def close(self, extra: str = "") -> None:
        """Show the final state if anything was shown before."""
        if time.monotonic() - self._start >= _QUIET_SECONDS:
            self._show(extra)
        if self._bar:
            self._bar.stop()

    def _show(self, extra: str) -> None:
        if not _first_host():
            return
        rate = (self.done - self._first) / max(time.monotonic() - self._start, 1e-9)
        said = extra or f"{rate:,.1f} {self.unit}/s"
        left = f"{duration((self.total - self.done) / rate)} left" if self.total and rate > 0 else ""
        if sys.stderr.isatty():
            self._bar = self._bar or _bar(self.what, self.total)
            self._bar.update(self._bar.task_ids[0], completed=self.done, said=" | ".join(filter(None, [said, left])))
            return
        count = f"{self.what}: {self.done:,}" + (f"/{self.total:,}" if self.total else "") + f" {self.unit}"
        print(" | ".join(filter(None, [count, said, left])), file=sys.stderr, flush=True)


def _bar(what: str, total: int | None):
    """A started rich bar on stderr; lines printed meanwhile appear above it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}")]
    bar = Progress(*columns, console=Console(stderr=True))
    bar.add_task(what, total=total, said="")
    bar.start()
    return bar


def duration(seconds: float) -> str:
    """Seconds as `42 s`, `3 min 20 s` or `2 h 05 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _first_host() -> bool:
    """Whether this process is the first of its run; asks JAX only if something else has imported it already."""
    distributed = sys.modules.get("jax._src.distributed")
    return distributed is None or not distributed.global_state.process_id
