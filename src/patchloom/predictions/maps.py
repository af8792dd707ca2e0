"""Stitched maps as lazy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from patchloom.errors import RunDamagedError
from patchloom.images.lazy import LazyArray

__all__ = ["StitchedMap"]


class StitchedMap(LazyArray):
    """One level of a map; slicing reads only the chunks that it needs, see `LazyArray`.

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
