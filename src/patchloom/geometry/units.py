"""Units: blocks of one plane that are read, predicted and committed as a whole."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from patchloom.geometry.grid import Grid
from patchloom.geometry.region import Region

__all__ = ["CHUNK", "UnitLayout", "chunk_extents", "dense_unit", "table_unit"]

CHUNK = 256
"""Pixels of an output chunk along Y and X."""
CHUNK_DEPTH = 16
"""Pixels of an output chunk along Z."""
CHUNKS_A_UNIT = 2
"""Chunks along the first axis of a unit: two, so that a unit writes whole shards of the first reduced level, too."""
WIDTH = 8192
"""Pixels of a unit across the sweep: what is in memory at a time does not grow with the image beyond it."""
WIDTH_3D = 512
TABLE_PATCHES = 4096
"""Patches of a unit where only vectors are predicted."""


@dataclass(frozen=True)
class UnitLayout:
    """Cuts a plane into units.

    Parameters
    ----------
    shape
        Pixels of the plane, (y, x) or (z, y, x).
    unit
        Pixels of a unit on each axis; units start at multiples of them.

    Examples
    --------
    >>> layout = UnitLayout((1000, 20000), (512, 8192))
    >>> [region.start for region in layout.sweep((2,))]
    [(0, 16384), (512, 16384)]
    """

    shape: tuple[int, ...]
    unit: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of units on each axis."""
        return tuple(-(-n // u) for n, u in zip(self.shape, self.unit, strict=True))

    def __len__(self) -> int:
        return math.prod(self.counts)

    def region(self, index: Sequence[int]) -> Region:
        """Pixels of one unit, clipped to the plane."""
        start = tuple(i * u for i, u in zip(index, self.unit, strict=True))
        return Region(start, self.unit).intersect(Region.whole(self.shape))

    def sweeps(self) -> Iterator[tuple[int, ...]]:
        """Positions across the sweep axis, one for each sweep."""
        return itertools.product(*map(range, self.counts[1:]))

    def sweep(self, across: tuple[int, ...]) -> Iterator[Region]:
        """Units of one sweep, from the first row on."""
        return (self.region((i, *across)) for i in range(self.counts[0]))


def chunk_extents(shape: Sequence[int], unit: Sequence[int]) -> tuple[int, ...]:
    """Extent of the chunks of a map on each axis.

    Parameters
    ----------
    shape
        Pixels of the map.
    unit
        Pixels of the map that one unit makes; the chunks divide them evenly, an even number of times. Where an axis
        has several chunks their extent is even, so that reduced levels are made chunk by chunk.

    Examples
    --------
    >>> chunk_extents((5000, 9000), (512, 8192)), chunk_extents((300, 200), (512, 8192))
    ((256, 256), (150, 200))
    """
    chunks = []
    for axis, (n, u) in enumerate(zip(shape, unit, strict=True)):
        half = u // CHUNKS_A_UNIT
        largest = half if axis == 0 else next(size for size in range(min(CHUNK, half), 1, -2) if half % size == 0)
        if n < CHUNKS_A_UNIT * largest:
            largest = n if n <= largest else -(-n // (2 * CHUNKS_A_UNIT)) * 2
        chunks.append(largest)
    return tuple(chunks)


def dense_unit(ndim: int, scales: Sequence[Sequence[Fraction]], memory_width: int | None = None) -> tuple[int, ...]:
    """Extent of a unit in input pixels, such that every dense head's part is made of whole shards.

    Parameters
    ----------
    ndim
        Number of spatial axes.
    scales
        Map pixels per input pixel, for each dense head and axis.
    memory_width
        Pixels across that memory allows, where that is less than usual.
    """
    heights = [CHUNK * CHUNKS_A_UNIT] if ndim == 2 else [CHUNK_DEPTH * CHUNKS_A_UNIT]
    across = WIDTH if ndim == 2 else WIDTH_3D
    if memory_width is not None:
        across = max(CHUNK * CHUNKS_A_UNIT, min(across, memory_width))
    unit = []
    for axis, extent in enumerate(heights + [across] * (ndim - 1)):
        finest = max(scale[axis] for scale in scales)
        multiple = 2 * CHUNKS_A_UNIT * math.lcm(*(scale[axis].denominator for scale in scales))
        if axis > 0:
            multiple = math.lcm(multiple, CHUNK * CHUNKS_A_UNIT)
        unit.append(-(-math.ceil(extent / finest) // multiple) * multiple)
    return tuple(unit)


def table_unit(grid: Grid) -> tuple[int, ...]:
    """Extent of a unit where only vectors are predicted: a block of patch rows, `TABLE_PATCHES` patches or so."""
    across = WIDTH if len(grid.axes) == 2 else WIDTH_3D
    unit = tuple(max(axis.stride, across // axis.stride * axis.stride) for axis in grid.axes[1:])
    columns = math.prod(max(1, min(n // axis.stride, axis.count)) for n, axis in zip(unit, grid.axes[1:], strict=True))
    return (grid.axes[0].stride * max(1, TABLE_PATCHES // columns), *unit)
