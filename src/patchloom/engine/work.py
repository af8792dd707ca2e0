"""The work of one image: planes, sweeps over them, and the units that the sweeps fill."""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.engine.reading import BlockStore, Padding, needed
from patchloom.engine.stitch import UnitMap
from patchloom.geometry.grid import Grid
from patchloom.geometry.region import Region
from patchloom.images.image import Image
from patchloom.models.model import Head
from patchloom.predictions.dense import DenseMap
from patchloom.predictions.files import FileRecord
from patchloom.predictions.patches import UnitRows

__all__ = ["ImageWork", "ReadyRow", "Sweep", "UnitPart"]


@dataclass
class ImageWork:
    """One image that is being predicted.

    Parameters
    ----------
    name, image
        The image; closed when its last part is committed or when it fails.
    grid
        Of each plane, on the image padded to a multiple of what the heads' scales need.
    shape
        Pixels of a plane as the file has them.
    maps
        Where each dense head is stored.
    head_grids
        The grid in pixels of each dense head's map.
    original
        Pixels of the image where it was made small to be one patch.
    """

    name: str
    image: Image
    grid: Grid
    shape: tuple[int, ...]
    maps: Mapping[str, DenseMap]
    head_grids: Mapping[str, Grid]
    patches: int
    loop_axes: str = ""
    original: tuple[int, ...] | None = None
    parts_left: int = 0
    bad_patches: int = 0
    skipped: int = 0
    failed: bool = False
    planned: bool = False
    sweeps: list[Sweep] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def part_written(self) -> bool:
        """Count one part less; True for the last one."""
        with self.lock:
            self.parts_left -= 1
            return self.planned and self.parts_left == 0 and not self.failed

    def all_planned(self) -> bool:
        """No more parts will come; True where none is left."""
        with self.lock:
            self.planned = True
            return self.parts_left == 0 and not self.failed


class UnitPart:
    """Block of one plane that is committed as a whole, alone or with others in one unit.

    Parameters
    ----------
    work, loops, region
        Which image and plane, and which pixels of it.
    rows
        Patch rows that contribute.
    columns
        Patches on the other axes that contribute; the same for all units of a sweep.
    open_maps
        Makes the parts of the dense heads' maps; called when the first patch arrives, so that memory is taken only for
        units that the sweep has reached.
    heads
        Vector heads.
    alone
        Whether it is a unit by itself: it is part of a large plane.
    """

    def __init__(
        self,
        work: ImageWork,
        loops: tuple[int, ...],
        region: Region,
        rows: range,
        columns: Sequence[range],
        open_maps: Callable[[], Mapping[str, UnitMap]],
        heads: Sequence[Head],
        *,
        alone: bool,
    ) -> None:
        self.work, self.loops, self.region, self.rows, self.alone = work, loops, region, rows, alone
        self._open_maps, self._heads = open_maps, heads
        self._origins = work.grid.starting_in(region)
        self.patches = math.prod(map(len, self._origins))
        self._left = len(rows) * math.prod(map(len, columns))
        self._bad = 0
        self._skipped: NDArray[np.bool_] | None = None
        self._lock = threading.Lock()
        self._opened = False
        self.maps: Mapping[str, UnitMap] = {}
        self.records: list[FileRecord] = []
        self._vectors: dict[str, NDArray[Any]] = {}

    def place(self, place: tuple[int, ...], heads: Mapping[str, NDArray[Any]], *, bad: bool) -> bool:
        """Take the prediction of one patch, an array a head; True when it was the last one missing."""
        self._open()
        for name, unit_map in self.maps.items():
            unit_map.place(place, heads[name])
        row = self._row(place)
        if row is not None:
            for name, values in self._vectors.items():
                values[row] = heads[name]
        with self._lock:
            self._bad += bad and row is not None
            self._left -= 1
            return self._left == 0

    def skip(self, place: tuple[int, ...]) -> bool:
        """Note that a patch is not going to be predicted; True when it was the last one missing."""
        row = self._row(place)
        with self._lock:
            if row is not None:
                if self._skipped is None:
                    self._skipped = np.zeros(self.patches, np.bool_)
                self._skipped[row] = True
            self._left -= 1
            return self._left == 0

    def _row(self, place: tuple[int, ...]) -> int | None:
        """Row of a patch in the part's tables; None where it starts outside."""
        if not all(i in line for i, line in zip(place, self._origins, strict=True)):
            return None
        row = 0
        for i, line in zip(place, self._origins, strict=True):
            row = row * len(line) + i - line.start
        return row

    def _open(self) -> None:
        with self._lock:
            if not self._opened:
                self.maps = self._open_maps()
                self._vectors = {head.name: self._empty(head) for head in self._heads}
                self._opened = True

    def _empty(self, head: Head) -> NDArray[Any]:
        return np.empty((self.patches, *head.shape), head.dtype)

    @property
    def bad_patches(self) -> int:
        """Patches with a prediction that is not finite."""
        return self._bad

    @property
    def skipped(self) -> NDArray[np.bool_] | None:
        """Which patches were skipped, in the order of the grid; None where none was."""
        return self._skipped

    def rows_of(self, head: Head) -> UnitRows:
        """Rows of a vector head, in the order of the grid."""
        places, starts, shapes = _rows(self.work.grid, self.work.shape, tuple(self._origins))
        if self.work.original is not None:
            shapes = np.broadcast_to(np.asarray(self.work.original, np.int64), shapes.shape)
        values = self._vectors[head.name] if self._opened else self._empty(head)
        if self._skipped is not None:
            values[self._skipped] = 0  # the same bytes each time
        return UnitRows(self.work.name, self.loops, places, starts, shapes, values, self._skipped)

    def release(self) -> None:
        """Give large arrays back."""
        for unit_map in self.maps.values():
            unit_map.release()
        self._vectors.clear()


class ReadyRow:
    """Patches of one row whose pixels are decoded, handed out one by one."""

    def __init__(self, sweep: Sweep, row: int, places: Iterator[tuple[int, ...]], count: int) -> None:
        self.sweep, self.row, self._places, self.left = sweep, row, places, count

    def pop(self) -> tuple[Sweep, tuple[int, ...]]:
        """Next patch: its sweep and its place."""
        self.left -= 1
        return self.sweep, (self.row, *next(self._places))


class Sweep:
    """Goes over one stripe of a plane from the first patch row to the last, decoding ahead and dropping behind.

    Its methods are called with the pipeline's lock held, except `BlockStore`'s, which do the work.

    Parameters
    ----------
    work, blocks
        The image, and one plane of it.
    parts
        Units that are to be filled, in order of their rows.
    columns
        Patches on the axes across the sweep.
    padding
        Beyond the edges of the image.
    """

    def __init__(
        self, work: ImageWork, blocks: BlockStore, parts: Sequence[UnitPart], columns: Sequence[range], padding: Padding
    ) -> None:
        self.work, self.blocks, self.padding = work, blocks, padding
        self._parts = list(parts)
        self._columns = tuple(columns)
        self._columns_needed = [
            _hull(needed(axis, i, size, padding.mode) for i in {line[0], line[-1]})
            for axis, line, size in zip(work.grid.axes[1:], columns, blocks.plane.shape[1:], strict=True)
        ]
        self._rows = _union([part.rows for part in parts])
        self._last_row = self._rows[-1].stop - 1
        self._ahead = itertools.chain.from_iterable(self._rows)
        self._row: int | None = None
        self._to_decode: deque[tuple[int, ...]] = deque()
        self._decoding: dict[tuple[int, ...], None] = {}
        self._next_block_row = 0
        self._loaded: dict[int, list[tuple[int, ...]]] = {}
        self._waiting: deque[tuple[int, int]] = deque()
        self._unread: dict[int, int] = {}
        self._advance()

    @property
    def patches_in_row(self) -> int:
        """Patches of one row of the sweep."""
        return math.prod(map(len, self._columns))

    @property
    def row_bytes(self) -> int:
        """Memory of the decoded blocks that one patch row needs."""
        rows = -(-self.work.grid.patch[0] // self.blocks.extent[0]) + 1
        across = math.prod(
            -(-(b - a) // n) + 1 for (a, b), n in zip(self._columns_needed, self.blocks.extent[1:], strict=True)
        )
        return min(rows, -(-self.blocks.plane.shape[0] // self.blocks.extent[0])) * across * self.blocks.block_bytes

    @property
    def exhausted(self) -> bool:
        """Whether all blocks were handed out for decoding."""
        return self._row is None

    def next_block(self) -> tuple[int, ...] | None:
        """Block to decode next."""
        if self._row is None:
            return None
        key = self._to_decode.popleft()
        self._decoding[key] = None
        if not self._to_decode:
            self._waiting.append((self._row, self._blocks_end))
            self._advance()
        return key

    def decoded(self, key: tuple[int, ...]) -> list[ReadyRow]:
        """Note that a block is there; returns the patch rows that this makes ready."""
        del self._decoding[key]
        self._loaded.setdefault(key[0], []).append(key)
        return self._ready()

    def read(self, row: int) -> list[tuple[int, ...]]:
        """Note that a patch of `row` was copied out of its blocks; returns the blocks that nobody needs any more."""
        self._unread[row] -= 1
        if self._unread[row]:
            return []
        del self._unread[row]
        keep = self._first_block_needed()
        gone = [line for line in self._loaded if line < keep]
        return [key for line in gone for key in self._loaded.pop(line)]

    def parts_of(self, row: int) -> list[UnitPart]:
        """Units that a patch row contributes to."""
        return [part for part in self._parts if row in part.rows]

    def finished(self, part: UnitPart) -> None:
        """Forget a unit that is complete."""
        self._parts = [other for other in self._parts if other is not part]

    def _advance(self) -> None:
        """Go to the next patch row, and on over those whose blocks are all there."""
        while (row := next(self._ahead, None)) is not None:
            first, stop = self._block_rows(row)
            new = range(max(first, self._next_block_row), stop)
            self._next_block_row = self._blocks_end = max(stop, self._next_block_row)
            if new:
                self._row = row
                self._to_decode = deque(self._keys(new))
                return
            self._waiting.append((row, self._blocks_end))
        self._row = None

    def _ready(self) -> list[ReadyRow]:
        ready: list[ReadyRow] = []
        undecoded = min((key[0] for key in itertools.chain(self._decoding, self._to_decode)), default=None)
        while self._waiting and (undecoded is None or self._waiting[0][1] <= undecoded):
            row, _ = self._waiting.popleft()
            self._unread[row] = self.patches_in_row
            ready.append(ReadyRow(self, row, itertools.product(*self._columns), self.patches_in_row))
        return ready

    def _block_rows(self, row: int) -> tuple[int, int]:
        axis, size, extent = self.work.grid.axes[0], self.blocks.plane.shape[0], self.blocks.extent[0]
        first, stop = needed(axis, row, size, self.padding.mode)
        # The last row may reflect pixels that lie before those of the row above it.
        first = min(first, needed(axis, self._last_row, size, self.padding.mode)[0])
        return first // extent, -(-stop // extent)

    def _first_block_needed(self) -> int:
        rows = [*self._unread, *(row for row, _ in itertools.islice(self._waiting, 1))]
        rows += [self._row] if self._row is not None else []
        return min((self._block_rows(row)[0] for row in rows), default=self._next_block_row)

    def _keys(self, lines: range) -> list[tuple[int, ...]]:
        across = [
            range(a // n, -(-b // n)) for (a, b), n in zip(self._columns_needed, self.blocks.extent[1:], strict=True)
        ]
        return list(itertools.product(lines, *across))


@lru_cache(maxsize=16)
def _rows(grid: Grid, plane: tuple[int, ...], origins: tuple[range, ...]) -> tuple[NDArray[np.int64], ...]:
    """Places, starts and extents of patches; the same again for images of one size."""
    lines = [np.asarray(line, np.int64) for line in origins]
    first = [np.asarray([a.start(i) for i in line], np.int64) for a, line in zip(grid.axes, origins, strict=True)]
    places, starts = (
        np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(lines)) for axes in (lines, first)
    )
    return places, starts, np.minimum(starts + np.asarray(grid.patch), np.asarray(plane)) - starts


def _union(ranges: Sequence[range]) -> list[range]:
    """Ranges in ascending order, merged where they touch."""
    merged: list[range] = []
    for line in sorted(ranges, key=lambda line: line.start):
        if merged and line.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, line.stop))
        elif line:
            merged.append(line)
    return merged


def _hull(intervals: Iterable[tuple[int, int]]) -> tuple[int, int]:
    first, stop = zip(*intervals, strict=True)
    return min(first), max(stop)
