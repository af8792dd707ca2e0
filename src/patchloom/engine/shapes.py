"""What planes of one shape have in common: patches, units and sweeps, worked out once however many planes there are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from patchloom.config import Pad
from patchloom.engine.reading import needed
from patchloom.geometry.grid import Grid
from patchloom.geometry.placing import Placing
from patchloom.geometry.region import Region
from patchloom.predictions.layout import PlaneInfo, RunLayout

__all__ = ["PartShape", "PlaneShape", "PlaneShapes", "SweepShape", "part_shape"]

SHAPES = 256
"""Shapes that are remembered."""
WEIGHTED = 4
"""Shapes whose blend weights are remembered, some megabytes each."""
PATCHES = 4096
"""Patches of a sweep whose place is remembered."""
FEW_UNITS = 16
"""Planes of no more units have their sweeps remembered; those of others are made when they are reached."""


@dataclass(frozen=True, eq=False)
class PartShape:
    """Geometry of a unit's part of a plane.

    Parameters
    ----------
    region
        Its pixels.
    rows, columns
        Patches that contribute to it, as a range on each axis.
    origins
        Patches that start in it: the rows of its tables.
    """

    region: Region
    rows: range
    columns: tuple[range, ...]
    origins: tuple[range, ...]

    @cached_property
    def patches(self) -> int:
        """Number of patches that start in it."""
        return math.prod(map(len, self.origins))

    @cached_property
    def contributors(self) -> int:
        """Number of patches that contribute to it."""
        return len(self.rows) * math.prod(map(len, self.columns))


def part_shape(layout: RunLayout, grid: Grid, plane: tuple[int, ...], region: Region) -> PartShape | None:
    """Geometry of one unit; None where no patch contributes to it."""
    rows, *columns = layout.contributors(grid, PlaneInfo(plane), region)
    if not rows or not all(columns):
        return None
    return PartShape(region, rows, tuple(columns), grid.starting_in(region))


@dataclass(frozen=True, eq=False)
class SweepShape:
    """Geometry of the units of one stripe of a plane, and of the blocks that their patches are made of.

    Parameters
    ----------
    grid, plane
        Patches, and pixels of the plane as the file has them.
    extent
        Pixels of a block on each axis.
    mode
        How patches that reach over an edge are filled up.
    parts
        In order of their rows, at least one.
    """

    grid: Grid
    plane: tuple[int, ...]
    extent: tuple[int, ...]
    mode: Pad
    parts: tuple[PartShape, ...]

    def only(
        self, wanted: Callable[[tuple[tuple[int, ...], Region]], bool], loops: tuple[int, ...]
    ) -> SweepShape | None:
        """The same with those units of the plane at `loops` that are wanted; None where none is."""
        left = tuple(part for part in self.parts if wanted((loops, part.region)))
        return SweepShape(self.grid, self.plane, self.extent, self.mode, left) if left else None

    def patch(self, place: tuple[int, ...]) -> Region:
        """Pixels of the patch at a place; see `Patch.region`."""
        region = self._patches.get(place)
        if region is None:
            region = self.grid[place].region
            if len(self._patches) < PATCHES:
                self._patches[place] = region
        return region

    @cached_property
    def _patches(self) -> dict[tuple[int, ...], Region]:
        return {}

    @cached_property
    def columns(self) -> tuple[range, ...]:
        """Patches on the axes across the sweep; all parts have the same."""
        return self.parts[-1].columns

    @cached_property
    def is_one_block(self) -> bool:
        """Whether all patches are cut out of one block."""
        return self.extent == self.plane

    @cached_property
    def patches_in_row(self) -> int:
        """Patches of one row."""
        return math.prod(map(len, self.columns))

    @cached_property
    def rows(self) -> list[range]:
        """Patch rows, in ascending order."""
        return _union([part.rows for part in self.parts])

    @cached_property
    def columns_needed(self) -> list[tuple[int, int]]:
        """Pixels on the axes across that patches are made of."""
        return [
            _hull(needed(axis, i, size, self.mode) for i in {line[0], line[-1]})
            for axis, line, size in zip(self.grid.axes[1:], self.columns, self.plane[1:], strict=True)
        ]

    @cached_property
    def blocks_across(self) -> list[tuple[int, ...]]:
        """Blocks on the axes across that patches are made of."""
        lines = (range(a // n, -(-b // n)) for (a, b), n in zip(self.columns_needed, self.extent[1:], strict=True))
        return list(itertools.product(*lines))

    def block_rows(self, row: int) -> tuple[int, int]:
        """Rows of blocks ``[first, stop)`` that a patch row is made of."""
        first, stop = self._pixel_rows(row)
        # The last row may reflect pixels that lie before those of the row above it.
        first = min(first, self._last_first)
        return first // self.extent[0], -(-stop // self.extent[0])

    def _pixel_rows(self, row: int) -> tuple[int, int]:
        return needed(self.grid.axes[0], row, self.plane[0], self.mode)

    @cached_property
    def _last_first(self) -> int:
        return self._pixel_rows(self.rows[-1].stop - 1)[0]


class PlaneShape:
    """Geometry of planes of one shape in a run.

    Parameters
    ----------
    layout
        Of the run.
    plane, extent
        Pixels of a plane, and of its blocks.

    Attributes
    ----------
    grid, head_grids
        Patches in pixels of the image, and in pixels of each dense head's map.
    units
        How the plane is cut into units.
    alone
        Whether it has several.
    """

    def __init__(self, layout: RunLayout, plane: tuple[int, ...], extent: tuple[int, ...]) -> None:
        self.grid, self.units = layout.grid(plane), layout.units(plane)
        self.head_grids = {head.name: self.grid.scaled(head.scale) for head in layout.dense_heads}
        self.alone = len(self.units) > 1
        self._layout, self._plane, self._extent = layout, plane, extent
        self._kept: list[SweepShape] | None = None

    def sweeps(self) -> Iterable[SweepShape]:
        """The sweeps over a plane."""
        if self._kept is None:
            if len(self.units) > FEW_UNITS:
                return self._sweeps()
            self._kept = list(self._sweeps())
        return self._kept

    def _sweeps(self) -> Iterator[SweepShape]:
        for across in self.units.sweeps():
            found = (part_shape(self._layout, self.grid, self._plane, region) for region in self.units.sweep(across))
            parts = tuple(part for part in found if part is not None)
            if parts:
                yield SweepShape(self.grid, self._plane, self._extent, self._layout.config.pad, parts)


class PlaneShapes:
    """Shapes of planes that were asked for last.

    Parameters
    ----------
    layout
        Of the run.
    """

    def __init__(self, layout: RunLayout) -> None:
        self._layout = layout
        self._shapes = lru_cache(SHAPES)(self._shape)
        self._weighted = lru_cache(WEIGHTED)(self._placings)

    def of(self, plane: tuple[int, ...], extent: tuple[int, ...]) -> PlaneShape:
        """Shape of planes of so many pixels, that are decoded in blocks of `extent`."""
        return self._shapes(plane, extent)

    def placings(self, shape: PlaneShape) -> Mapping[str, Placing]:
        """Where patches go in the maps of such planes, by head."""
        return self._weighted(shape)

    def _shape(self, plane: tuple[int, ...], extent: tuple[int, ...]) -> PlaneShape:
        return PlaneShape(self._layout, plane, extent)

    def _placings(self, shape: PlaneShape) -> Mapping[str, Placing]:
        return {name: Placing(grid, self._layout.config.blend) for name, grid in shape.head_grids.items()}


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
