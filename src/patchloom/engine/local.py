"""Runs units in this process: one pipeline, what feeds it, and what becomes of its results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from patchloom.engine.assignment import Assignment
from patchloom.engine.commit import Commits
from patchloom.engine.feed import Feed
from patchloom.engine.pipeline import Images, Pipeline
from patchloom.engine.prepare import Ready
from patchloom.engine.session import conduct, wait_for
from patchloom.events import Callback, RunFinished, RunStarted
from patchloom.predictions.index import Index
from patchloom.predictions.journal import Log
from patchloom.predictions.lock import Lease
from patchloom.predictions.stores.store import PredictionStore

if TYPE_CHECKING:
    from patchloom.predictions.write_back import WriteBack

__all__ = ["Local", "execute"]


class Local:
    """A pipeline with everything around it.

    Parameters
    ----------
    ready
        Model and limits.
    images
        Gives the pipeline its work, out of the feed.
    log, lease
        Where records go, and what allows to write.
    emit
        Told of everything; called by one thread at a time.
    store
        Where rows of vector heads go; None for tables in the run's folder.
    also
        Table of the source's database that gets the predictions, too.
    lasting
        See `Pipeline`.
    """

    def __init__(
        self, ready: Ready, images: Callable[[Feed], Images], log: Log, lease: Lease, emit: Callback,
        store: PredictionStore | None = None, also: WriteBack | None = None, *, lasting: bool = False,
    ) -> None:
        raise_failures = ready.layout.config.on_error == "raise"
        self.commits = Commits(ready.layout, log, lease, emit, raise_failures=raise_failures, store=store, also=also)
        feed = Feed(ready.layout, self.commits, emit, ready.channels, ready.image_dtype, ready.memory // 2,
                    ready.reduced_by_model)
        self.pipeline = Pipeline(images(feed), ready.predictor, self.commits, ready.limits, emit, ready.filter,
                                 lasting=lasting)
        self.commits.then, self.commits.abort = self.pipeline.then, self.pipeline.abort

    def run(self) -> None:
        """Work until everything is done and acknowledged, or until `stop`."""
        try:
            self.pipeline.run(wait_for)
        except BaseException as error:
            self.pipeline.abort(error)
            raise
        finally:
            self.commits.close()
        self.pipeline.raise_error()

    def stop(self) -> None:
        """Begin nothing new."""
        self.pipeline.stop()


def execute(
    ready: Ready, assigned: Iterator[Assignment], index: Index, log: Log, lease: Lease, emit: Callback,
    started: RunStarted, store: PredictionStore | None = None, also: WriteBack | None = None,
) -> RunFinished:
    """Predict what is assigned, in this process.

    Parameters
    ----------
    assigned
        Images and parts of images that are not done.
    index
        Of the run.
    started
        First event.
    ready, log, lease, emit, store, also
        See `Local`.

    Returns
    -------
    RunFinished
        The last event; `stopped` says whether the user ended it.
    """
    def work(emit: Callback) -> Local:
        return Local(ready, lambda feed: feed.images(assigned), log, lease, emit, store, also)

    return conduct(work, index, emit, started)
