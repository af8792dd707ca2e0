"""The work of one image: planes, sweeps over them, and the units that the sweeps fill."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.engine.reading import BlockStore, Padding
from patchloom.engine.shapes import PartShape, SweepShape
from patchloom.engine.stitch import UnitMap
from patchloom.geometry.grid import Grid
from patchloom.images.image import Image
from patchloom.models.model import Head
from patchloom.predictions.dense import DenseMap
from patchloom.predictions.files import FileRecord
from patchloom.predictions.map_files import HeldFiles
from patchloom.predictions.patches import UnitRows

__all__ = ["ImageWork", "ReadyRow", "Sweep", "UnitPart", "unit_places"]


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
    completes
        Whether the image is complete with what is predicted now; else other parts of it are done elsewhere.
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
    completes: bool = True
    parts_left: int = 0
    bad_patches: int = 0
    skipped: int = 0
    failed: bool = False
    planned: bool = False
    sweeps: list[Sweep] = field(default_factory=list)
    encoded: list[UnitPart] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def held(self) -> Mapping[str, HeldFiles]:
        """Files of its maps, a head each, where they are in memory until other images' are written with them."""
        files = {name: layout.files for name, layout in self.maps.items()}
        return {name: held for name, held in files.items() if isinstance(held, HeldFiles)}

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
    work, loops, shape
        Which image and plane, and what part of it.
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
        shape: PartShape,
        open_maps: Callable[[], Mapping[str, UnitMap]],
        heads: Sequence[Head],
        *,
        alone: bool,
    ) -> None:
        self.work, self.loops, self.region, self.rows, self.alone = work, loops, shape.region, shape.rows, alone
        self._open_maps, self._heads = open_maps, heads
        self._origins = shape.origins
        self.patches, self._left = shape.patches, shape.contributors
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
        places, starts, shapes = unit_places(self.work.grid, self.work.shape, self._origins)
        if self.work.original is not None:
            shapes = np.broadcast_to(np.asarray(self.work.original, np.int64), shapes.shape)
        values = self._vectors[head.name] if self._opened else self._empty(head)
        if self._skipped is not None:
            values[self._skipped] = 0  # the same bytes each time
        return UnitRows(self.work.name, self.loops, places, starts, shapes, values, self._skipped)

    def release(self) -> None:
        """Give everything back."""
        self.release_maps()
        self._vectors.clear()

    def release_maps(self) -> None:
        """Give the parts of maps back: they are encoded."""
        maps, self.maps = self.maps, {}
        for unit_map in maps.values():
            unit_map.release()


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
    shape
        Of the sweep.
    parts
        Units that are to be filled, in order of their rows.
    padding
        Beyond the edges of the image.
    """

    def __init__(
        self, work: ImageWork, blocks: BlockStore, shape: SweepShape, parts: Sequence[UnitPart], padding: Padding
    ) -> None:
        self.work, self.blocks, self.shape, self.padding = work, blocks, shape, padding
        self._parts = list(parts)
        self._ahead = itertools.chain.from_iterable(shape.rows)
        self._row: int | None = None
        self._to_decode: deque[tuple[int, ...]] = deque()
        self._decoding: dict[tuple[int, ...], None] = {}
        self._next_block_row = 0
        self._loaded: dict[int, list[tuple[int, ...]]] = {}
        self._waiting: deque[tuple[int, int]] = deque()
        self._unread: dict[int, int] = {}
        self._advance()

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

    def finished(self, part: UnitPart) -> bool:
        """Forget a unit that is complete; True where it was the last one."""
        self._parts = [other for other in self._parts if other is not part]
        return not self._parts

    def _advance(self) -> None:
        """Go to the next patch row, and on over those whose blocks are all there."""
        while (row := next(self._ahead, None)) is not None:
            first, stop = self.shape.block_rows(row)
            new = range(max(first, self._next_block_row), stop)
            self._next_block_row = self._blocks_end = max(stop, self._next_block_row)
            if new:
                self._row = row
                self._to_decode = deque((line, *key) for line in new for key in self.shape.blocks_across)
                self.blocks.announce(self._to_decode)
                return
            self._waiting.append((row, self._blocks_end))
        self._row = None

    def _ready(self) -> list[ReadyRow]:
        ready: list[ReadyRow] = []
        undecoded = min((key[0] for key in itertools.chain(self._decoding, self._to_decode)), default=None)
        while self._waiting and (undecoded is None or self._waiting[0][1] <= undecoded):
            row, _ = self._waiting.popleft()
            count = self._unread[row] = self.shape.patches_in_row
            ready.append(ReadyRow(self, row, itertools.product(*self.shape.columns), count))
        return ready

    def _first_block_needed(self) -> int:
        rows = [*self._unread, *(row for row, _ in itertools.islice(self._waiting, 1))]
        rows += [self._row] if self._row is not None else []
        return min((self.shape.block_rows(row)[0] for row in rows), default=self._next_block_row)


@lru_cache(maxsize=16)
def unit_places(grid: Grid, plane: tuple[int, ...], origins: tuple[range, ...]) -> tuple[NDArray[np.int64], ...]:
    """Places, starts and extents of patches; the same again for images of one size."""
    lines = [np.asarray(line, np.int64) for line in origins]
    first = [np.asarray([a.start(i) for i in line], np.int64) for a, line in zip(grid.axes, origins, strict=True)]
    places, starts = (
        np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(lines)) for axes in (lines, first)
    )
    return places, starts, np.minimum(starts + np.asarray(grid.patch), np.asarray(plane)) - starts
