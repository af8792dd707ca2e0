"""Which parts of which images are being predicted by whom, and what of all that workers say counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from patchloom.engine.assignment import Assignment, Place
from patchloom.engine.tasks import Task
from patchloom.geometry.region import Region
from patchloom.predictions.journal import Record

__all__ = ["Job", "Ledger", "Taken"]


@dataclass(eq=False)
class Job:
    """A task that is not finished.

    Parameters
    ----------
    task
        As it was given.
    left
        Images that have not ended.
    places
        Of a piece: the parts that are not committed.
    workers
        Who is at it.
    done
        Parts that were committed before it began: who began them then may still send them.
    """

    task: Task
    left: set[str]
    places: set[Place] | None
    workers: list[str] = field(default_factory=list)
    committed: set[tuple[str, Place]] = field(default_factory=set)
    units: set[str] = field(default_factory=set)
    done: frozenset[tuple[str, Place]] = frozenset()

    def has(self, name: str, place: Place) -> bool:
        """Whether a part is committed."""
        return (name, place) in self.committed or (name, place) in self.done


@dataclass
class Taken:
    """What counts of a report.

    Parameters
    ----------
    records
        For the journal.
    units, images
        That were committed, and that ended.
    """

    records: list[Record] = field(default_factory=list)
    units: set[str] = field(default_factory=set)
    images: set[str] = field(default_factory=set)


class Ledger:
    """Jobs by image. Each part is accepted once, whoever is first; an image ends once.

    Attributes
    ----------
    ended
        Jobs that are finished, for whoever looks at them to take away.
    complete
        Images all pieces of which are committed, to be completed.
    refused
        Records of units that did not count.
    """

    def __init__(self) -> None:
        self._open: dict[str, list[Job]] = {}
        self._pieces: dict[str, int] = {}
        self._failed: set[str] = set()
        self._spoiled: dict[str, set[str]] = {}  # who does not have all parts of an image, because others were first
        self.ended: list[Job] = []
        self.complete: list[Assignment] = []
        self.refused: list[Record] = []

    def __bool__(self) -> bool:
        return bool(self._open or self.complete)

    def open(self, task: Task) -> Job | None:
        """Begin a task; None where that is a piece of an image that failed."""
        only = task.assignments[0].only
        names = {assignment.entry.name for assignment in task.assignments}
        if only is not None and not names.isdisjoint(self._failed):
            return None
        places = None if only is None else {place for place in only if task.assignments[0].wants(place)}
        done = frozenset((one.entry.name, place) for one in task.assignments for place in one.done)
        job = Job(task, names, places, done=done)
        for name in names:
            self._open.setdefault(name, []).append(job)
            if only is not None:
                self._pieces.setdefault(name, task.pieces)
        return job

    def close(self, job: Job) -> None:
        """Forget a job that is not finished: what is left of it is going to be opened as another one."""
        for name in job.left:
            self._drop(name, job)
            self._spoiled.pop(name, None)

    def take(self, worker: str, records: Iterable[Record]) -> Taken:
        """What counts of the records that a worker sends."""
        taken = Taken()
        for record in records:
            found = self._counting(worker, record, taken)
            if found is not None:
                taken.records.append(found)
        return taken

    def fail(self, image: str) -> bool:
        """End an image that failed; False where it had ended before."""
        jobs = self._open.pop(image, None)
        if jobs is None:
            return False
        if self._pieces.pop(image, None) is not None:
            self._failed.add(image)
        for job in jobs:
            self._end(job, image)
        return True

    def _counting(self, worker: str, record: Record, taken: Taken) -> Record | None:
        match record["is"]:
            case "image":
                return record if record["image"] in self._open else None
            case "begun":
                return self._some(record, [image for image in record["images"] if image[0] in self._open])
            case "unit":
                return self._unit(worker, record, taken)
            case "complete":
                return record if self._complete(worker, record["image"], taken) else None
            case "completed":
                return self._some(record, [name for name in record["images"] if self._complete(worker, name, taken)])
            case "failed" if self.fail(record["image"]):
                taken.images.add(record["image"])
                return record
        return None

    def _some(self, record: Record, images: list[Any]) -> Mapping[str, Any] | None:
        return {**record, "images": images} if images else None

    def _unit(self, worker: str, record: Record, taken: Taken) -> Record | None:
        found: list[tuple[str, Place, Job | None]] = []
        for name, loops, start, shape, *_ in record["parts"]:
            place = tuple(loops), Region(tuple(start), tuple(shape))
            found.append((name, place, self._job(name, place)))
        if any(job is not None and record["unit"] in job.units for _, _, job in found):
            return None  # the same once more
        if any(job is None or job.has(name, place) for name, place, job in found):
            self.refused.append(record)
            for name in (name for name, place, job in found if job is not None and (name, place) not in job.done):
                self._spoiled.setdefault(name, set()).add(worker)
            return None
        for name, place, job in found:
            assert job is not None
            job.committed.add((name, place))
            job.units.add(record["unit"])
            if job.places is not None:
                job.places.discard(place)
                if not job.places:
                    self._end_piece(job, name)
        taken.units.add(record["unit"])
        return record

    def _job(self, name: str, place: Place) -> Job | None:
        for job in self._open.get(name, ()):
            if job.places is None or place in job.places or job.has(name, place):
                return job
        return None

    def _complete(self, worker: str, name: str, taken: Taken) -> bool:
        jobs = self._open.get(name)
        if jobs is None or jobs[0].places is not None or worker in self._spoiled.get(name, ()):
            return False
        del self._open[name]
        self._pieces.pop(name, None)
        self._end(jobs[0], name)
        taken.images.add(name)
        return True

    def _end_piece(self, job: Job, name: str) -> None:
        self._drop(name, job)
        self._end(job, name)
        self._pieces[name] -= 1
        if not self._pieces[name]:
            self.complete.append(job.task.assignments[0])

    def _drop(self, name: str, job: Job) -> None:
        jobs = [other for other in self._open[name] if other is not job]
        if jobs:
            self._open[name] = jobs
        else:
            del self._open[name]

    def _end(self, job: Job, name: str) -> None:
        self._spoiled.pop(name, None)
        job.left.discard(name)
        if not job.left:
            self.ended.append(job)
