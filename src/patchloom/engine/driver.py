"""Drives a run that several workers share: hands out tasks, journals what comes back, and survives what goes wrong.

Workers write outputs and say so; only what the driver journals is there. Each part of an image is journalled once: the
first to be finished counts. A worker that dies costs what it had not finished, which is given to others; a task that
takes far too long is started a second time.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from patchloom.engine.assignment import Assignment, again
from patchloom.engine.cluster import Cluster, Heard, Joined, Lost, check_beginnings
from patchloom.engine.commit import forget
from patchloom.engine.ledger import Job, Ledger, Taken
from patchloom.engine.tasks import Task
from patchloom.engine.worker import Report
from patchloom.errors import ImageError, WorkerDiedError
from patchloom.events import (
    Callback,
    Event,
    ImageDone,
    ImageFailed,
    ImageStarted,
    PatchesPredicted,
    PatchesSkipped,
    UnitCommitted,
    Warned,
    WorkerJoined,
    WorkerLost,
)
from patchloom.objects import traffic
from patchloom.predictions.index import Index
from patchloom.predictions.journal import Log, Record, append_all
from patchloom.predictions.layout import RunLayout
from patchloom.predictions.lock import Lease
from patchloom.predictions.stores.store import PredictionStore

if TYPE_CHECKING:
    from patchloom.predictions.write_back import WriteBack

__all__ = ["Driver"]

POLL = 0.5
"""Seconds that are waited for something to happen."""
AHEAD = 4.0
"""Seconds of work that a worker is given, so that it seldom waits for the next task; of longer tasks it has one."""
MOST_AHEAD = 64
"""Tasks that a worker is given ahead at most."""
DEATHS = 3
"""How often an image that a worker was alone with may cost that worker's life, without a unit between."""
SPLIT = 16
"""Into how many a task is split of which nothing came, as one image may have killed its worker."""
SLOW = 4.0
"""How many times the median time a task may take before it is started a second time."""
PATIENCE = 10.0
"""Seconds that a task may take in any case, and that a worker may be silent."""
SILENT = 60.0
"""Seconds after which a worker that says nothing is given up, even if nobody else could do its work."""
LONELY = 60.0
"""Seconds without a single worker after which the user is told."""
STOPPING = 120.0
"""Seconds that workers have to finish what is in flight when the user stops the run."""
MEASURED = 101
"""Tasks that the median is of."""


@dataclass(eq=False)
class _Worker:
    """What is known of a worker; `jobs` are those that it was given and that are not finished, with the time."""

    name: str
    heard: float
    jobs: dict[Job, float] = field(default_factory=dict)
    submitted: int = 0
    ended_last: float = 0.0
    has_ended: bool = False

    @property
    def is_reserved(self) -> bool:
        """Whether it is to do nothing else."""
        return any(job.task.alone for job in self.jobs)

    def since(self, job: Job) -> float:
        """When it began with a job, at the earliest."""
        return max(self.jobs[job], self.ended_last)


class Driver:
    """Runs tasks on a cluster until all are done, or until it is told to stop.

    Parameters
    ----------
    cluster
        The workers.
    tasks
        What is to be done, made as it is needed.
    index, layout
        Of the run.
    log, lease
        Where records go, and what allows to write.
    emit
        Told of everything.
    store, also
        What predictions of images that changed are removed from, beside the folder.
    heard
        What the cluster has said before.
    """

    def __init__(
        self, cluster: Cluster, tasks: Iterator[Task], index: Index, layout: RunLayout, log: Log, lease: Lease,
        emit: Callback, store: PredictionStore | None = None, also: WriteBack | None = None, *,
        heard: Sequence[Joined | Heard | Lost] = (),
    ) -> None:
        self._heard = heard
        self._cluster, self._tasks, self._index, self._layout = cluster, tasks, index, layout
        self._log, self._lease, self._emit, self._rows = log, lease, emit, (store, also)
        self._raise_failures = layout.config.on_error == "raise"
        self._ledger = Ledger()
        self._workers: dict[str, _Worker] = {}
        self._given_up: set[str] = set()
        self._again: deque[Task] = deque()
        self._more = True
        self._records: list[Record] = []
        self._events: list[Event] = []
        self._deaths: Counter[str] = Counter()
        self._seconds: deque[tuple[float, int]] = deque(maxlen=MEASURED)
        self._never_began: list[Lost] = []
        self._joined = False
        self._stop_asked = threading.Event()

    def run(self) -> None:
        """Work until everything is done and journalled, or until `stop`."""
        try:
            self._until_done()
        finally:
            self._cluster.close()
        self._remove_refused()

    def stop(self) -> None:
        """Begin nothing new; what is in flight is finished."""
        self._stop_asked.set()

    def _until_done(self) -> None:
        self._hear(self._heard)
        lonely = time.monotonic()
        while self._again or self._more or self._ledger:
            if self._stop_asked.is_set():
                self._finish()
                return
            self._dispatch()
            self._hear(self._cluster.wait(POLL))
            self._start_again_what_is_slow()
            self._give_up_silent()
            if self._workers:
                lonely = time.monotonic()
            elif time.monotonic() - lonely > LONELY:
                self._emit(Warned(f"no worker could be started for {LONELY:.0f} s: the cluster has no room, or none "
                                  "that fits"))
                lonely = time.monotonic()

    def _finish(self) -> None:
        """Let workers finish what they began."""
        self._cluster.stop()
        end = time.monotonic() + STOPPING
        while not all(worker.has_ended for worker in self._workers.values()) and time.monotonic() < end:
            self._hear(self._cluster.wait(POLL))
            self._give_up_silent()

    def _dispatch(self) -> None:
        """Give tasks to workers that have few, by turns."""
        given: dict[str, list[Task]] = {}
        turns = deque(sorted(self._workers.values(), key=lambda worker: len(worker.jobs)))
        while turns:
            worker = turns.popleft()
            task = self._next() if self._wants(worker) else None
            if task is None:
                continue
            if task.alone and worker.jobs:
                self._again.appendleft(task)
                continue
            job = self._ledger.open(task)
            if job is not None:
                self._give(job, worker, given)
            turns.append(worker)
        for name, tasks in given.items():
            self._cluster.submit(name, tasks)

    def _give(self, job: Job, worker: _Worker, given: dict[str, list[Task]], task: Task | None = None) -> None:
        job.workers.append(worker.name)
        worker.jobs[job] = time.monotonic()
        worker.submitted += 1
        given.setdefault(worker.name, []).append(task or job.task)

    def _wants(self, worker: _Worker) -> bool:
        if worker.is_reserved or worker.has_ended or self._is_silent(worker):
            return False
        each = statistics.median(seconds for seconds, _ in self._seconds) if self._seconds else math.inf
        return len(worker.jobs) < min(MOST_AHEAD, 1 + int(AHEAD / max(each, 1e-3)))

    def _next(self) -> Task | None:
        """The next task: first what has to be done again, then images that are to be completed."""
        if self._again:
            return self._again.popleft()
        if self._ledger.complete:
            self._refresh()
            whole = replace(self._ledger.complete.pop(), only=None)
            return Task((again(whole, self._index, self._layout),), 1)
        task = next(self._tasks, None)
        if task is None:
            self._more = False
            return None
        return replace(task, assignments=tuple(map(self._forgotten, task.assignments)))

    def _forgotten(self, assignment: Assignment) -> Assignment:
        """The same, and nothing is left of what was predicted of an image that changed."""
        if not assignment.changed:
            return assignment
        self._records.append({"is": "forgotten", "image": assignment.entry.name})
        self._flush()
        forget(self._layout, assignment.entry.name, self._rows)
        return replace(assignment, changed=False)

    def _hear(self, replies: Sequence[Joined | Heard | Lost]) -> None:
        for reply in replies:
            match reply:
                case Joined(name):
                    self._joined = True
                    self._workers[name] = _Worker(name, time.monotonic())
                    self._events.append(WorkerJoined(name))
                case Heard(name, report) if name in self._workers:
                    self._take(self._workers[name], report)
        self._flush()
        for reply in replies:
            match reply:
                case Heard(name, Report(error=BaseException() as error)) if name in self._workers:
                    error.add_note(f"raised in worker {name}")
                    raise error
                case Lost():
                    self._lose(reply)

    def _take(self, worker: _Worker, report: Report) -> None:
        worker.heard, worker.has_ended = time.monotonic(), report.ended
        requests, read, written = report.transferred
        traffic.add(requests=requests, read=read, written=written)
        taken = self._ledger.take(worker.name, report.records)
        self._records += taken.records
        self._events += [_named(event, worker.name) for event in report.events if _counts(event, taken)]
        for job in self._ledger.ended:
            self._end(job)
        self._ledger.ended.clear()
        if report.idle and report.taken == worker.submitted and worker.jobs:
            self._leave(worker, "its worker gave nothing back", died=False)

    def _end(self, job: Job) -> None:
        now = time.monotonic()
        for name in job.workers:
            worker = self._workers[name]
            self._seconds.append((now - worker.since(job), job.task.patches))
            del worker.jobs[job]
            worker.ended_last = now
            if self._is_silent(worker):
                self._cluster.kill(name)

    def _lose(self, lost: Lost) -> None:
        worker = self._workers.pop(lost.worker, None)
        if lost.worker in self._given_up:
            return
        if worker is None:
            self._fail_to_begin(lost)
            return
        self._emit(WorkerLost(worker.name, lost.why))
        self._leave(worker, lost.why, died=True)

    def _fail_to_begin(self, lost: Lost) -> None:
        self._never_began.append(lost)
        if not self._joined:
            check_beginnings(self._never_began)
        self._emit(Warned(f"a worker could not begin: {lost.why}"))

    def _leave(self, worker: _Worker, why: str, *, died: bool) -> None:
        """Have others do what a worker does not do any more."""
        jobs, worker.jobs = list(worker.jobs), {}
        self._refresh()
        for job in jobs:
            job.workers.remove(worker.name)
            if not job.workers:
                self._ledger.close(job)
                self._again.extendleft(reversed(list(self._rest(job, why, died=died))))

    def _rest(self, job: Job, why: str, *, died: bool) -> Iterator[Task]:
        """What is left of a job, as tasks: small ones if nothing came of it, each done alone if somebody died of it."""
        left = [one for one in job.task.assignments if one.entry.name in job.left]
        if len(left) == 1:
            name = left[0].entry.name
            self._deaths[name] = 0 if job.units else self._deaths[name] + 1
            if self._deaths[name] >= DEATHS:
                times = f"{DEATHS} times" if died else f"{DEATHS} times without a result"
                self._fail(name, WorkerDiedError(f"{name}: given to a worker {times}, the last time: {why}"))
                return
        size = max(1, -(-len(left) // SPLIT)) if died or not job.units else len(left)
        for first in range(0, len(left), size):
            some = tuple(again(one, self._index, self._layout) for one in left[first : first + size])
            patches = max(1, job.task.patches * len(some) // len(job.task.assignments))
            yield replace(job.task, assignments=some, patches=patches, alone=died)

    def _fail(self, image: str, error: ImageError) -> None:
        self._ledger.fail(image)
        self._records.append({"is": "failed", "image": image, "kind": error.kind, "message": error.message})
        self._events.append(ImageFailed(image, error.kind, error.message))
        self._flush()
        if self._raise_failures:
            raise error

    def _start_again_what_is_slow(self) -> None:
        """Where workers have nothing to do, have them try what others take too long for."""
        if self._again or self._more or self._ledger.complete or not self._seconds:
            return
        idle = [worker for worker in self._workers.values() if not worker.jobs and self._wants(worker)]
        usual = statistics.median(seconds / patches for seconds, patches in self._seconds)
        now = time.monotonic()
        late = [
            (worker.since(job), job)
            for worker in self._workers.values()
            for job in worker.jobs
            if len(job.workers) == 1 and now - worker.since(job) > max(PATIENCE, SLOW * usual * job.task.patches)
        ]
        for worker, (_, job) in zip(idle, sorted(late, key=lambda one: one[0]), strict=False):
            self._refresh()
            left = [one for one in job.task.assignments if one.entry.name in job.left]
            fresh = tuple(again(one, self._index, self._layout) for one in left)
            given: dict[str, list[Task]] = {}
            self._give(job, worker, given, replace(job.task, assignments=fresh))
            self._cluster.submit(worker.name, given[worker.name])

    def _is_silent(self, worker: _Worker, seconds: float | None = None) -> bool:
        return time.monotonic() - worker.heard > (PATIENCE if seconds is None else seconds)

    def _give_up_silent(self) -> None:
        for worker in [one for one in self._workers.values() if self._is_silent(one, SILENT)]:
            self._cluster.kill(worker.name)
            self._lose(Lost(worker.name, f"said nothing for {SILENT:.0f} s"))
            self._given_up.add(worker.name)

    def _refresh(self) -> None:
        """Have the index know all that was journalled."""
        self._flush()
        self._index.refresh()

    def _flush(self) -> None:
        """Journal what counts, then tell of it."""
        records, self._records = self._records, []
        if records:
            self._lease.check()
            append_all(self._log, records)
        events, self._events = self._events, []
        for event in events:
            self._emit(event)

    def _remove_refused(self) -> None:
        """Remove files of units that did not count: whoever reads the folder as it is would count rows twice."""
        if not self._ledger.refused:
            return
        self._refresh()
        for name in {file[0] for record in self._ledger.refused for file in record["files"]}:
            if not self._index.knows_file(name):
                (self._layout.folder / name).unlink(missing_ok=True)


def _named(event: Event, worker: str) -> Event:
    """An event with the name of the worker that it comes from."""
    if isinstance(event, (ImageStarted, PatchesPredicted, PatchesSkipped, UnitCommitted, ImageDone, ImageFailed)):
        return replace(event, worker=worker)
    return event


def _counts(event: Event, taken: Taken) -> bool:
    """Whether an event tells of something that counts."""
    match event:
        case UnitCommitted(unit):
            return unit in taken.units
        case ImageDone(image) | ImageFailed(image):
            return image in taken.images
    return True
