"""Turns a source into sweeps, one at a time and only when the pipeline asks: opens images, skips what is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchloom.engine.commit import Commits
from patchloom.engine.reading import BlockStore, Padding
from patchloom.engine.stitch import BufferPool, UnitMap
from patchloom.engine.work import ImageWork, Sweep, UnitPart
from patchloom.errors import ImageError, ImageMismatchError, ImageTooLargeError
from patchloom.events import Callback, ImageStarted
from patchloom.geometry.placing import Placing
from patchloom.geometry.region import Region
from patchloom.geometry.units import UnitLayout
from patchloom.images.image import Image
from patchloom.images.plane import Planes, planes
from patchloom.images.source import Entry
from patchloom.models.model import Head
from patchloom.models.steps import Reduce, parse_reduce
from patchloom.predictions.index import ImageRow, Index
from patchloom.predictions.layout import PlaneInfo, RunLayout, indices

__all__ = ["Feed", "plane_info"]


@dataclass(frozen=True)
class Feed:
    """Sweeps over all images that are not done.

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

    def sweeps(self) -> Iterator[Sweep | None]:
        """Yield the sweeps; None where an image gave none (so that the pipeline can look around in between)."""
        pool = BufferPool()
        for entry in self.entries():
            row = self.index.image(entry.name)
            if row is not None and row.state == "done" and row.identity == entry.identity:
                continue
            if row is not None and row.identity is not None and row.identity != entry.identity:
                self.commits.forget(entry.name)
                row = None
            try:
                yield from self._image(entry, row, pool)
            except ImageError as error:
                self.commits.fail_unopened(entry.name, error)
                yield None

    def _image(self, entry: Entry, row: ImageRow | None, pool: BufferPool) -> Iterator[Sweep | None]:
        image = entry.open()
        try:
            views = self._planes(image, entry.name)
        except ImageError:
            image.close()
            raise
        work = self._begin(entry, image, views, row)
        committed = {(part.loops, part.region) for part in self.index.parts(entry.name)} if row is not None else set()
        config = self.layout.config
        padding = Padding(config.pad, config.fill)
        units = self.layout.units(work.shape)
        for position, loops in enumerate(indices(views.loop_shape)):
            for across in units.sweeps():
                if work.failed:
                    return
                pending = [region for region in units.sweep(across) if (loops, region) not in committed]
                parts, columns = self._parts(work, loops, pending, units, pool)
                if parts:
                    yield Sweep(work, BlockStore(views[position]), parts, columns, padding)
        if work.all_planned():
            self.commits.complete(work)
            yield None

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
        block = BlockStore(first).block_bytes
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
        work = ImageWork(entry.name, image, grid, info.plane, maps, grids, self.layout.patches(info), views.loop_axes)
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
        tuple(views[0].shape), views.loop_axes, tuple(views.loop_shape), spacing, info.unit, info.crs, info.origin
    )
