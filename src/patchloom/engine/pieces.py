"""Cuts large images into pieces, for workers that share them: whole units, where cutting costs least."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from patchloom.engine.assignment import Place
from patchloom.engine.shapes import PartShape, PlaneShape
from patchloom.predictions.layout import RunLayout, indices

__all__ = ["Piece", "Step", "cut", "pieces", "steps"]


@dataclass(frozen=True)
class Piece:
    """Units of an image that follow each other.

    Parameters
    ----------
    places
        Of the units.
    patches
        That are predicted for them.
    repeated
        How many of these are predicted for the piece before as well, because they reach into both.
    """

    places: tuple[Place, ...]
    patches: int
    repeated: int


@dataclass(frozen=True)
class Step:
    """One unit, with the patches that it needs beside those of the unit before, and those that both need."""

    place: Place
    patches: int
    shared: int


def steps(layout: RunLayout, plane: tuple[int, ...], loop_shape: tuple[int, ...]) -> list[Step]:
    """Units of an image that may be cut; none where it shares units with other images.

    Parameters
    ----------
    layout, plane, loop_shape
        As for `pieces`.
    """
    shape = PlaneShape(layout, plane, plane)
    return list(_steps(shape, loop_shape)) if shape.alone else []


def pieces(layout: RunLayout, plane: tuple[int, ...], loop_shape: tuple[int, ...], count: int) -> list[Piece]:
    """An image in pieces: `cut` of its `steps`.

    Parameters
    ----------
    layout
        Of the run.
    plane, loop_shape
        Pixels of its planes, and how many of them there are on each loop axis.
    """
    return cut(steps(layout, plane, loop_shape), count)


def cut(steps: Sequence[Step], count: int) -> list[Piece]:
    """Units as `count` pieces of about as many patches, or as fewer where there are not so many units.

    Near the even cuts the one is chosen at which fewest patches reach over.
    """
    ends = [0, *_cuts(steps, count), len(steps)]
    return [_piece(steps[a:b]) for a, b in itertools.pairwise(ends)] if steps else []


def _steps(shape: PlaneShape, loop_shape: tuple[int, ...]) -> Iterator[Step]:
    for loops in indices(loop_shape):
        for sweep in shape.sweeps():
            before: PartShape | None = None
            for part in sweep.parts:
                shared = _shared(before, part) if before is not None else 0
                yield Step((loops, part.region), part.contributors - shared, shared)
                before = part


def _shared(before: PartShape, part: PartShape) -> int:
    """Patches that contribute to both."""
    rows = range(max(before.rows.start, part.rows.start), min(before.rows.stop, part.rows.stop))
    return len(rows) * math.prod(map(len, part.columns))


def _cuts(steps: Sequence[Step], count: int) -> list[int]:
    """Positions before which is cut, in ascending order."""
    if not steps:
        return []
    ends = list(itertools.accumulate(step.patches for step in steps))
    even = ends[-1] / count
    cuts: list[int] = []
    for number in range(1, count):
        first = cuts[-1] + 1 if cuts else 1
        if first >= len(steps):
            break
        wanted = number * even
        low, high = (bisect.bisect_left(ends, wanted + part * even) for part in (-0.25, 0.25))
        near = range(max(first, low), min(max(first, low, high) + 2, len(steps)))
        cuts.append(min(near or [len(steps) - 1], key=lambda i: (steps[i].shared, abs(ends[i - 1] - wanted))))
    return cuts


def _piece(steps: Sequence[Step]) -> Piece:
    repeated = steps[0].shared
    return Piece(tuple(step.place for step in steps), sum(step.patches for step in steps) + repeated, repeated)
