"""One worker of a run that several share: the same pipeline as everywhere, which takes tasks until it is stopped."""

from __future__ import annotations

import pickle
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from patchloom.config import Config
from patchloom.engine.feed import Feed
from patchloom.engine.local import Local
from patchloom.engine.pipeline import Images
from patchloom.engine.plan import machine_threads
from patchloom.engine.prepare import load, prepare, resolved
from patchloom.engine.survey import Survey, opened
from patchloom.engine.targets import opened_store, opened_write_back
from patchloom.engine.tasks import Task
from patchloom.errors import ImageError, ModelError, RunError, SourceError
from patchloom.events import Event, PatchesPredicted, PatchesSkipped
from patchloom.images.source import Source
from patchloom.objects import AnyPath, traffic
from patchloom.predictions.folder import RunDocument
from patchloom.predictions.journal import Record
from patchloom.predictions.lock import Holding

if TYPE_CHECKING:
    pass

__all__ = ["Report", "Setting", "Worker"]

PROGRESS = 1.0
"""Seconds between reports that hold nothing but progress."""
LOOK = 0.02
"""Seconds between looks at whether everything is done."""


@dataclass(frozen=True)
class Setting:
    """What a worker is told before its first task; it can be sent to another process.

    Parameters
    ----------
    folder, document
        The run.
    holding
        The driver's lease on it.
    model
        Path, ``module:function``, or the model itself; a list of these for an ensemble.
    config
        Options of this session.
    store_url
        URL of the run's store with its password.
    source
        For writing back into its database.
    found
        What the headers say, for the memory that is planned with, and an image or two, to see whether they are there.
    """

    folder: AnyPath
    document: RunDocument
    holding: Holding
    model: Any
    config: Config
    store_url: str | None
    source: Source | None
    found: Survey

    def start(self) -> Worker:
        """Make the worker."""
        return Worker(self)


@dataclass(frozen=True)
class Report:
    """What a worker has to say.

    Parameters
    ----------
    records
        Of what is written and flushed, in order.
    events
        What happened since the last report.
    idle
        Whether all tasks are done that it was given: `taken` of them.
    ended
        Whether it has stopped.
    error
        What ended it.
    transferred
        Requests, bytes read and bytes written since the last report; see `objects.traffic`.
    """

    records: list[Record] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    idle: bool = False
    taken: int = 0
    ended: bool = False
    error: BaseException | None = None
    transferred: tuple[int, int, int] = (0, 0, 0)


class Worker:
    """Predicts what tasks ask for; `submit`, `collect` and `stop` may be called by different threads.

    Parameters
    ----------
    setting
        Of the run.

    Raises
    ------
    PatchloomError
        If it cannot see the run's folder or the images, or cannot load the same model.
    """

    def __init__(self, setting: Setting) -> None:
        _check_visible(setting)
        config, document = setting.config, setting.document
        model = load(setting.model, config, machine_threads(config))
        named = config.model_id is None and document.model["spec"] is not None  # a live one was sent from there
        if named and model.info.identity != document.model["identity"]:
            raise ModelError(f"{model.info.name} is another model here than where the run was started",
                             "give a path that all machines share, or copy the file to each of them")

        ready = prepare(model, resolved(config, model), setting.found, document, setting.folder)
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._outbox = _Outbox()
        self._store = opened_store(document, ready.layout, setting.store_url)
        also = opened_write_back(setting.source, ready.layout, config, setting.found)
        self._local = Local(ready, lambda feed: _Arriving(feed, self._tasks), self._outbox, setting.holding,
                            self._outbox.take, self._store, also, lasting=True)
        self._submitted = self._told = 0
        self._transferred = traffic.now()
        self._thread = threading.Thread(target=self._run, name="patchloom-worker")
        self._thread.start()

    def submit(self, task: Task) -> None:
        """Take one more task; it is begun when there is room."""
        self._tasks.put(task)
        self._local.pipeline.more()
        self._submitted += 1  # only now: until then the pipeline may be idle

    def collect(self, seconds: float) -> Report:
        """What there is to say, waited for so long at most; sooner where something is committed, or all is done."""
        end = time.monotonic() + seconds
        while not self._outbox.wait(LOOK) and time.monotonic() < end:
            if self._outbox.ended or (self._local.pipeline.idle and self._told != self._submitted):
                break
        taken, ended = self._submitted, self._outbox.ended
        idle = self._local.pipeline.idle
        if idle:
            self._local.commits.settle()
        self._told = taken if idle else self._told
        before, self._transferred = self._transferred, traffic.now()
        since = self._transferred[0] - before[0], self._transferred[1] - before[1], self._transferred[2] - before[2]
        return replace(self._outbox.report(idle=idle, taken=taken, ended=ended), transferred=since)

    def stop(self) -> None:
        """Begin nothing new; what is complete is still committed."""
        self._local.stop()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._local.run()
        except BaseException as raised:  # whoever collects raises it
            error = _sendable(raised)
        finally:
            if self._store is not None:
                self._store.close()
            self._outbox.end(error)


class _Outbox:
    """Keeps records and events until they are collected; a record is safe once the driver's journal has it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._records: list[Record] = []
        self._events: list[Event] = []
        self._counts: dict[tuple[type[Event], str], int] = {}
        self._error: BaseException | None = None
        self.ended = False

    def append(self, record: Record, *, durable: bool = True) -> None:
        """As `Log.append`."""
        with self._changed:
            self._records.append(record)
            self._changed.notify_all()

    def take(self, event: Event) -> None:
        """Keep an event; numbers of patches are added up."""
        with self._changed:
            if isinstance(event, (PatchesPredicted, PatchesSkipped)):
                key = type(event), event.image
                self._counts[key] = self._counts.get(key, 0) + event.patches
            else:
                self._events.append(event)

    def end(self, error: BaseException | None) -> None:
        """Say that nothing follows."""
        with self._changed:
            self._error, self.ended = error, True
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Whether there are records, or there is an end; waits so long at most."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._records) or self.ended, seconds)

    def report(self, *, idle: bool, taken: int, ended: bool) -> Report:
        """Hand over what is kept."""
        with self._changed:
            counted = [kind(name, count) for (kind, name), count in self._counts.items()]  # type: ignore[call-arg]
            report = Report(self._records, self._events + counted, idle, taken, ended, self._error)
            self._records, self._events, self._counts = [], [], {}
        return report


class _Arriving:
    """Images of the tasks that are there; when there are none it stops, and goes on when there are more."""

    def __init__(self, feed: Feed, tasks: queue.SimpleQueue[Task]) -> None:
        self._feed, self._tasks = feed, tasks
        self._images: Images = iter(())

    def __iter__(self) -> Images:
        return self

    def __next__(self) -> Iterator[Any]:
        while (image := next(self._images, None)) is None:
            try:
                self._images = self._feed.images(self._tasks.get_nowait().assignments)
            except queue.Empty:
                raise StopIteration from None
        return image


def _sendable(error: BaseException) -> BaseException:
    """The same error, or what it says where it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _check_visible(setting: Setting) -> None:
    try:
        setting.holding.check()
    except RunError as error:
        raise RunError(f"{setting.folder} is not the run's folder here: {error.message}",
                       "choose a folder that all machines share, or a prefix in object storage") from None
    for entry in setting.found.entries:
        try:
            opened(entry, setting.config).close()
        except ImageError as error:
            raise SourceError(f"{entry.name} cannot be read here: {error.message}",
                              "keep images in a folder that all machines share, or in object storage") from None
