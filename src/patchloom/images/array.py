"""Images in memory: NumPy, and whatever has a shape, a dtype and slices."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ImageMismatchError, UnreadableImageError
from patchloom.geometry.region import Region
from patchloom.images.guess import axes_or_guess, blocks
from patchloom.images.image import ImageInfo

__all__ = ["ArrayImage", "check_dtype"]


def check_dtype(where: object, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a type of number in native byte order, or refuse what is no number.

    Raises
    ------
    ImageMismatchError
        If pixels are objects, texts or records.
    """
    if dtype.kind not in "biufc":
        raise ImageMismatchError(f"{where}: values of type {dtype} are not pixels",
                                 "save it as an array of numbers; objects are never unpickled")
    return dtype.newbyteorder("=")


class ArrayImage:
    """An array as an image.

    Parameters
    ----------
    array
        NumPy, Zarr, dask or h5py array, a torch tensor, or anything else that has `shape` and slices that NumPy can
        convert. Nothing is copied; slices of lazy arrays are computed when they are read, from several threads.
    axes
        Letters out of ``STCZYX``; guessed from the shape where they are not given, see `guess_axes`.
    name
        For messages.

    Examples
    --------
    >>> ArrayImage(np.zeros((20, 30, 3), np.uint8)).info.axes
    'YXC'

    Raises
    ------
    ImageMismatchError
        If the array cannot be an image, or `axes` do not fit its shape.
    """

    def __init__(self, array: Any, axes: str | None = None, name: str = "array") -> None:
        if not hasattr(array, "shape"):
            array = np.asarray(array)
        shape = tuple(map(int, array.shape))
        found = axes_or_guess(name, shape, axes)
        dtype = check_dtype(name, _dtype(array, len(shape)))
        chunks = _chunks(array, shape) or blocks(found, shape)
        self.info = ImageInfo(found, (shape,), dtype, (chunks,))
        self._array = array
        self._name = name

    def read(self, region: Region, level: int = 0) -> NDArray[Any]:
        """Slice the array; a view of a NumPy array. See `Image.read`."""
        if level != 0:
            raise ImageMismatchError(f"{self._name} has no level {level}", "arrays have level 0 only")
        if any(a < 0 or b > n for a, b, n in zip(region.start, region.stop, self.info.shape, strict=True)):
            raise ValueError(f"region {region} reaches beyond the shape {self.info.shape}")
        part = self._array[region.slices]
        if type(part) is not np.ndarray:
            try:
                part = np.asarray(part)
            except Exception as error:  # lazy arrays raise whatever their source does
                raise UnreadableImageError(f"{self._name}: {error}") from error
        return part.astype(self.info.dtype, copy=False)

    def close(self) -> None:
        """Do nothing: the array is the caller's."""

    def __repr__(self) -> str:
        return f"<ArrayImage {self._name} {self.info.axes} {self.info.shape} {self.info.dtype}>"


def _dtype(array: Any, ndim: int) -> np.dtype[Any]:
    dtype = getattr(array, "dtype", None)
    if isinstance(dtype, np.dtype):
        return dtype
    return np.asarray(array[(slice(0, 0),) * ndim]).dtype  # tensors have types of their own


def _chunks(array: Any, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Chunks of a Zarr, h5py or dask array."""
    chunks = getattr(array, "chunks", None)
    if not isinstance(chunks, tuple) or len(chunks) != len(shape):
        return None
    first = [c[0] if isinstance(c, tuple) and c else c for c in chunks]
    if not all(isinstance(c, (int, np.integer)) and c > 0 for c in first):
        return None
    return tuple(min(int(c), n) for c, n in zip(first, shape, strict=True))

