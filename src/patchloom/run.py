"""A run as its users see it: a mapping from image names to predictions, read on demand."""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from patchloom.errors import NotPredictedError, RunDamagedError, UsageError
from patchloom.events import Callback
from patchloom.geometry.axes import spatial_axes
from patchloom.geometry.grid import Grid
from patchloom.geometry.region import Region
from patchloom.models.model import Head
from patchloom.predictions.folder import RunDocument
from patchloom.predictions.index import ImageRow, Index, Part
from patchloom.predictions.layout import PlaneInfo, RunLayout, indices

if TYPE_CHECKING:
    from patchloom.predictions.maps import StitchedMap
    from patchloom.predictions.patches import PatchFile, PatchFiles
    from patchloom.predictions.query import PatchTable
    from patchloom.predictions.verify import Damage

__all__ = ["Failure", "ImagePredictions", "ImageStatus", "Run", "RunStatus"]

Key = tuple[int, ...]
Prediction = Any
Resume = Callable[["Run", Any, Any, Sequence[Callback], dict[str, Any]], "Run"]
SPATIAL_WORDS = {"Z": ("slab", "depth"), "Y": ("row", "height"), "X": ("col", "width")}


@dataclass(frozen=True)
class ImageStatus:
    """How far one image is; `state` is done, partial, left or failed."""

    image: str
    state: str
    patches: int
    patches_done: int


@dataclass(frozen=True)
class Failure:
    """An image that is not predicted, and why."""

    image: str
    kind: str
    message: str


@dataclass(frozen=True)
class RunStatus:
    """How far a run is: numbers of images, and one image after the other."""

    done: int
    failed: int
    left: int
    index: Index

    def images(self) -> Iterator[ImageStatus]:
        """All images, in order of their names."""
        return (ImageStatus(row.name, row.state, row.patches, row.patches_done) for row in self.index.images())


class Run(Mapping[str, "ImagePredictions"]):
    """Mapping from the names of images to their predictions; opening one reads no image's predictions.

    Images that are not complete are in it with what is committed of them.

    Parameters
    ----------
    path
        Folder of the run.
    resume
        How it is resumed.
    """

    def __init__(self, path: Path, resume: Resume) -> None:
        self.path, self._resume = path, resume
        self.document = RunDocument.read(path)
        self.layout: RunLayout = self.document.layout(path)
        self._index = Index(path)

    @property
    def heads(self) -> tuple[Head, ...]:
        """Outputs of the model, as they are stored."""
        return self.layout.heads

    def __getitem__(self, image: str) -> ImagePredictions:
        row = self._index.image(image)
        if row is None or row.info is None or not (row.patches_done or row.state == "done"):
            raise NotPredictedError(f"the run has no predictions of {image!r}", "`patchloom status` lists its images")
        return ImagePredictions(self, row)

    def __iter__(self) -> Iterator[str]:
        return (row.name for row in self._index.images() if row.patches_done or row.state == "done")

    def __len__(self) -> int:
        return self._index.predicted()

    def images(self) -> Iterator[str]:
        """Names of the images that have predictions, in order."""
        return iter(self)

    def patch(self, image: str, *key: int, head: str | None = None) -> Prediction | None:
        """The one accessor: the prediction of the patch that starts at `key`, or None.

        Parameters
        ----------
        image
            Its name.
        key
            Origin of the patch in pixels, (y, x) or (z, y, x), with indices on S, T (and Z) in front where the image
            has them.
        head
            One head; without it a run with several heads gives a dict of all.

        Returns
        -------
        numpy.ndarray, numpy.generic, dict or None
            None where there is no such image or no such patch.
        """
        predictions = self.get(image)
        if predictions is None:
            return None
        found = predictions.get(tuple(key))
        return found[head] if isinstance(found, dict) and head is not None else found

    def items(self) -> Iterator[Any]:  # type: ignore[override]
        """Stream ``(image, *key, prediction)`` over all patches; one image's rows are in memory at a time at most."""
        for name in self:
            for key, prediction in self[name].items():
                yield (name, *key, prediction)

    def patches(
        self,
        where: str | None = None,
        sort: str | None = None,
        limit: int | None = None,
        head: str | None = None,
        image: str | None = None,
    ) -> PatchTable:
        """Table of the patches of a vector head, one row each.

        Parameters
        ----------
        where
            SQL condition over the columns, such as ``"tumour > 0.9 and stroma < 0.1"``.
        sort
            Columns, ``-`` in front for descending: ``"-tumour,image"``.
        limit
            Most rows.
        head
            Which vector head; the only one may be left out.
        image
            Only one image.

        Raises
        ------
        UsageError
            If the run has no vector head.
        QueryError
            If `where` or `sort` cannot be understood.
        """
        from patchloom.predictions.query import PatchTable

        chosen = self._vector_head(head)
        units = self._index.units() if image is None else list(dict.fromkeys(p.unit for p in self._index.parts(image)))
        files = [self.path / self.layout.table_name(chosen, unit) for unit in units]
        return PatchTable(
            files,
            chosen,
            self.layout.ndim,
            where=where,
            sort=sort,
            limit=limit,
            image=image,
            current=self._current(chosen, units),
        )

    def status(self) -> RunStatus:
        """How far the run is."""
        self._index.refresh()
        counts = self._index.counts()
        return RunStatus(counts["done"], counts["failed"], counts["left"] + counts["partial"], self._index)

    def failures(self) -> list[Failure]:
        """Images that failed."""
        self._index.refresh()
        return [Failure(row.name, row.kind or "", row.message or "") for row in self._index.images("failed")]

    def bad_patches(self) -> dict[str, int]:
        """Number of patches with predictions that are not finite, for each image that has any."""
        return {row.name: row.bad_patches for row in self._index.images() if row.bad_patches}

    def verify(self) -> list[Damage]:
        """Read everything back; empty where nothing is damaged or missing."""
        from patchloom.predictions.verify import verify

        self._index.refresh()
        return list(verify(self.path, self._index))

    def export(self, path: str | Path, image: str | None = None, head: str | None = None, level: int = 0) -> None:
        """Write predictions to a file of another format, chosen by its ending (see ``patchloom export --help``)."""
        from patchloom.export.export import export

        export(self, Path(path), image=image, head=head, level=level)

    def resume(
        self,
        *,
        model: Any = None,
        source: Any = None,
        callbacks: Sequence[Callback] = (),
        batch: int | str | None = None,
        threads: int | str | None = None,
        memory: int | str | None = None,
        device: str | None = None,
    ) -> Run:
        """Go on with what is not done, and try again what failed.

        Parameters
        ----------
        model, source
            Needed again where the run was made with a live model or with arrays.
        callbacks, batch, threads, memory, device
            As for `patchloom.predict`.
        """
        options = {"batch": batch, "threads": threads, "memory": memory, "device": device}
        resumed = self._resume(self, model, source, callbacks, options)
        self._index.refresh()
        return resumed

    def __repr__(self) -> str:
        status = self.status()
        return f"<Run {self.path}: {status.done} done, {status.failed} failed, {status.left} left>"

    def _repr_html_(self) -> str:
        status = self.status()
        rows = [
            ("model", self.document.model["name"]),
            ("done", status.done),
            ("failed", status.failed),
            ("left", status.left),
            ("heads", ", ".join(f"{head.name} ({head.kind})" for head in self.heads)),
        ]
        cells = "".join(f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>" for name, value in rows)
        return f"<table><caption>{html.escape(str(self.path))}</caption>{cells}</table>"

    @property
    def index(self) -> Index:
        """Where everything is."""
        return self._index

    def table(self, head: Head, unit: str, loop_axes: str) -> PatchFile:
        """Table of one unit; some are kept open."""
        return self._tables.open(self.path / self.layout.table_name(head, unit), head, loop_axes, self.layout.ndim)

    @cached_property
    def _tables(self) -> PatchFiles:
        from patchloom.predictions.patches import PatchFiles

        return PatchFiles()

    @cached_property
    def open_map(self) -> Callable[[str], Any]:
        """Opens a Zarr array by its path relative to the run."""
        import zarr

        @lru_cache(maxsize=64)
        def opened(path: str) -> Any:
            try:
                return zarr.open_array(self.path / path, mode="r")
            except Exception as error:
                raise RunDamagedError(
                    f"{self.path / path} cannot be read: {error}", "run `patchloom verify`"
                ) from error

        return opened

    def _vector_head(self, name: str | None) -> Head:
        vectors = self.layout.vector_heads
        if not vectors:
            raise UsageError(
                "the run has no table: its heads are maps", "see run[image].stitched(), `patchloom export`"
            )
        if name is None:
            return vectors[0]
        head = self.layout.head(name)
        if head.kind != "vector":
            raise UsageError(f"head {name!r} is a map", f"tables: {', '.join(head.name for head in vectors)}")
        return head

    def _current(self, head: Head, units: Sequence[str]) -> dict[Path, set[str]]:
        return {
            self.path / self.layout.table_name(head, unit): images
            for unit, images in self._index.superseded().items()
            if unit in set(units)
        }


class ImagePredictions(Mapping[Key, Prediction]):
    """Mapping from patch origins to predictions: NumPy arrays, or dicts of them where there are several heads.

    A dense head gives the patch's part of the stitched map, ``(C, [Z,] Y, X)`` clipped to the image; a vector head
    gives ``(K,)`` or a number.
    """

    def __init__(self, run: Run, row: ImageRow) -> None:
        self._run, self.image, self.state = run, row.name, row.state
        assert row.info is not None
        self.info = PlaneInfo.from_json(row.info)
        self._patches_done = row.patches_done

    @cached_property
    def grid(self) -> Grid:
        """Where patches are on each plane."""
        return self._run.layout.grid(self.info.plane)

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
        if loops is None or parts is None:
            raise NotPredictedError(
                f"no patch of {self.image!r} starts at {tuple(key)}", "`run[image].grid` says where patches start"
            )
        values = {head.name: self._read(head, loops, start, parts) for head in self._run.heads}
        return next(iter(values.values())) if len(values) == 1 else values

    def __iter__(self) -> Iterator[Key]:
        grid, done = self.grid, self.state == "done"
        for loops in indices(self.info.loop_shape):
            for place in itertools.product(*map(range, grid.counts)):
                start = grid.start(place)
                if done or self._parts_of(loops, start) is not None:
                    yield (*loops, *start)

    def __len__(self) -> int:
        return len(self.grid) * self.info.planes if self.state == "done" else sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<ImagePredictions {self.image!r}: {self.state}, {self._patches_done} patches>"

    def at(self, *pixel: int) -> dict[Key, Prediction]:
        """Predictions of the patches that cover a pixel, by their origins."""
        loops, point = self._split(pixel)
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
        sizes = [min(p, n - a) for p, n, a in zip(self.grid.patch, self.info.plane, start, strict=True)]
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
        layout = self._run.layout.map(chosen, self.image, self.info)
        if not 0 <= level < len(layout.levels):
            raise UsageError(f"level {level} does not exist", f"{self.image} has levels 0 to {len(layout.levels) - 1}")
        array = self._run.open_map(f"{self._run.layout.map_name(chosen, self.image)}/{level}")
        spacing = {axis: size * (2**level if axis in "YX" else 1) for axis, size in layout.spacing.items()}
        return StitchedMap(array, layout.axes, spacing, layout.nodata, chosen.classes, self.image)

    def _dense_head(self, name: str | None) -> Head:
        maps = self._run.layout.dense_heads
        if not maps:
            raise UsageError("the run has no maps: its heads are tables", "see run.patches(), `patchloom query`")
        head = maps[0] if name is None else self._run.layout.head(name)
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

    def _parts_of(self, loops: Key | None, start: Key) -> list[Part] | None:
        """Committed parts that hold a patch, None where any of it is missing."""
        assert loops is not None
        layout = self._run.layout
        whole = Region.whole(self.info.plane)
        footprint = Region(start, self.grid.patch).intersect(whole)
        needed = footprint if layout.dense_heads else Region(start, (1,) * len(start))
        parts = self._run.index.parts(self.image, loops, needed)
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
            table = self._run.table(head, part.unit, self.info.loop_axes)
            return table.row(self.image, loops, start, part.offset)
        stitched = self.stitched(head.name)
        whole = Region.whole(self.info.plane)
        area = self._run.layout.map_region(head, self.info.plane, Region(start, self.grid.patch).intersect(whole))
        return stitched[self._index_of(stitched.axes, loops, area)]

    def _index_of(self, axes: str, loops: Key, area: Region) -> tuple[int | slice, ...]:
        """Index of an area of one plane in an array with `axes`."""
        by_axis: dict[str, int | slice] = dict(zip(self.info.loop_axes, loops, strict=True))
        by_axis |= dict(zip(spatial_axes(len(area.shape)), area.slices, strict=True))
        return tuple(by_axis.get(axis, slice(None)) for axis in axes)
