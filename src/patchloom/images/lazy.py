"""Arrays that are read when they are sliced: whole images, and the maps of their predictions."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from operator import index as as_integer
from types import EllipsisType
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from patchloom.geometry.region import Region
from patchloom.images.image import Image

__all__ = ["LazyArray", "LazyImage"]


class Sliceable(Protocol):
    """What a lazy array reads from: whole numbers, and slices with steps of at least 1."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, index: Any, /) -> Any: ...


class LazyArray:
    """N-D array with named axes; slicing reads only the chunks that it needs.

    Takes what NumPy calls basic indexing: whole numbers, slices (also with negative steps), ``...`` and None. For
    anything else, `numpy.asarray` reads the array whole.

    Parameters
    ----------
    array
        What is read.
    axes
        Its axes, letters out of ``STCZYX``.
    name
        Of the image.
    """

    def __init__(self, array: Sliceable, axes: str, name: str) -> None:
        self._array, self.axes, self.name = array, axes, name

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
        """Memory that the whole array would take."""
        return self.size * self.dtype.itemsize

    def extent(self, axis: str) -> int:
        """Extent along one axis; 1 for an axis that the array does not have."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        return self._sliced(index)[()]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a lazy array is read from disk: it cannot be had without a copy")
        pixels = self._sliced(())
        return pixels if dtype is None else pixels.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self.axes} {self.shape} {self.dtype}>"

    def _sliced(self, index: Any) -> NDArray[Any]:
        reads, then = _split(index, self.shape)
        if any(isinstance(read, slice) and read.start == read.stop for read in reads):
            shape = [len(range(read.start, read.stop, read.step)) for read in reads if isinstance(read, slice)]
            return np.empty(shape, self.dtype)[then]
        return self._read(reads)[then]

    def _read(self, reads: tuple[int | slice, ...]) -> NDArray[Any]:
        return np.asarray(self._array[reads])


class LazyImage(LazyArray):
    """An image as a lazy array of its own axes, at full resolution; opened when it is first looked at.

    Parameters
    ----------
    open
        Opens the image; raises what `open_image` raises.
    name
        Of the image.

    Examples
    --------
    >>> from patchloom.images.array import ArrayImage
    >>> image = LazyImage(lambda: ArrayImage(np.arange(12).reshape(3, 4)), "a")
    >>> image
    <LazyImage 'a': YX (3, 4) int64>
    >>> image[-1, ::2]
    array([ 8, 10])
    """

    def __init__(self, open: Callable[[], Image], name: str) -> None:
        self._open, self.name = open, name

    def __getattr__(self, name: str) -> Any:
        if name not in ("_array", "axes"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        image = self._open()
        weakref.finalize(self, image.close)
        self._array, self.axes = _Pixels(image), image.info.axes
        return getattr(self, name)


class _Pixels:
    """Pixels of an image by index."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self.shape, self.dtype = image.info.shape, image.info.dtype

    def __getitem__(self, reads: tuple[int | slice, ...]) -> NDArray[Any]:
        start = tuple(read.start if isinstance(read, slice) else read for read in reads)
        stop = tuple(read.stop if isinstance(read, slice) else read + 1 for read in reads)
        pixels = self._image.read(Region.between(start, stop))
        taken = pixels[tuple(slice(None, None, read.step) if isinstance(read, slice) else 0 for read in reads)]
        return np.array(taken)  # the reader's own memory is not handed out


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
        raise IndexError(f"too many indices: the array has {len(shape)} axes, and {given} were indexed")
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
        raise IndexError("indices are whole numbers, slices, ... and None")
    try:
        number = as_integer(item)
    except TypeError:
        raise IndexError("indices are whole numbers, slices, ... and None; read it with numpy.asarray first"
                         ) from None
    if not -size <= number < size:
        raise IndexError(f"index {number} is out of bounds for axis {axis} with size {size}")
    return number % size, []
