"""Deals the images of a run out to workers: longest first, many small images together, large ones in pieces."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from patchloom.engine.assignment import Assignment
from patchloom.engine.pieces import Piece, cut, steps
from patchloom.engine.survey import Survey
from patchloom.predictions.layout import PlaneInfo, RunLayout

__all__ = ["Dealt", "Task", "Tasks"]

A_WORKER = 8
"""Tasks that the patches that are left are dealt into for each worker: the last to finish is not far behind."""
MOST_PATCHES = 4096
"""Patches of a task of small images, which share a unit."""
FEW_PATCHES = 4
"""Patches for which no task is made."""
WORTH = 0.97
"""Part of the time that cutting more images has to leave, or it is not done."""
SHAPES = 256
"""Shapes of images whose units and pieces are remembered."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is given at a time: images, or a piece of one; it can be sent to another process.

    Parameters
    ----------
    assignments
        Images that are predicted as a whole, or one with the parts that are wanted.
    patches
        That are predicted for it, about.
    repeated
        Of these, how many are predicted for another piece, too.
    pieces
        Into how many pieces the image was cut.
    alone
        Whether its worker is to do nothing else meanwhile: an image of it may have killed a worker.
    """

    assignments: tuple[Assignment, ...]
    patches: int
    repeated: int = 0
    pieces: int = 1
    alone: bool = False


@dataclass(frozen=True)
class Dealt:
    """How the images of a run are dealt out to workers.

    Parameters
    ----------
    workers, tasks
        How many there are.
    smallest, largest
        Patches of a task.
    repeated
        Patches that are predicted twice because images are cut where they lie.
    """

    workers: int
    tasks: int
    smallest: int
    largest: int
    repeated: int

    @classmethod
    def of(cls, layout: RunLayout, found: Survey, workers: int) -> Dealt:
        """How all images would be dealt out; where not all were looked at the others are taken to be like those."""
        like = itertools.islice(itertools.cycle(found.sizes), found.images - found.unreadable if found.sizes else 0)
        assigned = (Assignment(size.entry) for size in like if size.entry is not None)
        tasks, smallest, largest, repeated = 0, 0, 0, 0
        for task in Tasks(layout, found, workers).made(assigned, found.images):
            tasks, repeated, largest = tasks + 1, repeated + task.repeated, max(largest, task.patches)
            smallest = min(smallest or task.patches, task.patches)
        return cls(workers, tasks, smallest, largest, repeated)


class Tasks:
    """Makes tasks out of assignments, lazily.

    Parameters
    ----------
    layout
        Of the run.
    found
        Of the survey. Where that looked at each image they are ordered by size; else they come in their own order, and
        those that it did not look at count as large as the others on average.
    workers
        How many there are going to be.
    """

    def __init__(self, layout: RunLayout, found: Survey, workers: int) -> None:
        self._layout, self._found, self._workers = layout, found, max(1, workers)
        self._sizes = {size.entry.name: size for size in found.sizes if size.entry is not None}
        self._patches = {name: layout.patches(PlaneInfo(one.plane)) * one.planes for name, one in self._sizes.items()}
        self._mean = sum(self._patches.values()) / max(1, len(self._patches)) or 1.0
        self._steps = lru_cache(SHAPES)(partial(steps, layout))
        self._pieces = lru_cache(SHAPES)(lambda *key: cut(self._steps(*key[:2]), key[2]))

    def made(self, assignments: Iterator[Assignment], images: int) -> Iterator[Task]:
        """Tasks for all of some assignments, the longest first where their sizes are known.

        Parameters
        ----------
        images
            How many assignments there are, about.
        """
        if self._found.estimated:
            yield from self._made(assignments, images * self._mean)
            return
        ordered = sorted(assignments, key=lambda one: (-self._size(one), one.entry.name))
        yield from sorted(self._made(iter(ordered), sum(map(self._size, ordered))), key=lambda task: -task.patches)

    def _made(self, assignments: Iterator[Assignment], left: float) -> Iterator[Task]:
        """Tasks in the order of the assignments, which have so many patches."""
        pieces = self._cuts(left)
        group: list[Assignment] = []
        patches = 0.0
        for assignment in assignments:
            size, count = self._size(assignment), pieces.get(assignment.entry.name, 1)
            if count > 1 and not assignment.changed:
                left -= size
                yield from self._cut(assignment, count)
                continue
            group.append(assignment)
            patches += size
            if patches >= min(MOST_PATCHES, max(FEW_PATCHES, left / (A_WORKER * self._workers))):
                left -= patches
                yield Task(tuple(group), max(1, round(patches)))
                group, patches = [], 0.0
        if group:
            yield Task(tuple(group), max(1, round(patches)))

    def _size(self, assignment: Assignment) -> float:
        return self._patches.get(assignment.entry.name, self._mean)

    def _cut(self, assignment: Assignment, count: int) -> Iterator[Task]:
        """What is not done of an image, in pieces."""
        planned = self._pieces_of(assignment.entry.name, count)
        wanted = [
            (piece, frozenset(place for place in piece.places if place not in assignment.done)) for piece in planned
        ]
        wanted = [(piece, only) for piece, only in wanted if only]
        if not wanted:  # it shares units with others, or only has to be completed
            yield Task((assignment,), 1 if planned else max(1, round(self._size(assignment))))
        for piece, only in wanted:
            yield Task((replace(assignment, only=only),), piece.patches, piece.repeated, len(wanted))

    def _pieces_of(self, name: str, count: int) -> list[Piece]:
        size = self._sizes[name]
        return self._pieces(size.plane, size.loop_shape, count)

    def _cuts(self, total: float) -> dict[str, int]:
        """Images that are cut, and into how many pieces: so that all workers are through soonest.

        What is tried is to cut the largest of those images that are more than a small part of the whole, some of them
        or all, all into as many pieces; how long that takes is estimated by giving the largest task that is left to
        the worker that has least. Fewer cuts are preferred unless others save some per cent.
        """
        few = total / (A_WORKER * self._workers)
        large = [name for name, patches in self._patches.items() if patches > few]
        large.sort(key=self._patches.__getitem__, reverse=True)
        rest = total - sum(self._patches[name] for name in large)
        best, least = {}, self._seconds({}, large, rest)
        tried = itertools.product(_some(len(large)), _some(2 * self._workers)[1:])
        for number, count in ((n, c) for n, c in tried if c == 2 or n * c <= A_WORKER * self._workers):
            chosen = dict.fromkeys(large[:number], count)
            seconds = self._seconds(chosen, large, rest)
            if seconds < WORTH * least:
                best, least = chosen, seconds
        return best

    def _seconds(self, cuts: Mapping[str, int], large: Sequence[str], rest: float) -> float:
        """How long the slowest worker takes, if a patch takes a second."""
        sizes: list[float] = []
        for name in large:
            planned = self._pieces_of(name, cuts[name]) if name in cuts else []
            sizes += [one.patches for one in planned] or [self._patches[name]]
        loads = [0.0] * self._workers
        for size in sorted(sizes, reverse=True):
            heapq.heapreplace(loads, loads[0] + size)
        return max(*loads, (sum(sizes) + rest) / self._workers, 0.0)


def _some(most: int) -> list[int]:
    """Numbers up to `most`, farther apart the larger they are."""
    numbers = [1]
    while numbers[-1] < most:
        numbers.append(min(most, max(numbers[-1] + 1, numbers[-1] * 3 // 2)))
    return numbers if most else []
