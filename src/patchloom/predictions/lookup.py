"""Predictions of one image as a mapping, read on demand."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from functools import cached_property, lru_cache
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import NotPredictedError, RunDamagedError, UsageError
from patchloom.geometry.axes import spatial_axes
from patchloom.geometry.grid import Grid
from patchloom.geometry.region import Region
from patchloom.models.model import Head
from patchloom.objects import AnyPath
from patchloom.predictions.dense import DenseMap
from patchloom.predictions.index import ImageRow, Index, Part
from patchloom.predictions.layout import PlaneInfo, RunLayout, indices, member_name
from patchloom.predictions.map_files import FolderFiles, HeldFiles, MapFiles
from patchloom.predictions.members import MemberFiles, OpenMembers
from patchloom.predictions.skipped import unpack

if TYPE_CHECKING:
    from patchloom.predictions.maps import StitchedMap
    from patchloom.predictions.patches import PatchFile, PatchFiles, UnitRows
    from patchloom.predictions.stores.store import PredictionStore

__all__ = ["ImagePredictions", "Lookup", "Prediction"]

Key = tuple[int, ...]
Prediction = Any
SPATIAL_WORDS = {"Z": ("slab", "depth"), "Y": ("row", "height"), "X": ("col", "width")}


class Lookup:
    """Where a run's predictions are read from: its index, and the tables and maps that are open.

    Parameters
    ----------
    folder
        Of the run.
    layout, index
        Of the run.
    open_store
        Opens the store of its vector heads, when it is needed for the first time; None: they are tables in the folder.
    """

    def __init__(
        self, folder: AnyPath, layout: RunLayout, index: Index, open_store: Callable[[], PredictionStore] | None = None
    ) -> None:
        self._folder, self.layout, self.index, self._open_store = folder, layout, index, open_store

    @cached_property
    def store(self) -> PredictionStore | None:
        """Where rows of vector heads are; None where they are tables in the folder."""
        if self._open_store is None:
            return None
        store = self._open_store()
        weakref.finalize(self, store.close)  # nobody closes a run
        return store

    def rows(self, head: Head, row: ImageRow) -> Iterator[UnitRows]:
        """Everything that is predicted of one image's vector head, in pieces."""
        parts = self.index.parts(row.name)
        if self.store is not None:
            from patchloom.predictions.stores.reading import committed_rows

            yield from committed_rows(self.store, self.layout, head, row, parts)
            return
        loop_axes = PlaneInfo.from_json(row.info or {}).loop_axes
        for unit, loops in dict.fromkeys((part.unit, part.loops) for part in parts):
            yield self.table(head, unit, loop_axes).rows(row.name, loops)

    def table(self, head: Head, unit: str, loop_axes: str) -> PatchFile:
        """Table of one unit; some are kept open."""
        return self._tables.open(self._folder / self.layout.table_name(head, unit), head, loop_axes, self.layout.ndim)

    def map(self, head: Head, image: str, info: PlaneInfo, unit: str | None) -> DenseMap:
        """Map of one image: in a folder of its own, in the file of the `unit` that it is in, or nowhere without one."""
        layout = self.layout
        if self.index.knows_file(layout.map_file(head, image)):
            return layout.map(head, image, info)
        files: MapFiles = HeldFiles()  # an image without a single patch
        if unit is not None:
            files = MemberFiles(self._members.open(self._folder / layout.members_name(head, unit)), member_name(image))
        return layout.map(head, image, info, files)

    def map_places(self, row: ImageRow) -> dict[str, str]:
        """Where the maps of an image are, see `RunLayout.map_places`; nothing of one without a single patch."""
        layout = self.layout
        if layout.in_folders(row.name, self.index.knows_file):
            return layout.map_places(row.name)
        unit = next((part.unit for part in self.index.parts(row.name)), None)
        return {} if unit is None else layout.map_places(row.name, unit)

    def array(self, layout: DenseMap, level: int) -> Any:
        """One level of a map; some of those in folders are kept open."""
        if isinstance(layout.files, FolderFiles) and isinstance(layout.files.folder, Path):
            return self._open_map(layout.files.folder / str(level))
        from patchloom.predictions.maps import StoredArray

        return StoredArray(layout, level)

    @cached_property
    def _members(self) -> OpenMembers:
        return OpenMembers()

    @cached_property
    def _tables(self) -> PatchFiles:
        from patchloom.predictions.patches import PatchFiles

        return PatchFiles()

    @cached_property
    def _open_map(self) -> Callable[[Path], Any]:
        import zarr

        @lru_cache(maxsize=64)
        def opened(path: Path) -> Any:
            try:
                return zarr.open_array(path, mode="r")
            except Exception as error:
                raise RunDamagedError(f"{path} cannot be read: {error}", "run `patchloom verify`") from error

        return opened


class ImagePredictions(Mapping[Key, Prediction]):
    """Mapping from patch origins to predictions: NumPy arrays, or dicts of them where there are several heads.

    A dense head gives the patch's part of the stitched map, ``(C, [Z,] Y, X)`` clipped to the image; a vector head
    gives ``(K,)`` or a number. Patches that were skipped are not in it.
    """

    def __init__(self, lookup: Lookup, row: ImageRow) -> None:
        self._lookup, self.image, self.state = lookup, row.name, row.state
        assert row.info is not None
        self.info = PlaneInfo.from_json(row.info)
        self._patches_done, self._patches_skipped = row.patches_done, row.patches_skipped
        self._maps: dict[str, DenseMap] = {}

    @cached_property
    def grid(self) -> Grid:
        """Where patches are on each plane."""
        return self._lookup.layout.grid(self.info.plane)

    @property
    def crs(self) -> str:
        """Coordinate reference system, or empty."""
        return self.info.crs

    @property
    def origin(self) -> tuple[float, float] | None:
        """Coordinates (x, y) of the upper left corner in `crs`."""
        return self.info.origin

    @property
    def key_axes(self) -> str:
        """Axes that keys are positions on, such as ``YX`` or ``TYX``."""
        return self.info.loop_axes + spatial_axes(len(self.info.plane))

    def __getitem__(self, key: Key) -> Prediction:
        loops, start = self._split(key)
        place = None if loops is None else self.grid.index_of(start)
        parts = self._parts_of(loops, start) if place is not None else None
        if self._patches_skipped and self.is_skipped(key):
            by = self._lookup.layout.config.skip or "a function"
            raise NotPredictedError(
                f"the patch of {self.image!r} at {tuple(key)} was skipped by {by}", "`run[image].skipped()` names all"
            )
        if loops is None or parts is None:
            raise NotPredictedError(
                f"no patch of {self.image!r} starts at {tuple(key)}", "`run[image].grid` says where patches start"
            )
        values = {head.name: self._read(head, loops, start, parts) for head in self._lookup.layout.heads}
        return next(iter(values.values())) if len(values) == 1 else values

    def __iter__(self) -> Iterator[Key]:
        done = self.state == "done"
        for loops, start, skipped in self._places():
            if not skipped and (done or self._parts_of(loops, start) is not None):
                yield (*loops, *start)

    def items(self) -> ItemsView[Key, Prediction]:
        """Origins and predictions; out of a store they come many at a time."""
        return _StoredItems(self) if self._is_stored else super().items()

    def values(self) -> ValuesView[Prediction]:
        """Predictions; out of a store they come many at a time."""
        return _StoredValues(self) if self._is_stored else super().values()

    @property
    def _is_stored(self) -> bool:
        return self._lookup.store is not None and not self._lookup.layout.dense_heads

    def __len__(self) -> int:
        if self.state != "done":
            return sum(1 for _ in self)
        return len(self.grid) * self.info.planes - self._patches_skipped

    def __repr__(self) -> str:
        skipped = f", {self._patches_skipped} skipped" if self._patches_skipped else ""
        return f"<ImagePredictions {self.image!r}: {self.state}, {self._patches_done} patches{skipped}>"

    def skipped(self) -> Iterator[Key]:
        """Origins of the patches that were not worth predicting."""
        if self._patches_skipped:
            yield from ((*loops, *start) for loops, start, skipped in self._places() if skipped)

    def is_skipped(self, key: Key) -> bool:
        """Whether a patch that starts at `key` was skipped."""
        loops, start = self._split(key)
        index = None if loops is None or not self._patches_skipped else self.grid.index_of(start)
        if loops is None or index is None:
            return False
        row, *across = self.grid.place_of(index)
        return bool(self._skipped_in(loops, row)[tuple(across)])

    def at(self, *pixel: int) -> dict[Key, Prediction]:
        """Predictions of the patches that cover a pixel, by their origins."""
        loops, point = self._split(pixel)
        original = self.info.original
        if loops is not None and original is not None:
            inside = all(0 <= p < n for p, n in zip(point, original, strict=True))
            point = (0,) * len(point) if inside else (-1,) * len(point)
        if loops is None or any(not 0 <= p < n for p, n in zip(point, self.info.plane, strict=True)):
            return {}
        near = self.grid.covering(Region(point, (1,) * len(point)))
        keys = ((*loops, *self.grid.start(place)) for place in itertools.product(*near))
        found = ((key, self.get(key)) for key in keys)
        return {key: prediction for key, prediction in found if prediction is not None}

    def describe(self, key: Key) -> dict[str, int]:
        """Place and size of the patch that starts at `key`: row, col, y, x, height, width (and slab, z, depth).

        Raises
        ------
        NotPredictedError
            If no patch starts there.
        """
        loops, start = self._split(key)
        index = None if loops is None else self.grid.index_of(start)
        if loops is None or index is None:
            raise NotPredictedError(f"no patch of {self.image!r} starts at {tuple(key)}", "")
        axes = spatial_axes(len(start))
        sizes = self.info.original or [
            min(p, n - a) for p, n, a in zip(self.grid.patch, self.info.plane, start, strict=True)
        ]
        loop_values = {axis.lower(): i for axis, i in zip(self.info.loop_axes, loops, strict=True)}
        place = self.grid.place_of(index)
        return (
            loop_values
            | {axis.lower(): a for axis, a in zip(axes, start, strict=True)}
            | {SPATIAL_WORDS[axis][1]: n for axis, n in zip(axes, sizes, strict=True)}
            | {SPATIAL_WORDS[axis][0]: i for axis, i in zip(axes, place, strict=True)}
        )

    def nearest(self, key: Key) -> Key | None:
        """Origin of the patch that starts nearest to `key`, for messages."""
        loops, start = self._split(key)
        if loops is None or not len(self.grid):
            return None
        axes = self.grid.axes
        place = [
            min(
                range(max(0, a // axis.stride - 1), min(axis.count, a // axis.stride + 2)) or [axis.count - 1],
                key=lambda i, axis=axis, a=a: abs(axis.start(i) - a),
            )
            for axis, a in zip(axes, start, strict=True)
        ]
        return (*loops, *self.grid.start(place))

    def stitched(self, head: str | None = None, level: int = 0) -> StitchedMap:
        """Lazy array of the whole image; slicing reads only what it needs.

        Parameters
        ----------
        head
            Which dense head; the first one may be left out.
        level
            Of the pyramid; each halves Y and X.

        Raises
        ------
        UsageError
            If there is no such head or level.
        """
        from patchloom.predictions.maps import StitchedMap

        chosen = self._dense_head(head)
        layout = self._map(chosen)
        if not 0 <= level < len(layout.levels):
            raise UsageError(f"level {level} does not exist", f"{self.image} has levels 0 to {len(layout.levels) - 1}")
        array = self._lookup.array(layout, level)
        spacing = {axis: size * (2**level if axis in "YX" else 1) for axis, size in layout.spacing.items()}
        return StitchedMap(array, layout.axes, spacing, layout.nodata, chosen.classes, self.image)

    def _map(self, head: Head) -> DenseMap:
        if head.name not in self._maps:
            self._maps[head.name] = self._lookup.map(head, self.image, self.info, self._unit)
        return self._maps[head.name]

    @cached_property
    def _unit(self) -> str | None:
        """A unit that the image is in; the only one of a small image."""
        return next((part.unit for part in self._lookup.index.parts(self.image)), None)

    def _dense_head(self, name: str | None) -> Head:
        maps = self._lookup.layout.dense_heads
        if not maps:
            raise UsageError("the run has no maps: its heads are tables", "see run.patches(), `patchloom query`")
        head = maps[0] if name is None else self._lookup.layout.head(name)
        if head.kind != "dense":
            raise UsageError(f"head {name!r} is a table", f"maps: {', '.join(head.name for head in maps)}")
        return head

    def _split(self, key: Sequence[int] | EllipsisType) -> tuple[Key | None, Key]:
        """Loop indices and origin; None for the former where the key does not fit this image."""
        count = len(self.info.loop_axes)
        if not isinstance(key, Sequence) or len(key) != count + len(self.info.plane):
            return None, ()
        loops, start = tuple(int(k) for k in key[:count]), tuple(int(k) for k in key[count:])
        inside = all(0 <= i < n for i, n in zip(loops, self.info.loop_shape, strict=True))
        return (loops if inside else None), start

    def _places(self) -> Iterator[tuple[Key, Key, bool]]:
        """All patches in order: loop indices, origin, and whether it is known to be skipped."""
        grid = self.grid
        for loops in indices(self.info.loop_shape):
            for row in range(grid.counts[0]):
                skipped = self._skipped_in(loops, row) if self._patches_skipped else None
                for across in itertools.product(*map(range, grid.counts[1:])):
                    yield loops, grid.start((row, *across)), bool(skipped is not None and skipped[across])

    def _skipped_in(self, loops: Key, row: int) -> NDArray[np.bool_]:
        """For a row of the grid, which of its patches were skipped: of the shape of the grid but for its first axis."""
        grid, plane = self.grid, self.info.plane
        marks = np.zeros(grid.counts[1:], np.bool_)
        line = Region((grid.axes[0].start(row), *(0 for _ in plane[1:])), (1, *plane[1:]))
        for part in self._lookup.index.parts(self.image, loops, line):
            if part.skipped is not None:
                rows, *across = grid.starting_in(part.region)
                found = unpack(part.skipped, part.patches).reshape(len(rows), *map(len, across))
                marks[tuple(slice(a.start, a.stop) for a in across)] = found[row - rows.start]
        return marks

    def _parts_of(self, loops: Key | None, start: Key) -> list[Part] | None:
        """Committed parts that hold a patch, None where any of it is missing."""
        assert loops is not None
        layout = self._lookup.layout
        whole = Region.whole(self.info.plane)
        footprint = Region(start, self.grid.patch).intersect(whole)
        needed = footprint if layout.dense_heads else Region(start, (1,) * len(start))
        parts = self._lookup.index.parts(self.image, loops, needed)
        if self.state == "done":
            return parts
        covered = sum(part.region.intersect(needed).size for part in parts)
        return parts if covered == needed.size else None

    def _read(self, head: Head, loops: Key, start: Key, parts: Sequence[Part]) -> Prediction:
        if head.kind == "vector":
            origin = Region(start, (1,) * len(start))
            part = next((part for part in parts if part.region.intersect(origin).size), None)
            if part is None:
                raise RunDamagedError(f"the journal has lost predictions of {self.image}", "run `patchloom verify`")
            if self._lookup.store is not None:
                return self._stored(self._lookup.store, head, (*loops, *start))
            table = self._lookup.table(head, part.unit, self.info.loop_axes)
            return table.row(self.image, loops, start, part.offset)
        stitched = self.stitched(head.name)
        whole = Region.whole(self.info.plane)
        area = self._lookup.layout.map_region(head, self.info.plane, Region(start, self.grid.patch).intersect(whole))
        return stitched[self._index_of(stitched.axes, loops, area)]

    def _stored(self, store: PredictionStore, head: Head, key: Key) -> Prediction:
        found = store.get(head.name, self.image, self.key_axes, key)
        if found is None:
            raise RunDamagedError(
                f"the store has lost the prediction of {self.image!r} at {key}", "`patchloom verify` names what is lost"
            )
        return found

    def _streamed(self) -> Iterator[tuple[Key, Prediction]]:
        """Items, read some thousands at a time; for runs without maps."""
        row = self._lookup.index.image(self.image)
        assert row is not None
        heads = self._lookup.layout.heads
        count = 0
        for found in zip(*(_pairs(self._lookup.rows(head, row)) for head in heads), strict=True):
            keys = {key for key, _ in found}
            if len(keys) > 1:
                raise RunDamagedError(f"heads of {self.image!r} have different patches", "run `patchloom verify`")
            count += 1
            yield keys.pop(), (
                found[0][1]
                if len(heads) == 1
                else {head.name: value for head, (_, value) in zip(heads, found, strict=True)}
            )
        if self.state == "done" and count != len(self):
            raise RunDamagedError(
                f"the store has {count:,} of {len(self):,} patches of {self.image!r}", "run `patchloom verify`"
            )

    def _index_of(self, axes: str, loops: Key, area: Region) -> tuple[int | slice, ...]:
        """Index of an area of one plane in an array with `axes`."""
        by_axis: dict[str, int | slice] = dict(zip(self.info.loop_axes, loops, strict=True))
        by_axis |= dict(zip(spatial_axes(len(area.shape)), area.slices, strict=True))
        return tuple(by_axis.get(axis, slice(None)) for axis in axes)


class _StoredItems(ItemsView[Key, Prediction]):
    """Items out of a store, which is not asked patch by patch."""

    _mapping: ImagePredictions

    def __iter__(self) -> Iterator[tuple[Key, Prediction]]:
        return self._mapping._streamed()


class _StoredValues(ValuesView[Prediction]):
    _mapping: ImagePredictions

    def __iter__(self) -> Iterator[Prediction]:
        return (value for _, value in self._mapping._streamed())


def _pairs(rows: Iterable[UnitRows]) -> Iterator[tuple[Key, Prediction]]:
    """Keys and predictions of rows that were not skipped."""
    for part in rows:
        for i, start in enumerate(part.starts.tolist()):
            if part.skipped is None or not part.skipped[i]:
                yield (*part.loops, *start), part.values[i]
