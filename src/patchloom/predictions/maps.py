"""Stitched maps as lazy arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import index as as_integer
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from patchloom.errors import RunDamagedError

__all__ = ["StitchedMap"]


class StitchedMap:
    """One level of a map; slicing reads only the chunks that it needs.

    Takes what NumPy calls basic indexing: whole numbers, slices (also with negative steps), ``...`` and None. For
    anything else, `numpy.asarray` reads the map whole.

    Parameters
    ----------
    array
        Zarr array.
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
    >>> import zarr
    >>> array = zarr.array(np.arange(12).reshape(3, 4))
    >>> stitched = StitchedMap(array, "YX", {"Y": 0.5, "X": 0.5}, -1, (), "S-017.svs")
    >>> stitched
    <StitchedMap 'S-017.svs': YX (3, 4) int64>
    >>> stitched[-1, ::2]
    array([ 8, 10])
    """

    def __init__(
        self, array: Any, axes: str, spacing: Mapping[str, float], nodata: float | int, classes: tuple[str, ...],
        name: str,
    ) -> None:
        self._array = array
        self.axes, self.spacing, self.nodata, self.classes, self.name = axes, dict(spacing), nodata, classes, name

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents along `axes`."""
        return tuple(self._array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""
        return np.dtype(self._array.dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Memory that the whole map would take."""
        return self.size * self.dtype.itemsize

    @property
    def chunks(self) -> tuple[int, ...]:
        """Extents of what is read at once."""
        return tuple(self._array.chunks)

    def extent(self, axis: str) -> int:
        """Extent along one axis; 1 for an axis that the map does not have."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        return self._read(index)[()]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a stitched map is read from disk: it cannot be had without a copy")
        pixels = self._read(())
        return pixels if dtype is None else pixels.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"<StitchedMap {self.name!r}: {self.axes} {self.shape} {self.dtype}>"

    def _read(self, index: Any) -> NDArray[Any]:
        reads, then = _split(index, self.shape)
        if any(isinstance(read, slice) and read.start == read.stop for read in reads):
            shape = [len(range(read.start, read.stop, read.step)) for read in reads if isinstance(read, slice)]
            return np.empty(shape, self.dtype)[then]
        try:
            pixels = np.asarray(self._array[reads])
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            where = getattr(self._array, "store_path", self.name)
            raise RunDamagedError(f"{where} cannot be read: {str(error).splitlines()[0] if str(error) else error!r}",
                                  "`patchloom verify` names everything that is damaged") from error
        return pixels[then]


def _split(index: Any, shape: tuple[int, ...]) -> tuple[tuple[int | slice, ...], tuple[slice | None, ...]]:
    """What to read, with steps of at least 1, and an index that makes of it what was asked for.

    Raises
    ------
    IndexError
        As NumPy does, and for arrays as indices.
    """
    items = index if isinstance(index, tuple) else (index,)
    given = sum(1 for item in items if item is not None and item is not Ellipsis)
    if given > len(shape):
        raise IndexError(f"too many indices: the map has {len(shape)} axes, and {given} were indexed")
    if sum(1 for item in items if item is Ellipsis) > 1:
        raise IndexError("an index has at most one ellipsis ('...')")
    if not any(item is Ellipsis for item in items):
        items = (*items, Ellipsis)
    reads: list[int | slice] = []
    then: list[slice | None] = []
    for item in items:
        if item is None:
            then.append(None)
        elif item is Ellipsis:
            missing = len(shape) - given
            reads += [slice(0, n, 1) for n in shape[len(reads) : len(reads) + missing]]
            then += [slice(None)] * missing
        else:
            read, after = _one(item, len(reads), shape[len(reads)])
            reads.append(read)
            then += after
    return tuple(reads), tuple(then)


def _one(item: Any, axis: int, size: int) -> tuple[int | slice, list[slice | None]]:
    if isinstance(item, slice):
        wanted = range(*item.indices(size))
        if not wanted:
            return slice(0, 0, 1), [slice(None)]
        if wanted.step > 0:
            return slice(wanted.start, wanted[-1] + 1, wanted.step), [slice(None)]
        return slice(wanted[-1], wanted.start + 1, -wanted.step), [slice(None, None, -1)]
    if isinstance(item, (bool, np.bool_, EllipsisType)):
        raise IndexError("a map takes whole numbers, slices, ... and None as indices")
    try:
        number = as_integer(item)
    except TypeError:
        raise IndexError("a map takes whole numbers, slices, ... and None as indices; read it with numpy.asarray first"
                         ) from None
    if not -size <= number < size:
        raise IndexError(f"index {number} is out of bounds for axis {axis} with size {size}")
    return number % size, []
