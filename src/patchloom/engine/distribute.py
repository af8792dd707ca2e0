"""Runs a session on the workers of an executor."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchloom.engine.assignment import Assignment
from patchloom.engine.cluster import Cluster, Executor, Heard, Joined, Lost, check_beginnings
from patchloom.engine.driver import Driver
from patchloom.engine.session import conduct
from patchloom.engine.survey import Survey
from patchloom.engine.tasks import Tasks
from patchloom.engine.worker import Setting
from patchloom.errors import UsageError
from patchloom.events import Callback, RunFinished, RunStarted
from patchloom.objects import AnyPath
from patchloom.predictions.index import Index
from patchloom.predictions.journal import Log
from patchloom.predictions.layout import RunLayout
from patchloom.predictions.lock import Lease
from patchloom.predictions.stores.store import PredictionStore
from patchloom.predictions.stores.url import FILES, scheme_of, without_password

if TYPE_CHECKING:
    from patchloom.predictions.write_back import WriteBack

__all__ = ["Workforce", "distribute"]

PATIENCE = 60.0
"""Seconds that the first worker is waited for before the run begins without any."""

MOST_BYTES = 1 << 16
"""Bytes that what says where an image is may take: a path, a URL, a key."""


@dataclass(frozen=True)
class Workforce:
    """Workers that were started for a run, and what was heard of them so far."""

    cluster: Cluster
    heard: Sequence[Joined | Heard | Lost]
    expected: int

    @classmethod
    def started(cls, executor: Executor, setting: Setting) -> Workforce:
        """Start workers and wait for the first one, `PATIENCE` seconds at most: what it cannot find is known then.

        Raises
        ------
        UsageError
            If images are arrays in memory, or the cluster is none.
        PatchloomError
            If workers cannot see the run's folder or the images, or cannot load the model.
        """
        _check_sent(setting.found)
        cluster, heard = executor.start(_sent(setting)), list[Joined | Heard | Lost]()
        try:
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end and not any(isinstance(one, Joined) for one in heard):
                heard += cluster.wait(1.0)
                check_beginnings([one for one in heard if isinstance(one, Lost)])
            return cls(cluster, heard, executor.expected())
        except BaseException:
            cluster.close()
            raise

    def close(self) -> None:
        """End the workers."""
        self.cluster.close()


def distribute(
    workforce: Workforce, found: Survey, layout: RunLayout, assigned: Iterator[Assignment], index: Index, log: Log,
    lease: Lease, emit: Callback, started: RunStarted, store: PredictionStore | None = None,
    also: WriteBack | None = None,
) -> RunFinished:
    """Predict what is assigned, on several workers.

    Parameters
    ----------
    workforce
        The workers.
    found
        Of the survey.
    layout, index
        Of the run.
    assigned, log, lease, emit, started, store, also
        As for `execute`.

    Returns
    -------
    RunFinished
        The last event; `stopped` says whether the user ended it.
    """
    tasks = Tasks(layout, found, workforce.expected).made(assigned, found.images - started.done)

    def work(emit: Callback) -> Driver:
        return Driver(workforce.cluster, tasks, index, layout, log, lease, emit, store, also, heard=workforce.heard)

    return conduct(work, index, emit, started)


def _sent(setting: Setting) -> Setting:
    """The same for processes with another current directory; of the images, one to see whether they find it."""
    found, folder = setting.found, _absolute(setting.folder)
    sizes = [replace(size, entry=None) for size in found.sizes]
    url = setting.store_url
    if url is not None and scheme_of(url) in FILES:
        url = without_password(url)  # it has none; paths become absolute
    return replace(
        setting, folder=folder, holding=replace(setting.holding, path=_absolute(setting.holding.path)), store_url=url,
        model=_found_elsewhere(setting.model), found=replace(found, sizes=sizes, entries=found.entries[:1]),
    )


def _absolute(path: AnyPath) -> AnyPath:
    return path.absolute() if isinstance(path, Path) else path


def _found_elsewhere(model: Any) -> Any:
    """A model; where it is a path, one that means the same in another current directory."""
    if isinstance(model, (list, tuple)):
        return [_found_elsewhere(one) for one in model]
    return str(Path(model).absolute()) if isinstance(model, (str, Path)) and Path(model).exists() else model


def _check_sent(found: Survey) -> None:
    for entry in found.entries:
        try:
            size = len(pickle.dumps(entry))
        except Exception as error:
            raise UsageError(f"{entry.name}: cannot be sent to other processes: {error}",
                             "give files, URLs or a database") from error
        if size > MOST_BYTES:
            raise UsageError(f"{entry.name}: is an array in memory, and pixels are not sent to other processes",
                             "save the images as files, or leave out the executor")
