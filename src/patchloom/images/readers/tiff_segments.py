"""Reads strips and tiles of one resolution level: one `pread` and one decoder call each, from any number of threads."""

from __future__ import annotations

import io
import itertools
import math
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import UnreadableImageError
from patchloom.geometry.region import Region

__all__ = ["Decode", "File", "Level", "MemoryFile"]

Pixels = NDArray[Any]
Decode = Callable[[bytes, int, int], Pixels]
"""Encoded bytes, page, segment within the page -> ``(D, Y, X, C)``; at edges it may be larger than what is inside."""


class File:
    """An open file that several threads read at once, each at its own place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._number).st_size

    def headers(self) -> Any:
        """What tifffile reads the headers from."""
        return self.path

    def read(self, offset: int, count: int) -> bytes:
        """Read `count` bytes at `offset`.

        Raises
        ------
        UnreadableImageError
            If there are fewer, if the disk fails, or if the file was closed.
        """
        number = self._number
        if number < 0:
            raise UnreadableImageError(f"{self.path}: was closed and is read again")
        try:
            data = self._read(number, offset, count)
        except (OSError, OverflowError) as error:
            raise UnreadableImageError(f"{self.path}: cannot be read at byte {offset}: {error}") from error
        if len(data) != count:
            raise UnreadableImageError(
                f"{self.path}: truncated: {count} bytes should stand at byte {offset}, {len(data)} do",
                "copy the file again from where it came from")
        return data

    def _read(self, number: int, offset: int, count: int) -> bytes:
        if not hasattr(os, "pread"):
            with self._lock:
                os.lseek(number, offset, os.SEEK_SET)
                return os.read(number, count)
        data = os.pread(number, count, offset)
        while len(data) < count:  # beyond 2 GiB a call returns less than it was asked for
            more = os.pread(number, count - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def close(self) -> None:
        """Give the handle back."""
        with self._lock:
            number, self._number = self._number, -1
        if number >= 0:
            os.close(number)

    def __del__(self) -> None:
        if getattr(self, "_number", -1) >= 0:
            self.close()


class MemoryFile(File):
    """A file whose bytes are in memory already."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self._data, self._number = path, data, 0
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Number of bytes."""
        return len(self._data)

    def headers(self) -> Any:
        """See `File.headers`."""
        return io.BytesIO(self._data)

    def _read(self, number: int, offset: int, count: int) -> bytes:
        return self._data[offset : offset + count]

    def close(self) -> None:
        """Forget the bytes."""
        self._number, self._data = -1, b""


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
    offsets, counts
        Place and length of each segment in the file, page after page, in the order (S, D, Y, X); a count of 0 stands
        for a segment that is not stored.
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
    offsets: NDArray[np.uint64]
    counts: NDArray[np.uint64]
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
        start = [0] * len(self.extents)
        shape = list(self._ones)
        for axis, origin, extent in zip(self.axes, region.start, region.shape, strict=True):
            start[axis], shape[axis] = origin, extent
        if any(a < 0 or a + n > whole for a, n, whole in zip(start, shape, self.extents, strict=True)):
            raise ValueError(f"region {region} reaches beyond level {self.number} of shape {self.shape}")
        if 0 in shape:
            return np.empty(region.shape, self.dtype)
        n = len(self.lead)
        first, last = self._segments(start[n:], shape[n:])
        if first == last and shape[:n] == list(self._ones[:n]):
            block = self._segment(self._page_number(start[:n]), first)
            return self._cut(block, first, start[n:], shape[n:]).reshape(region.shape)
        return self._assemble(start, shape, first, last).reshape(region.shape)

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
        _, depth, rows, columns = self.grid
        index = ((place[0] * depth + place[1]) * rows + place[2]) * columns + place[3]
        number = page * self.per_page + index
        count = int(self.counts[number])
        if count == 0:
            return np.full((*self.segment, self.page[4]), self.fill, self.dtype)
        data = self.file.read(int(self.offsets[number]), count)
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
