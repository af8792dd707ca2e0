"""Stitched maps as lazy arrays."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import RunDamagedError
from patchloom.geometry.axes import spatial_axes
from patchloom.geometry.region import Region
from patchloom.images.lazy import LazyArray
from patchloom.predictions.dense import DenseMap

__all__ = ["StitchedMap", "StoredArray"]


class StitchedMap(LazyArray):
    """One level of a map; slicing reads only the chunks that it needs, see `LazyArray`.

    Parameters
    ----------
    array
        Zarr array, or a `StoredArray`.
    axes
        Its axes in OME order, such as ``TCYX`` or ``YX``.
    spacing
        Size of a pixel for each spatial axis, where known.
    nodata
        Value of what was never predicted.
    classes
        Names of the channels.
    name
        Of the image.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> array = zarr.array(np.arange(12).reshape(3, 4))
    >>> stitched = StitchedMap(array, "YX", {"Y": 0.5, "X": 0.5}, -1, (), "S-017.svs")
    >>> stitched
    <StitchedMap 'S-017.svs': YX (3, 4) int64>
    >>> stitched[-1, ::2]
    array([ 8, 10])
    """

    def __init__(
        self,
        array: Any,
        axes: str,
        spacing: Mapping[str, float],
        nodata: float | int,
        classes: tuple[str, ...],
        name: str,
    ) -> None:
        super().__init__(array, axes, name)
        self.spacing, self.nodata, self.classes = dict(spacing), nodata, classes

    @property
    def chunks(self) -> tuple[int, ...]:
        """Extents of what is read at once."""
        return tuple(self._array.chunks)  # type: ignore[attr-defined]

    def _read(self, reads: tuple[int | slice, ...]) -> NDArray[Any]:
        try:
            return super()._read(reads)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            where = getattr(self._array, "store_path", self.name)
            raise RunDamagedError(
                f"{where} cannot be read: {str(error).splitlines()[0] if str(error) else error!r}",
                "`patchloom verify` names everything that is damaged",
            ) from error


class StoredArray:
    """One level of a small image's map, indexed as a Zarr array is; opening one costs nothing.

    Parameters
    ----------
    layout
        The map.
    level
        Of the pyramid.
    """

    def __init__(self, layout: DenseMap, level: int) -> None:
        self._layout, self._level = layout, level
        self.shape, self.chunks = layout.array_shape(level), layout.array_chunks()
        self.dtype: np.dtype[Any] = layout.head.dtype

    @property
    def store_path(self) -> str:
        """Where it is, for messages."""
        return self._layout.files.where(str(self._level))

    def __getitem__(self, reads: tuple[int | slice, ...]) -> NDArray[Any]:
        layout = self._layout
        ranges = [
            range(read.start, read.stop) if isinstance(read, slice) else range(read, read + 1) for read in reads
        ]
        by_axis = dict(zip(layout.axes, ranges, strict=True))
        spatial = [by_axis[axis] for axis in spatial_axes(len(layout.shape))]
        region = Region.between([line.start for line in spatial], [line.stop for line in spatial])
        channels = by_axis.get("C", range(1))
        pixels = np.empty([len(line) for line in ranges], self.dtype)
        for loops in itertools.product(*(by_axis[axis] for axis in layout.loop_axes)):
            plane = layout.read(self._level, loops, channels, region)
            at = {axis: i - by_axis[axis].start for axis, i in zip(layout.loop_axes, loops, strict=True)}
            pixels[tuple(at.get(axis, slice(None)) for axis in layout.axes)] = plane if "C" in by_axis else plane[0]
        return pixels[tuple(slice(None, None, read.step) if isinstance(read, slice) else 0 for read in reads)]
