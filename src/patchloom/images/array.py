"""Arrays as images, and which axes an array has that does not say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ImageMismatchError
from patchloom.geometry.axes import check_axes
from patchloom.geometry.region import Region
from patchloom.images.image import ImageInfo

__all__ = ["ArrayImage", "guess_axes"]

FEW_CHANNELS = 4
BLOCK = 512
GUESSES = {2: "YX", 4: "CZYX", 5: "TCZYX", 6: "STCZYX"}


def guess_axes(shape: Sequence[int], axes: str | None, name: str) -> str:
    """Axes of an array: what the user says, else by the number of its axes.

    2-D is YX. 3-D is YXC where the last axis is at most 4 long, else CYX where the first is, else ZYX. 4-D is CZYX,
    5-D TCZYX, 6-D STCZYX.

    Raises
    ------
    ImageMismatchError
        If the axes do not fit the array.
    """
    if axes is None:
        if len(shape) == 3:
            axes = "YXC" if shape[-1] <= FEW_CHANNELS else "CYX" if shape[0] <= FEW_CHANNELS else "ZYX"
        else:
            axes = GUESSES.get(len(shape), "")
    try:
        return check_axes(axes, shape)
    except ValueError as error:
        raise ImageMismatchError(f"{name}: {error}", "name the axes with --axes, such as YXC or TCYX") from None


class ArrayImage:
    """In-memory (or lazily sliced) array as an image.

    Parameters
    ----------
    array
        Anything with `shape`, `dtype` and slicing: NumPy, Zarr, a memory map, a tensor on the CPU.
    axes
        Its axes; guessed where None.
    name
        For messages.
    """

    def __init__(self, array: Any, axes: str | None = None, name: str = "array") -> None:
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            array = np.asarray(array)
        elif not isinstance(array.dtype, np.dtype):  # a tensor of another library
            array = np.asarray(array)
        shape = tuple(int(n) for n in array.shape)
        axes = guess_axes(shape, axes, name)
        dtype = np.dtype(array.dtype)
        if dtype.kind not in "biuf" or 0 in shape:
            raise ImageMismatchError(f"{name}: shape {shape} and dtype {dtype} are not an image", "give numbers")
        self._array, self._dtype = array, dtype.newbyteorder("=")
        chunk = tuple(min(n, BLOCK) if axis in "YX" else 1 if axis in "STZ" else n
                      for axis, n in zip(axes, shape, strict=True))
        self._info = ImageInfo(axes, (shape,), self._dtype, (chunk,))

    @property
    def info(self) -> ImageInfo:
        """Shape, axes and so on."""
        return self._info

    def read(self, region: Region, level: int = 0) -> NDArray[Any]:
        """Pixels of `region`: a view where the array gives one."""
        return np.asarray(self._array[region.slices], self._dtype)

    def close(self) -> None:
        """Nothing to give back."""
