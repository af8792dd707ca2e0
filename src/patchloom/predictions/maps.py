"""Stitched maps as lazy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import RunDamagedError

__all__ = ["StitchedMap"]


class StitchedMap:
    """One level of a map; slicing reads only the chunks that it needs.

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
    """

    def __init__(
        self, array: Any, axes: str, spacing: Mapping[str, float], nodata: float | int, classes: tuple[str, ...], name: str
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
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def chunks(self) -> tuple[int, ...]:
        """Extents of what is read at once."""
        return tuple(self._array.chunks)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        try:
            return np.asarray(self._array[index])[()]
        except (IndexError, TypeError):
            raise
        except Exception as error:
            raise RunDamagedError(f"the map of {self.name} cannot be read: {error}", "run `patchloom verify`") from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a stitched map is read from disk: it cannot be had without a copy")
        return np.asarray(self[...], dtype)

    def __repr__(self) -> str:
        return f"<StitchedMap {self.name!r}: {self.axes} {self.shape} {self.dtype}>"
