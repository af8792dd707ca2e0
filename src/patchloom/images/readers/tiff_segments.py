"""Reads strips and tiles of one resolution level: one read and one decoder call each, from any number of threads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import UnreadableImageError
from patchloom.geometry.region import Region
from patchloom.images.files import File, Range
from patchloom.images.readers.tiff_directory import SegmentTable

__all__ = ["Decode", "Level", "ListedSegments", "Segments", "StoredSegments"]

Pixels = NDArray[Any]
Decode = Callable[[bytes, int, int], Pixels]
"""Encoded bytes, page, segment within the page -> ``(D, Y, X, C)``; at edges it may be larger than what is inside."""


class Segments(Protocol):
    """Where segments are, numbered page after page, in the order (S, D, Y, X)."""

    def range(self, number: int) -> Range:
        """Place and length of a segment; a length of 0 stands for one that is not stored."""

    def load(self, numbers: Sequence[int]) -> None:
        """Get ready to tell the ranges of some."""


@dataclass(frozen=True)
class ListedSegments:
    """Places and lengths that are in memory."""

    offsets: NDArray[np.uint64]
    counts: NDArray[np.uint64]

    def range(self, number: int) -> Range:
        """See `Segments`."""
        return int(self.offsets[number]), int(self.counts[number])

    def load(self, numbers: Sequence[int]) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class StoredSegments:
    """Places and lengths that are read when they are wanted, from a table in the header of each page."""

    file: File
    tables: Sequence[SegmentTable]
    per_page: int

    def range(self, number: int) -> Range:
        """See `Segments`."""
        places = self._places(number)
        kinds = self.tables[number // self.per_page].offsets[1], self.tables[number // self.per_page].counts[1]
        offset, count = (int(np.frombuffer(self.file.read_header(*place), kind)[0])
                         for place, kind in zip(places, kinds, strict=True))
        return (offset, count) if offset else (0, 0)

    def load(self, numbers: Sequence[int]) -> None:
        """See `Segments`."""
        self.file.load_headers([place for number in numbers for place in self._places(number)])

    @staticmethod
    def read(file: File, table: SegmentTable) -> tuple[NDArray[Any], NDArray[Any]]:
        """All of a table: places and lengths."""
        places, lengths = (np.frombuffer(file.read(*each), kind)
                           for each, kind in zip(table.ranges, (table.offsets[1], table.counts[1]), strict=True))
        return places, lengths

    def _places(self, number: int) -> list[Range]:
        page, index = divmod(number, self.per_page)
        table = self.tables[page]
        sizes = [(place, np.dtype(kind).itemsize) for place, kind, _ in (table.offsets, table.counts)]
        return [(place + index * size, size) for place, size in sizes]


@dataclass(frozen=True)
class Level:
    """Where the segments (strips or tiles) of one resolution level are, and how they are decoded.

    Pixels stand on the axes ``(*lead, S, D, Y, X, C)``: pages by the axes that the metadata give them, then within
    a page planes of samples, depth, rows, columns and interleaved samples. Those of extent 1 that the image does not
    show are left out by `axes`.

    Parameters
    ----------
    file
        To read from.
    number
        Of this level, for messages.
    lead
        Extents of the axes that pages are numbered by, the last one fastest.
    page
        Extents (S, D, Y, X, C) of a page.
    segment
        Extents (D, Y, X) of a segment; a segment has one plane of samples and all interleaved ones.
    segments
        Where each of them is.
    decode
        Decoder.
    dtype, fill
        Of pixels; value where a segment is not stored.
    axes
        For each axis of the image, its place in ``(*lead, S, D, Y, X, C)``.
    """

    file: File
    number: int
    lead: tuple[int, ...]
    page: tuple[int, ...]
    segment: tuple[int, int, int]
    segments: Segments
    decode: Decode
    dtype: np.dtype[Any]
    fill: float
    axes: tuple[int, ...]

    @cached_property
    def extents(self) -> tuple[int, ...]:
        """Extents on all axes."""
        return (*self.lead, *self.page)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Extents on the axes of the image."""
        return tuple(self.extents[axis] for axis in self.axes)

    @cached_property
    def chunk(self) -> tuple[int, ...]:
        """Extents of a segment on the axes of the image."""
        full = (*(1 for _ in self.lead), 1, *self.segment, self.page[4])
        return tuple(min(full[axis], self.extents[axis]) for axis in self.axes)

    @cached_property
    def grid(self) -> tuple[int, int, int, int]:
        """Number of segments of a page on S, D, Y and X."""
        planes, depth, rows, columns, _ = self.page
        d, y, x = self.segment
        return planes, -(-depth // d), -(-rows // y), -(-columns // x)

    @cached_property
    def per_page(self) -> int:
        """Number of segments of a page."""
        return math.prod(self.grid)

    @cached_property
    def _ones(self) -> tuple[int, ...]:
        return (1,) * len(self.extents)

    def read(self, region: Region) -> Pixels:
        """Decode a region on the axes of the image; a view where one segment holds all of it."""
        start, shape = self._on_all_axes(region)
        if any(a < 0 or a + n > whole for a, n, whole in zip(start, shape, self.extents, strict=True)):
            raise ValueError(f"region {region} reaches beyond level {self.number} of shape {self.shape}")
        if 0 in shape:
            return np.empty(region.shape, self.dtype)
        n = len(self.lead)
        first, last = self._segments(start[n:], shape[n:])
        if first == last and shape[:n] == list(self._ones[:n]):
            block = self._segment(self._page_number(start[:n]), first)
            return self._cut(block, first, start[n:], shape[n:]).reshape(region.shape)
        if self.file.is_far:
            self.fetch([region])
        return self._assemble(start, shape, first, last).reshape(region.shape)

    def fetch(self, regions: Sequence[Region]) -> None:
        """Begin to read the segments of some regions."""
        numbers = sorted({number for region in regions for number in self._numbers(region)})
        self.segments.load(numbers)
        self.file.fetch([self.segments.range(number) for number in numbers])

    def _numbers(self, region: Region) -> Iterator[int]:
        """Numbers of the segments that a region on the axes of the image touches."""
        start, shape = self._on_all_axes(region)
        n = len(self.lead)
        first, last = self._segments(start[n:], shape[n:])
        places = [range(a, b + 1) for a, b in zip(first, last, strict=True)]
        for lead in itertools.product(*(range(a, a + extent) for a, extent in zip(start[:n], shape[:n], strict=True))):
            page = self._page_number(lead) * self.per_page
            yield from (page + self._index(place) for place in itertools.product(*places))

    def _on_all_axes(self, region: Region) -> tuple[list[int], list[int]]:
        start = [0] * len(self.extents)
        shape = list(self._ones)
        for axis, origin, extent in zip(self.axes, region.start, region.shape, strict=True):
            start[axis], shape[axis] = origin, extent
        return start, shape

    def _index(self, place: Sequence[int]) -> int:
        """Number of a segment within its page."""
        _, depth, rows, columns = self.grid
        return ((place[0] * depth + place[1]) * rows + place[2]) * columns + place[3]

    def _segments(self, start: Sequence[int], shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """First and last segment, on S, D, Y and X, that a part of a page touches."""
        sizes = (1, *self.segment)
        first = tuple(a // size for a, size in zip(start, sizes, strict=False))
        last = tuple((a + n - 1) // size for a, n, size in zip(start, shape, sizes, strict=False))
        return first, last

    def _page_number(self, lead: Sequence[int]) -> int:
        number = 0
        for index, extent in zip(lead, self.lead, strict=True):
            number = number * extent + index
        return number

    def _cut(self, block: Pixels, place: Sequence[int], start: Sequence[int], shape: Sequence[int]) -> Pixels:
        """Part of a decoded segment that lies in ``start, shape`` (on S, D, Y, X, C of the page): (D, Y, X, C)."""
        slices = []
        for index, size, a, n in zip(place[1:], self.segment, start[1:4], shape[1:4], strict=True):
            origin = index * size
            slices.append(slice(max(a - origin, 0), min(a + n - origin, size)))
        channel = slice(start[4], start[4] + shape[4])
        return block[(*slices, channel)]

    def _assemble(
        self, start: Sequence[int], shape: Sequence[int], first: Sequence[int], last: Sequence[int]
    ) -> Pixels:
        n = len(self.lead)
        out = np.empty(tuple(shape), self.dtype)
        ranges = [range(a, b + 1) for a, b in zip(first, last, strict=True)]
        for lead in itertools.product(*(range(extent) for extent in shape[:n])):
            page = self._page_number([a + i for a, i in zip(start, lead, strict=False)])
            target = out[lead]
            for place in itertools.product(*ranges):
                part = self._cut(self._segment(page, place), place, start[n:], shape[n:])
                where = [place[0] - start[n]]
                slices = [slice(max(index * size - a, 0), None)
                          for index, size, a in zip(place[1:], self.segment, start[n + 1 : n + 4], strict=True)]
                corner = target[(*where, *slices)]
                corner[tuple(slice(extent) for extent in part.shape)] = part
        return out

    def _segment(self, page: int, place: Sequence[int]) -> Pixels:
        """Decode one segment: (D, Y, X, C), as large as `segment` says or cut at the edge of the page."""
        index = self._index(place)
        offset, count = self.segments.range(page * self.per_page + index)
        if count == 0:
            return np.full((*self.segment, self.page[4]), self.fill, self.dtype)
        data = self.file.read(offset, count)
        try:
            return self.decode(data, page, index)
        except MemoryError:
            raise
        except Exception as error:  # codecs raise whatever they like
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UnreadableImageError(
                f"{self.file.path}: the segment at row {place[2] * self.segment[1]}, column "
                f"{place[3] * self.segment[2]} of page {page}, level {self.number}, does not decode: {reason}",
                "copy the file again from where it came from, or leave it out") from error
