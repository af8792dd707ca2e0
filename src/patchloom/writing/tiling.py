"""Which tiles an image is expected to have, and where each of them belongs in the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import PredictionError, UsageError
from patchloom.geometry.blend import Blend
from patchloom.geometry.grid import Edge, Grid, per_axis
from patchloom.geometry.placing import Placing
from patchloom.geometry.region import Region
from patchloom.writing.prediction import ImageShape, Sample

__all__ = ["Tiling", "TilingOptions", "check_tile"]

Pixels = int | Sequence[int]


@dataclass(frozen=True)
class TilingOptions:
    """How a caller's loop cut images into tiles.

    Parameters
    ----------
    patch
        Pixels of the source that a tile is the prediction of; None: as many as the tile has.
    stride, overlap
        From tile to tile, or what neighbours share; None: not known.
    edge
        See `Grid`.
    blend
        How overlapping tiles become one.
    """

    patch: Pixels | None = None
    stride: Pixels | None = None
    overlap: Pixels | None = None
    edge: Edge = "shift"
    blend: Blend = "crop"

    def __post_init__(self) -> None:
        if self.stride is not None and self.overlap is not None:
            raise UsageError("stride and overlap exclude each other", "give one of the two")
        if self.blend not in get_args(Blend):
            raise UsageError(f"blend is one of {', '.join(get_args(Blend))}, not {self.blend!r}", "choose one of them")
        if self.edge not in get_args(Edge):
            raise UsageError(f"edge is one of {', '.join(get_args(Edge))}, not {self.edge!r}", "choose one of them")

    @property
    def known(self) -> bool:
        """Whether it follows from them which tiles an image has."""
        return self.stride is not None or self.overlap is not None

    def patch_of(self, shape: ImageShape) -> tuple[int, ...]:
        """Pixels of the source that a tile covers."""
        try:
            return shape.extent if self.patch is None else per_axis(self.patch, shape.ndim)
        except ValueError as error:
            raise PredictionError(f"patch: {error}", "one number, or one an axis") from None

    def grid(self, shape: ImageShape) -> Grid:
        """Tiles of an image; without stride and overlap they touch."""
        patch = self.patch_of(shape)
        try:
            return Grid.of(_padded(shape, patch), patch, self.stride, overlap=self.overlap, edge=self.edge)
        except ValueError as error:
            raise UsageError(str(error), "overlap and stride are in pixels of the source") from None

    def grid_through(self, starts: Sequence[set[int]], shape: ImageShape) -> Grid:
        """Tiles of an image that start at these pixels of each axis.

        Raises
        ------
        ValueError
            If no stride and edge give these starts.
        """
        patch = self.patch_of(shape)
        return Grid.through(starts, _padded(shape, patch), patch)


class Tiling:
    """Places the tiles of one image.

    Parameters
    ----------
    shape
        Of the image.
    grid
        In pixels of the source.
    blend
        How overlapping tiles become one.
    """

    def __init__(self, shape: ImageShape, grid: Grid, blend: Blend) -> None:
        self.grid, self._scale = grid, shape.scale(grid.patch)
        self.space = shape.map(grid.patch)
        try:
            self.placing = Placing(grid.scaled(self._scale), blend)
        except ValueError as error:
            raise PredictionError(
                f"tiles of {shape.extent} pixels do not fit patches of {grid.patch}: {error}",
                "stride and patch have to be multiples of what the prediction is smaller by",
            ) from None
        self._whole = Region.whole(self.space)

    def contribution(
        self, start: tuple[int, ...], values: NDArray[Any], within: Region | None = None
    ) -> tuple[Region, NDArray[Any], NDArray[np.float32] | None]:
        """Pixels that a tile contributes to, inside the image and `within`, what it says there, and its weights."""
        place = self.place(start)
        area, weights = self.placing(place, self._whole if within is None else within.intersect(self._whole))
        return area, self.placing.part(place, area, values), weights

    def place(self, start: tuple[int, ...]) -> tuple[int, ...]:
        """Place in the grid of the tile that starts at `start`."""
        index = self.grid.index_of(start)
        if index is None:
            raise PredictionError(f"no tile starts at {start}", "see stride, overlap and edge")
        return self.grid.place_of(index)

    def gaps(self, area: Region) -> NDArray[np.bool_] | None:
        """Pixels of `area` that no tile covers; None where there are none."""
        covered = np.ones((), bool)
        for axis, first, stop in zip(self.placing.grid.axes, area.start, area.stop, strict=True):
            line = np.zeros(stop - first, bool)
            for i in axis.covering(first, stop):
                line[max(0, axis.start(i) - first) : max(0, axis.start(i) + axis.patch - first)] = True
            covered = covered[..., None] & line
        return None if covered.all() else ~covered


def check_tile(sample: Sample, shape: ImageShape, grid: Grid | None) -> tuple[int, ...]:
    """First pixel of a tile that `grid` has, if it is known.

    Raises
    ------
    PredictionError
        If the sample is no tile, or not one of these.
    """
    if sample.start is None:
        raise PredictionError(f"{sample} is no tile", "give its first pixel, start=(y, x), or use WriteImage")
    if grid is not None and grid.index_of(sample.start) is None:
        axis = grid.axes[0]
        raise PredictionError(
            f"{sample}: no tile of {grid.patch} pixels with stride {tuple(axis.stride for axis in grid.axes)} and edge "
            f"{axis.edge} starts there in {shape.plane} pixels",
            "give the overlap or stride, and the edge, that the images were cut with",
        )
    return sample.start


def _padded(shape: ImageShape, patch: tuple[int, ...]) -> tuple[int, ...]:
    """Pixels of a sample, rounded up to what predictions of another scale need, as the engine does."""
    multiples = (Fraction(out, pixels).denominator for out, pixels in zip(shape.extent, patch, strict=True))
    return tuple(-(-n // m) * m for n, m in zip(shape.plane, multiples, strict=True))
