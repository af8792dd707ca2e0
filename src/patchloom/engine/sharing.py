"""Predicts one share of a run, in this process, while others predict theirs."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator

from patchloom.engine.assignment import Assignment
from patchloom.engine.dealing import Share
from patchloom.engine.local import Local
from patchloom.engine.session import conduct
from patchloom.events import Callback, Event, ImageFailed, RunFinished, RunStarted
from patchloom.images.source import Entry
from patchloom.predictions.index import ImageRow, Index

__all__ = ["Standing", "execute_share"]


class Standing:
    """What the index says of a share.

    Parameters
    ----------
    share, index
        Which share, of what.
    """

    def __init__(self, share: Share, index: Index) -> None:
        self._share, self._index = share, index
        self.failed: set[str] = set()
        self.refresh = index.refresh

    def counts(self) -> dict[str, int]:
        """See `Share.counts`."""
        return {"done": 0, "partial": 0, "left": 0, "failed": 0} | self._share.counts(self._index, self.failed)

    def images(self, *states: str) -> Iterator[ImageRow]:
        """Its images in some states."""
        return self._share.images(self._index, *states)


def execute_share(
    share: Share, entries: Callable[[], Iterator[Entry]], index: Index, standing: Standing,
    local: Callable[[Iterator[Assignment], Callback], Local], emit: Callback, started: RunStarted,
) -> RunFinished:
    """Predict a share; then complete images that were cut, if this shard is the last one that had to do with them.

    Parameters
    ----------
    share
        What is to be predicted.
    entries
        Enumerates the source.
    index, standing
        Of the run, and of the share.
    local
        Makes what predicts assignments, given whom it tells of events.
    emit
        Told of everything; called by one thread at a time.
    started
        First event.

    Returns
    -------
    RunFinished
        The last event; its numbers are those of the share.
    """
    return conduct(lambda tell: _Passes(share, entries, index, standing, local, tell), standing, emit, started)


class _Passes:
    """Our parts of all images, and when these are durable, the images of which we see that all parts are."""

    def __init__(
        self, share: Share, entries: Callable[[], Iterator[Entry]], index: Index, standing: Standing,
        local: Callable[[Iterator[Assignment], Callback], Local], emit: Callback,
    ) -> None:
        self._share, self._entries, self._index, self._standing = share, entries, index, standing
        self._local, self._emit = local, emit
        self._current: Local | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def run(self) -> None:
        for assignments in (self._share.assignments, self._share.complete):
            assigned = assignments(self._entries(), self._index)
            for first in itertools.islice(assigned, 1):
                self._pass(itertools.chain((first,), assigned))
            self._index.refresh()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            if self._current is not None:
                self._current.stop()

    def _pass(self, assigned: Iterator[Assignment]) -> None:
        with self._lock:
            if self._stopped:
                return
            self._current = self._local(assigned, self._tell)
        self._current.run()

    def _tell(self, event: Event) -> None:
        if isinstance(event, ImageFailed):
            self._standing.failed.add(event.image)
        self._emit(event)
