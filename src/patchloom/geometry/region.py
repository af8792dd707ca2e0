"""N-D integer boxes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Piece", "Region"]


@dataclass(frozen=True, slots=True)
class Region:
    """Box of pixels.

    Parameters
    ----------
    start
        First pixel on each axis; may be negative or beyond an image where a patch reaches over its edge.
    shape
        Extent in pixels on each axis.

    Examples
    --------
    >>> Region((2, 3), (4, 5)).intersect(Region((0, 0), (4, 4)))
    Region(start=(2, 3), shape=(2, 1))
    """

    start: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def between(cls, start: Iterable[int], stop: Iterable[int]) -> Region:
        """Box from `start` up to, not including, `stop`; extents are never negative."""
        start = tuple(start)
        return cls(start, tuple(max(0, b - a) for a, b in zip(start, stop, strict=True)))

    @classmethod
    def whole(cls, shape: Iterable[int]) -> Region:
        """Box that covers an array of `shape`."""
        shape = tuple(shape)
        return cls((0,) * len(shape), shape)

    @property
    def stop(self) -> tuple[int, ...]:
        """One past the last pixel on each axis."""
        return tuple(a + n for a, n in zip(self.start, self.shape, strict=True))

    @property
    def size(self) -> int:
        """Number of pixels."""
        size = 1
        for n in self.shape:
            size *= n
        return size

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index of this box in an array whose origin is pixel 0."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def intersect(self, other: Region) -> Region:
        """Box that both share; its size is 0 where they are apart."""
        return Region.between(map(max, self.start, other.start), map(min, self.stop, other.stop))

    def relative_to(self, origin: Iterable[int]) -> Region:
        """Same box with `origin` as pixel 0."""
        return Region(tuple(a - o for a, o in zip(self.start, origin, strict=True)), self.shape)

    def pieces(self, cell: Iterable[int]) -> Iterator[Piece]:
        """Cut the box at multiples of `cell`: for each cell that it touches, where it lies there and here.

        Examples
        --------
        >>> list(Region((3,), (4,)).pieces((5,)))
        [((0,), (slice(3, 5, None),), (slice(0, 2, None),)), ((1,), (slice(0, 2, None),), (slice(2, 4, None),))]
        """
        lines = []
        for a, n, extent in zip(self.start, self.shape, cell, strict=True):
            stop, line = a + n, []
            for i in range(a // extent, -(-stop // extent) if n else 0):
                origin = i * extent
                first, last = max(a, origin), min(stop, origin + extent)
                line.append((i, slice(first - origin, last - origin), slice(first - a, last - a)))
            lines.append(line)
        for piece in itertools.product(*lines):
            index, there, here = zip(*piece, strict=True)
            yield index, there, here


Piece = tuple[tuple[int, ...], tuple[slice, ...], tuple[slice, ...]]
"""Index of a cell of a regular tiling, and the same pixels in the cell and in the box that was cut."""
