"""Turns a source into sweeps, only when the pipeline asks: opens images, skips what is done."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchloom.engine.commit import Commits
from patchloom.engine.reading import BlockStore, Padding
from patchloom.engine.stitch import BufferPool, UnitMap
from patchloom.engine.survey import opened
from patchloom.engine.work import ImageWork, Sweep, UnitPart
from patchloom.errors import ImageError, ImageMismatchError, ImageTooLargeError
from patchloom.events import Callback, ImageStarted
from patchloom.geometry.placing import Placing
from patchloom.geometry.region import Region
from patchloom.geometry.units import UnitLayout
from patchloom.images.image import Image
from patchloom.images.plane import Planes, planes
from patchloom.images.resized import ResizedImage
from patchloom.images.source import Entry
from patchloom.images.sources.stored import fetch_ahead
from patchloom.models.model import Head
from patchloom.models.steps import Reduce, parse_reduce
from patchloom.predictions.index import ImageRow, Index
from patchloom.predictions.layout import PlaneInfo, RunLayout, indices

__all__ = ["Feed", "plane_info"]

AT_ONCE = 200
"""Images that the index is asked about at once."""


@dataclass(frozen=True)
class Feed:
    """Sweeps over all images that are not done; several workers may open images at once.

    Parameters
    ----------
    entries
        The source.
    layout
        Of the run.
    index
        What earlier sessions did.
    commits
        Told of images that begin, fail, or have nothing to predict.
    channels, dtype
        Of the batches.
    largest_block
        Bytes that one decoded block may take.
    reduced_by_model
        Whether the heads arrive reduced.
    """

    entries: Callable[[], Iterator[Entry]]
    layout: RunLayout
    index: Index
    commits: Commits
    emit: Callback
    channels: int
    dtype: np.dtype[Any]
    largest_block: int
    reduced_by_model: bool

    def images(self) -> Iterator[Iterator[Sweep]]:
        """For each image its sweeps; the image is opened when the first of them is asked for."""
        pool = BufferPool()
        rows: dict[str, ImageRow | None] = {}
        pending = fetch_ahead(self._pending(rows))
        return (self._sweeps(entry, rows.pop(entry.name), pool) for entry in pending)

    def _pending(self, rows: dict[str, ImageRow | None]) -> Iterator[Entry]:
        """Images that are not done (nothing of the others is fetched), and in `rows` what the index says of them."""
        entries = self.entries()
        while some := list(itertools.islice(entries, AT_ONCE)):
            known = self.index.known([entry.name for entry in some])
            for entry in some:
                row = known.get(entry.name)
                if row is None or row.state != "done" or row.identity != entry.identity:
                    rows[entry.name] = row
                    yield entry

    def _sweeps(self, entry: Entry, row: ImageRow | None, pool: BufferPool) -> Iterator[Sweep]:
        if row is not None and row.identity is not None and row.identity != entry.identity:
            self.commits.forget(entry.name)
            row = None
        try:
            yield from self._image(entry, row, pool)
        except ImageError as error:
            self.commits.fail_unopened(entry.name, error)

    def _image(self, entry: Entry, row: ImageRow | None, pool: BufferPool) -> Iterator[Sweep]:
        image = opened(entry, self.layout.config)
        try:
            views = self._planes(image, entry.name)
        except ImageError:
            image.close()
            raise
        work = self._begin(entry, image, views, row)
        begun = row is not None and row.identity is not None
        committed = {(part.loops, part.region) for part in self.index.parts(entry.name)} if begun else set()
        config = self.layout.config
        padding = Padding(config.pad, config.fill)
        units = self.layout.units(work.shape)
        last: Sweep | None = None
        for position, loops in enumerate(indices(views.loop_shape)):
            for across in units.sweeps():
                if work.failed:
                    return
                pending = [region for region in units.sweep(across) if (loops, region) not in committed]
                parts, columns = self._parts(work, loops, pending, units, pool)
                if parts:
                    if last is not None:
                        yield last
                    last = Sweep(work, BlockStore(views[position]), parts, columns, padding)
        # Before the last sweep is handed out: most images have only one, and are complete with it.
        if work.all_planned():
            self.commits.complete(work)
        if last is not None:
            yield last

    def _planes(self, image: Image, name: str) -> Planes:
        config = self.layout.config
        views = planes(image, ndim=self.layout.ndim, level=config.level, channels=config.channels, name=name)
        first = views[0]
        if first.channels != self.channels:
            raise ImageMismatchError(
                f"{name} has {first.channels} channels, and the model gets {self.channels}",
                "choose channels with --channels, or predict on these images apart",
            )
        if self.dtype.kind in "iu" and not np.can_cast(first.dtype, self.dtype, "safe"):
            raise ImageMismatchError(
                f"{name} has {first.dtype} pixels, and the model gets {self.dtype}",
                "give --scale, or predict on these images apart",
            )
        if self.layout.whole is not None and first.shape != self.layout.whole:
            here, others = ("x".join(map(str, shape)) for shape in (first.shape, self.layout.whole))
            raise ImageMismatchError(
                f"{name} has {here} pixels, and the others {others}",
                "give --resize, or --resize with --centre-crop, so that all have one size",
            )
        block = BlockStore(first).block_bytes
        if isinstance(image, ResizedImage):
            block = max(block, image.decoded_bytes)
        if block > self.largest_block:
            raise ImageTooLargeError(
                f"{name}: one chunk of {'x'.join(map(str, first.chunks))} pixels takes {block / 1e9:.1f} GB decoded",
                "raise --memory, or store it in tiles",
            )
        return views

    def _begin(self, entry: Entry, image: Image, views: Planes, row: ImageRow | None) -> ImageWork:
        info = plane_info(image, views, self.layout)
        grid = self.layout.grid(info.plane)
        maps = {head.name: self.layout.map(head, entry.name, info) for head in self.layout.dense_heads}
        grids = {head.name: grid.scaled(head.scale) for head in self.layout.dense_heads}
        work = ImageWork(
            entry.name,
            image,
            grid,
            info.plane,
            maps,
            grids,
            self.layout.patches(info),
            views.loop_axes,
            info.original,
        )
        if row is not None:
            work.bad_patches, work.skipped = row.bad_patches, row.patches_skipped
        self.commits.begin(work, entry.identity, info)
        self.emit(ImageStarted(entry.name, work.patches, row.patches_done if row is not None else 0))
        return work

    def _parts(
        self, work: ImageWork, loops: tuple[int, ...], pending: Sequence[Region], units: UnitLayout, pool: BufferPool
    ) -> tuple[list[UnitPart], Sequence[range]]:
        info = PlaneInfo(work.shape)
        parts: list[UnitPart] = []
        columns: Sequence[range] = ()
        openers = _Openers(self.layout, work, pool, self.reduced_by_model)
        for region in pending:
            rows, *columns = self.layout.contributors(work.grid, info, region)
            if not rows or not all(columns):
                continue
            parts.append(
                UnitPart(
                    work,
                    loops,
                    region,
                    rows,
                    columns,
                    openers.of(region),
                    self.layout.vector_heads,
                    alone=len(units) > 1,
                )
            )
        with work.lock:  # parts of the sweep before may be written meanwhile
            work.parts_left += len(parts)
        return parts, columns


class _Openers:
    """Makes the parts of a work's maps, with the blend weights that they share."""

    def __init__(self, layout: RunLayout, work: ImageWork, pool: BufferPool, reduced_by_model: bool) -> None:
        self._layout, self._work, self._pool = layout, work, pool
        names = [head.name for head in layout.raw_heads]
        self._reduce: dict[str, Reduce] = {} if reduced_by_model else parse_reduce(layout.config.reduce, names)
        self._raw = {head.name: head for head in layout.raw_heads}
        self._placings = {name: Placing(grid, layout.config.blend) for name, grid in work.head_grids.items()}

    def of(self, region: Region) -> Callable[[], dict[str, UnitMap]]:
        """What makes the maps of one unit."""
        return lambda: {name: self._open(name, region) for name in self._work.maps}

    def _open(self, name: str, region: Region) -> UnitMap:
        raw: Head = self._raw[name]
        area = self._layout.map_region(raw, self._work.shape, region)
        return UnitMap(
            self._work.maps[name],
            self._placings[name],
            area,
            raw.channels or 1,
            raw.dtype,
            self._reduce.get(name) or None,
            self._pool,
            gaps=self._layout.config.skip is not None,
        )


def plane_info(image: Image, views: Planes, layout: RunLayout) -> PlaneInfo:
    """What the journal keeps of an image."""
    info, level = image.info, layout.config.level
    spacing = {}
    for axis, size in info.spacing.items():
        spacing[axis] = size * info.extent(axis) / info.extent(axis, level)
    return PlaneInfo(
        tuple(views[0].shape),
        views.loop_axes,
        tuple(views.loop_shape),
        spacing,
        info.unit,
        info.crs,
        info.origin,
        image.original if isinstance(image, ResizedImage) else None,
    )
