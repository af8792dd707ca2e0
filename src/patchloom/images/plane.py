"""An image as the engine sees it: planes with channels in front, one level, chosen channels, everything else a loop."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ImageMismatchError
from patchloom.geometry.axes import AXES, LOOP_AXES, spatial_axes
from patchloom.geometry.region import Region
from patchloom.images.image import Image

__all__ = ["Plane", "Planes", "planes"]


class Plane:
    """Two- or three-dimensional part of an image at one index of its other axes.

    Parameters
    ----------
    image
        Where the pixels come from.
    level
        Resolution level.
    channels
        Indices of the channels that are read, in order; None for all.
    loops
        Index on each axis that is iterated over, such as ``{"T": 3}``.
    ndim
        Spatial axes.
    """

    def __init__(
        self, image: Image, level: int, channels: tuple[int, ...] | None, loops: dict[str, int], ndim: int
    ) -> None:
        info, axes = image.info, spatial_axes(ndim)
        self._image, self._level, self._selected, self.loops = image, level, channels, loops
        self.shape = tuple(info.extent(axis, level) for axis in axes)
        self.channels = len(channels) if channels is not None else info.extent("C", level)
        self.dtype = info.dtype
        chunk = info.chunks[level]
        self.chunks = tuple(chunk[info.axes.index(axis)] for axis in axes)
        self._spatial = axes

    def read(self, region: Region) -> NDArray[Any]:
        """Pixels of a region of the plane: ``(C, [Z,] Y, X)``, where possible a view of the decoded chunk."""
        info = self._image.info
        spatial = dict(zip(self._spatial, zip(region.start, region.shape, strict=True), strict=True))
        channels = self._channel_range()
        box = [spatial[axis] if axis in spatial else (channels.start, len(channels)) if axis == "C" else
               (self.loops[axis], 1) for axis in info.axes]
        start, shape = zip(*box, strict=True)
        pixels = self._image.read(Region(start, shape), self._level)
        kept = [axis for axis in info.axes if axis in spatial or axis == "C"]
        pixels = pixels[tuple(slice(None) if axis in kept else 0 for axis in info.axes)]
        if "C" not in kept:
            pixels, kept = pixels[None], ["C", *kept]
        pixels = pixels.transpose([kept.index(axis) for axis in "C" + self._spatial])
        if self._selected is None or self._selected == tuple(channels):
            return pixels
        return pixels[[channel - channels.start for channel in self._selected]]

    def _channel_range(self) -> range:
        if self._selected is None:
            return range(self._image.info.extent("C", self._level))
        return range(min(self._selected), max(self._selected) + 1)


class Planes(Sequence[Plane]):
    """All planes of an image, in the order of their loop axes, the last fastest; made when asked for.

    Attributes
    ----------
    loop_axes
        Axes that the model does not see, in OME order: ``"T"``, ``"STZ"``; an axis of extent 1 counts.
    loop_shape
        Their extents.
    """

    def __init__(self, image: Image, ndim: int, level: int, channels: tuple[int, ...] | None) -> None:
        info = image.info
        loops = LOOP_AXES + ("Z" if ndim == 2 else "")
        self.loop_axes = "".join(axis for axis in AXES if axis in loops and axis in info.axes)
        self.loop_shape = tuple(info.extent(axis) for axis in self.loop_axes)
        self._image, self._ndim, self._level, self._channels = image, ndim, level, channels

    def __len__(self) -> int:
        return math.prod(self.loop_shape)

    @overload
    def __getitem__(self, index: int) -> Plane: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Plane]: ...
    def __getitem__(self, index: int | slice) -> Plane | Sequence[Plane]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"no plane {index} in {len(self)}")
        position = np.unravel_index(index % len(self), self.loop_shape) if self.loop_shape else ()
        loops = {axis: int(i) for axis, i in zip(self.loop_axes, position, strict=True)}
        return Plane(self._image, self._level, self._channels, loops, self._ndim)

    def __iter__(self) -> Iterator[Plane]:
        return (self[i] for i in range(len(self)))


def planes(
    image: Image, *, ndim: int, level: int = 0, channels: Sequence[int | str] | None = None, name: str = "the image"
) -> Planes:
    """Planes of an image for a model of `ndim` spatial axes.

    Parameters
    ----------
    image
        The image.
    ndim
        2 or 3.
    level
        Resolution level.
    channels
        By index or name; None for all.
    name
        Of the image, for messages.

    Raises
    ------
    ImageMismatchError
        If the image has no Z axis for a 3-D model, no such level or no such channel.
    """
    info = image.info
    if ndim == 3 and "Z" not in info.axes:
        raise ImageMismatchError(f"{name} has axes {info.axes} and no Z, which a 3-D model needs",
                                 "name the axes with --axes, or give --patch two numbers")
    if not 0 <= level < len(info.levels):
        raise ImageMismatchError(f"{name} has no level {level}", f"its levels are 0 to {len(info.levels) - 1}")
    selected = None if channels is None else tuple(_channel(image, channel, name) for channel in channels)
    return Planes(image, ndim, level, selected)


def _channel(image: Image, channel: int | str, name: str) -> int:
    info = image.info
    count = info.extent("C")
    if isinstance(channel, str):
        if channel not in info.channels:
            known = ", ".join(info.channels) if info.channels else "not named"
            raise ImageMismatchError(f"{name} has no channel {channel!r}", f"its channels are {known}")
        return info.channels.index(channel)
    if not 0 <= channel < count:
        raise ImageMismatchError(f"{name} has no channel {channel}", f"its channels are 0 to {count - 1}")
    return channel
