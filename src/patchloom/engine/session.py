"""What every executor does at the beginning and at the end of a session: counts, signals, the last event."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from patchloom.events import Callback, Event, PatchesPredicted, PatchesSkipped, RunFinished, RunStarted, RunStopping
from patchloom.predictions.index import ImageRow

__all__ = ["Work", "conduct", "wait_for"]

POLL = 0.2
"""Seconds between looks at signals while workers work."""


class Work(Protocol):
    """Everything that a session has to do."""

    def run(self) -> None:
        """Do it; raises what ends the run."""

    def stop(self) -> None:
        """Begin nothing new, and have `run` return when what was begun is finished; called by another thread."""


class Stand(Protocol):
    """How far it is: the index of a run, or what that says of one share of it."""

    def refresh(self) -> None:
        """Take up what was recorded since."""

    def counts(self) -> dict[str, int]:
        """Number of images that are done, partial, left and failed."""

    def images(self, *states: str) -> Iterator[ImageRow]:
        """Images in some states."""


def conduct(make: Callable[[Callback], Work], index: Stand, emit: Callback, started: RunStarted) -> RunFinished:
    """Begin a session, do its work, and say how it ended.

    Parameters
    ----------
    make
        Makes the work, given whom it tells of events.
    index
        Of the run.
    emit
        Told of everything; called by one thread at a time.
    started
        First event.

    Returns
    -------
    RunFinished
        The last event; `stopped` says whether the user ended the session.
    """
    begin = time.monotonic()
    tell, stopped = _Counter(emit), threading.Event()
    work = make(tell)

    def stop() -> None:
        stopped.set()
        tell(RunStopping())
        work.stop()

    tell(started)
    with _signals(stop):
        work.run()
    index.refresh()
    ended = _finished(index, time.monotonic() - begin, tell, stopped=stopped.is_set())
    tell(ended)
    return ended


def _finished(index: Stand, seconds: float, counter: _Counter, *, stopped: bool) -> RunFinished:
    counts = index.counts()
    partial = tuple(
        (row.name, row.patches_done / max(1, row.patches))
        for row, _ in zip(index.images("partial"), range(16), strict=False)
    )
    left = counts["left"] + counts["partial"]
    return RunFinished(
        counts["done"], counts["failed"], left, seconds, counter.patches, stopped, partial, counter.skipped
    )


class _Counter:
    """Passes events on one at a time, and counts patches."""

    def __init__(self, emit: Callback) -> None:
        self._emit, self._lock, self.patches, self.skipped = emit, threading.RLock(), 0, 0

    def __call__(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, PatchesPredicted):
                self.patches += event.patches
            elif isinstance(event, PatchesSkipped):
                self.skipped += event.patches
            self._emit(event)


def wait_for(thread: threading.Thread) -> None:
    """Wait until a thread ends, and look at signals meanwhile."""
    while thread.is_alive():
        thread.join(POLL)


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """First Ctrl-C or SIGTERM: stop cleanly. Second: at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        threading.Thread(target=stop, name="patchloom-stop").start()

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for each in before:
        signal.signal(each, handle)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
