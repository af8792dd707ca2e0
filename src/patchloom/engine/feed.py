"""Turns assignments into sweeps, only when the pipeline asks: opens images, skips what is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from patchloom.engine.assignment import Assignment
from patchloom.engine.commit import Commits
from patchloom.engine.reading import BlockStore, Padding, block_bytes, block_extent
from patchloom.engine.shapes import PlaneShape, PlaneShapes, SweepShape
from patchloom.engine.singles import Single, SingleShapes
from patchloom.engine.stitch import BufferPool, UnitMap
from patchloom.engine.survey import opened
from patchloom.engine.work import ImageWork, Sweep, UnitPart
from patchloom.errors import ImageError, ImageMismatchError, ImageTooLargeError
from patchloom.events import Callback, ImageStarted
from patchloom.geometry.placing import Placing
from patchloom.geometry.region import Region
from patchloom.images.image import Image
from patchloom.images.plane import Planes, planes
from patchloom.images.resized import ResizedImage
from patchloom.images.source import Entry
from patchloom.images.sources.stored import fetch_ahead
from patchloom.models.steps import Reduce, parse_reduce
from patchloom.predictions.layout import PlaneInfo, RunLayout, indices

__all__ = ["Feed", "plane_info"]


@dataclass(frozen=True)
class Feed:
    """Sweeps over what is assigned; several workers may open images at once.

    Parameters
    ----------
    layout
        Of the run.
    commits
        Told of images that begin, fail, or have nothing to predict.
    channels, dtype
        Of the batches.
    largest_block
        Bytes that one decoded block may take.
    reduced_by_model
        Whether the heads arrive reduced.
    """

    layout: RunLayout
    commits: Commits
    emit: Callback
    channels: int
    dtype: np.dtype[Any]
    largest_block: int
    reduced_by_model: bool

    @cached_property
    def _pool(self) -> BufferPool:
        return BufferPool()

    @cached_property
    def _shapes(self) -> PlaneShapes:
        return PlaneShapes(self.layout)

    @cached_property
    def _singles(self) -> SingleShapes:
        return SingleShapes()

    @cached_property
    def _stacks(self) -> bool:
        """Whether images of one patch are stacked: those without maps, whose patches are not tested."""
        return not self.layout.dense_heads and self.layout.config.skip is None

    @cached_property
    def padding(self) -> Padding:
        """Of patches that reach over an edge."""
        return Padding(self.layout.config.pad, self.layout.config.fill)

    @cached_property
    def reduce(self) -> Mapping[str, Reduce]:
        """How heads are reduced where they are stitched."""
        if self.reduced_by_model:
            return {}
        return parse_reduce(self.layout.config.reduce, [head.name for head in self.layout.raw_heads])

    def images(self, assignments: Iterable[Assignment]) -> Iterator[Iterator[Sweep | Single]]:
        """For each image its sweeps, or itself if it is one patch; it is opened when the first of them is asked for."""
        waiting: deque[Assignment] = deque()

        def entries() -> Iterator[Entry]:
            for assignment in assignments:
                waiting.append(assignment)
                yield assignment.entry

        return (self._sweeps(entry, waiting.popleft()) for entry in fetch_ahead(entries()))

    def _sweeps(self, entry: Entry, assignment: Assignment) -> Iterator[Sweep | Single]:
        """`entry` is that of the assignment, whose bytes may have been fetched."""
        if assignment.changed:
            self.commits.forget(entry.name)
        try:
            yield from self._image(entry, assignment)
        except ImageError as error:
            self.commits.fail_unopened(entry.name, error)

    def _image(self, entry: Entry, assignment: Assignment) -> Iterator[Sweep | Single]:
        image = opened(entry, self.layout.config)
        stacks = self._stacks and assignment.is_new
        single = self._singles.known(image.info) if stacks else None
        if single is not None:
            yield Single(entry.name, entry.identity, single, image)
            return
        try:
            views = self._planes(image, entry.name)
        except ImageError:
            image.close()
            raise
        first = views[0]
        shape = self._shapes.of(first.shape, block_extent(first))
        if stacks:
            info = plane_info(image, views, self.layout)
            single = self._singles.add(image.info, views, shape, info, self.padding)
            if single is not None:
                yield Single(entry.name, entry.identity, single, image)
                return
        work = self._begin(entry, image, views, shape, assignment)
        choosing = bool(assignment.done) or assignment.only is not None
        openers = _Openers(self.layout, work, self._shapes.placings(shape), self._pool, self.reduce)
        last: Sweep | None = None
        for position, loops in enumerate(indices(views.loop_shape)):
            for planned in shape.sweeps():
                if work.failed:
                    return
                sweep = planned.only(assignment.wants, loops) if choosing else planned
                if sweep is None:
                    continue
                if last is not None:
                    yield last
                parts = self._parts(work, loops, sweep, openers, alone=shape.alone)
                last = Sweep(work, BlockStore(views[position]), sweep, parts, self.padding)
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
        block = block_bytes(first)
        if isinstance(image, ResizedImage):
            block = max(block, image.decoded_bytes)
        if block > self.largest_block:
            raise ImageTooLargeError(
                f"{name}: one chunk of {'x'.join(map(str, first.chunks))} pixels takes {block / 1e9:.1f} GB decoded",
                "raise --memory, or store it in tiles",
            )
        return views

    def _begin(
        self, entry: Entry, image: Image, views: Planes, shape: PlaneShape, assignment: Assignment
    ) -> ImageWork:
        info = plane_info(image, views, self.layout)
        maps = self.layout.maps(entry.name, info, in_folders=assignment.in_folders)
        work = ImageWork(
            entry.name,
            image,
            shape.grid,
            info.plane,
            maps,
            shape.head_grids,
            len(shape.grid) * info.planes,
            views.loop_axes,
            info.original,
        )
        row, work.completes = assignment.row, assignment.only is None
        if row is not None:
            work.bad_patches, work.skipped = row.bad_patches, row.patches_skipped
        self.commits.begin(work, entry.identity, info)
        self.emit(ImageStarted(entry.name, work.patches, row.patches_done if row is not None else 0))
        return work

    def _parts(
        self, work: ImageWork, loops: tuple[int, ...], sweep: SweepShape, openers: _Openers, *, alone: bool
    ) -> list[UnitPart]:
        heads = self.layout.vector_heads
        parts = [UnitPart(work, loops, part, openers.of(part.region), heads, alone=alone) for part in sweep.parts]
        with work.lock:  # parts of the sweep before may be written meanwhile
            work.parts_left += len(parts)
        return parts


class _Openers:
    """Makes the parts of a work's maps, with the blend weights that they share."""

    def __init__(
        self,
        layout: RunLayout,
        work: ImageWork,
        placings: Mapping[str, Placing],
        pool: BufferPool,
        reduce: Mapping[str, Reduce],
    ) -> None:
        self._layout, self._work, self._placings, self._pool, self._reduce = layout, work, placings, pool, reduce

    def of(self, region: Region) -> Callable[[], dict[str, UnitMap]]:
        """What makes the maps of one unit."""
        return lambda: {name: self._open(name, region) for name in self._work.maps}

    def _open(self, name: str, region: Region) -> UnitMap:
        raw = next(head for head in self._layout.raw_heads if head.name == name)
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
