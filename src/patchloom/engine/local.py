"""Runs units on this machine: one pipeline, its signals, its beginning and its end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from patchloom.engine.commit import Commits
from patchloom.engine.feed import Feed
from patchloom.engine.pipeline import Pipeline
from patchloom.engine.prepare import Ready
from patchloom.events import Callback, Event, PatchesPredicted, PatchesSkipped, RunFinished, RunStarted, RunStopping
from patchloom.images.source import Entry
from patchloom.predictions.index import Index
from patchloom.predictions.journal import Journal
from patchloom.predictions.lock import Lock
from patchloom.predictions.stores.store import PredictionStore

if TYPE_CHECKING:
    from patchloom.predictions.write_back import WriteBack

__all__ = ["execute"]

POLL = 0.2
"""Seconds between looks at signals while the pipeline works."""


def execute(
    ready: Ready,
    entries: Callable[[], Iterator[Entry]],
    index: Index,
    journal: Journal,
    lock: Lock,
    emit: Callback,
    started: RunStarted,
    store: PredictionStore | None = None,
    also: WriteBack | None = None,
) -> RunFinished:
    """Predict every image that is not done.

    Parameters
    ----------
    ready
        Model and limits.
    entries
        Enumerates the source.
    index
        What earlier sessions did.
    journal, lock
        Of this session.
    emit
        Told of everything; called by one thread at a time.
    started
        First event.
    store
        Where rows of vector heads go; None for tables in the run's folder.
    also
        Table of the source's database that gets the predictions, too.

    Returns
    -------
    RunFinished
        The last event; `stopped` says whether the user ended it.
    """
    begin = time.monotonic()
    counter = _Counter(emit)
    emit = counter
    raise_failures = ready.layout.config.on_error == "raise"
    commits = Commits(ready.layout, journal, lock, emit, raise_failures=raise_failures, store=store, also=also)
    feed = Feed(
        entries,
        ready.layout,
        index,
        commits,
        emit,
        ready.channels,
        ready.image_dtype,
        ready.memory // 2,
        ready.reduced_by_model,
    )
    pipeline = Pipeline(feed.images(), ready.predictor, commits, ready.limits, emit, ready.filter)
    commits.then, commits.abort = pipeline.then, pipeline.abort
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        emit(RunStopping())
        pipeline.stop()

    emit(started)
    with _signals(stop):
        try:
            pipeline.run(_wait)
        except BaseException as error:
            pipeline.abort(error)
            raise
        finally:
            commits.close()
    pipeline.raise_error()
    index.refresh()
    finished = _finished(index, time.monotonic() - begin, counter, stopped=stopped.is_set())
    emit(finished)
    return finished


def _finished(index: Index, seconds: float, counter: _Counter, *, stopped: bool) -> RunFinished:
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


def _wait(thread: threading.Thread) -> None:
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
