"""What an image is to the rest of patchloom, and the data about it that does not need its pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.region import Region

__all__ = ["FetchesAhead", "Image", "ImageInfo", "Reader"]


@dataclass(frozen=True)
class ImageInfo:
    """What a header says; nothing here needs a pixel to be decoded.

    Parameters
    ----------
    axes
        Letters out of ``STCZYX`` in the order in which `Image.read` returns them, so in the file's own order:
        ``YXC`` for an interleaved photograph, ``CYX`` for planes. An axis of one channel may be left out.
    levels
        Shape along `axes` of each resolution level, level 0 (full resolution) first.
    dtype
        Of the pixels, native byte order.
    chunks
        For each level, the extent along `axes` of the block that has to be decoded at once: a tile, a strip, the whole
        image for formats such as PNG. Chunks start at multiples of these extents.
    spacing
        Size of a level-0 pixel for each axis that the file states one for, e.g. ``{"Y": 0.499, "X": 0.499}``.
    unit
        Unit of `spacing` for each of its axes, as OME names them (``micrometer``, ``meter``, …).
    crs
        Coordinate reference system (``EPSG:32618``) of a georeferenced image, else empty.
    origin
        Coordinates (x, y) of the upper left corner in `crs`, where the file states them.
    channels
        Names of the channels, where the file states them.
    """

    axes: str
    levels: tuple[tuple[int, ...], ...]
    dtype: np.dtype[Any]
    chunks: tuple[tuple[int, ...], ...]
    spacing: Mapping[str, float] = field(default_factory=dict)
    unit: Mapping[str, str] = field(default_factory=dict)
    crs: str = ""
    origin: tuple[float, float] | None = None
    channels: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of level 0 along `axes`."""
        return self.levels[0]

    @cached_property
    def chunk_bytes(self) -> int:
        """Memory of the largest chunk."""
        return max(math.prod(chunk) for chunk in self.chunks) * self.dtype.itemsize

    def extent(self, axis: str, level: int = 0) -> int:
        """Extent along one axis; 1 for an axis that the image does not have."""
        return self.levels[level][self.axes.index(axis)] if axis in self.axes else 1


@runtime_checkable
class Image(Protocol):
    """Named, lazily readable N-D array. `read` may be called from several threads at once."""

    @property
    def info(self) -> ImageInfo:
        """Shape, axes and so on, known without decoding."""

    def read(self, region: Region, level: int = 0) -> NDArray[Any]:
        """Decode the pixels of `region`.

        Parameters
        ----------
        region
            Box inside the level, along ``info.axes``, in pixels of that level.
        level
            Resolution level.

        Returns
        -------
        numpy.ndarray
            Of ``region.shape`` and ``info.dtype``; it may be a view into a decoded chunk, so it is not written to.

        Raises
        ------
        UnreadableImageError
            If the file does not decode there; the message names the file.
        """

    def close(self) -> None:
        """Give file handles back; may be called twice."""


@runtime_checkable
class FetchesAhead(Protocol):
    """Image that may take its time to get bytes, and gets many at once if it knows which."""

    @property
    def is_far(self) -> bool:
        """Whether `fetch` helps."""

    def fetch(self, regions: Sequence[Region], level: int = 0) -> None:
        """Begin to get what `read` of these regions needs. That it does not work shows when they are read."""


class Reader(Protocol):
    """A file format. Classes are found by the entry points ``patchloom.readers``."""

    suffixes: tuple[str, ...]
    """Lower-case endings with the dot; only consulted where content decides nothing."""

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether this reader understands the file whose first 64 bytes are `head` (empty for a folder)."""

    def open(self, path: Path, *, axes: str | None = None) -> Image:
        """Read the header.

        Parameters
        ----------
        path
            File or folder.
        axes
            Names of the axes where the user knows better than the file.

        Raises
        ------
        UnreadableImageError, ImageTooLargeError, ImageMismatchError
            Each message names the file.
        """
