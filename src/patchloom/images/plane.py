"""The engine's view of an image: planes of ``(C, [Z,] Y, X)``, whatever order the file has its axes in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ImageMismatchError
from patchloom.geometry.axes import AXES, LOOP_AXES, spatial_axes
from patchloom.geometry.region import Region
from patchloom.images.image import Image, ImageInfo

__all__ = ["Plane", "Planes", "planes"]


class Plane:
    """One place on the loop axes of an image, at one level, with the selected channels.

    Parameters
    ----------
    image
        Where pixels come from.
    level
        Resolution level.
    ndim
        Number of spatial axes, 2 or 3.
    channels
        Indices in the order wanted.
    at
        Index on each loop axis.
    """

    def __init__(
        self, image: Image, level: int, ndim: int, channels: tuple[int, ...], at: dict[str, int]
    ) -> None:
        info = image.info
        space = spatial_axes(ndim)
        self._image = image
        self._level = level
        self._axes = info.axes
        self._indices = channels
        self._at = at
        self._runs = _runs(channels, info, level)
        kept = [letter for letter in info.axes if letter not in at]
        self._squeeze = tuple(0 if letter in at else slice(None) for letter in info.axes)
        self._order = [kept.index(letter) for letter in ("C" + space if "C" in kept else space)]
        self.shape: tuple[int, ...] = tuple(info.extent(letter, level) for letter in space)
        """Extents ([z,] y, x) in pixels of the level."""
        self.channels: int = len(channels)
        """Number of channels; 1 where the image has no channel axis."""
        self.dtype: np.dtype[Any] = info.dtype
        """Of the pixels."""
        chunk = dict(zip(info.axes, info.chunks[level], strict=True))
        self.chunks: tuple[int, ...] = tuple(chunk[letter] for letter in space)
        """Extents ([z,] y, x) of the blocks that are decoded at once."""

    @property
    def loops(self) -> dict[str, int]:
        """Index on each loop axis, in the order STCZYX."""
        return dict(self._at)

    def read(self, region: Region) -> NDArray[Any]:
        """Decode a part of the plane.

        Parameters
        ----------
        region
            ([z,] y, x), inside the plane.

        Returns
        -------
        numpy.ndarray
            ``(C, [Z,] Y, X)``: a view of what was decoded wherever that is possible, so it is not written to and in any
            order in memory.
        """
        runs = self._runs
        if len(runs) == 1:
            return self._read_run(region, *runs[0])
        out = np.empty((self.channels, *region.shape), self.dtype)
        place = 0
        for run in runs:
            part = self._read_run(region, *run)
            out[place : place + len(part)] = part
            place += len(part)
        return out

    def _read_run(self, region: Region, low: int, high: int, pick: slice | list[int] | None) -> NDArray[Any]:
        space = spatial_axes(len(self.shape))
        start, shape = [], []
        for letter in self._axes:
            if letter == "C":
                start.append(low)
                shape.append(high - low)
            elif letter in self._at:
                start.append(self._at[letter])
                shape.append(1)
            else:
                axis = space.index(letter)
                start.append(region.start[axis])
                shape.append(region.shape[axis])
        pixels = self._image.read(Region(tuple(start), tuple(shape)), self._level)[self._squeeze]
        pixels = pixels.transpose(self._order)
        if len(self._order) == len(space):
            pixels = pixels[None]
        return pixels if pick is None else pixels[pick]


Run = tuple[int, int, slice | list[int] | None]


def _runs(channels: tuple[int, ...], info: ImageInfo, level: int) -> list[Run]:
    """Reads that give the channels: ``[low, high)`` and what to take of it.

    One read where the channels lie in blocks next to each other; else one for each channel, so that nothing between
    them is decoded.
    """
    if "C" not in info.axes:
        return [(0, 1, None)]
    block = info.chunks[level][info.axes.index("C")]
    touched = {channel // block for channel in channels}
    if len(touched) == max(touched) - min(touched) + 1:
        return [_run(channels)]
    groups = [tuple(group) for _, group in itertools.groupby(channels, key=lambda channel: channel // block)]
    return [_run(group) for group in groups]


def _run(channels: tuple[int, ...]) -> Run:
    low, high = min(channels), max(channels) + 1
    if channels == tuple(range(low, high)):
        return low, high, None
    if channels == tuple(range(high - 1, low - 1, -1)):
        return low, high, slice(None, None, -1)
    return low, high, [channel - low for channel in channels]


class Planes(Sequence[Plane]):
    """All planes of an image, in the order of its loop axes, the last one fastest; each is made when it is asked for.

    Parameters
    ----------
    image, level, ndim, channels
        As for `Plane`.
    """

    def __init__(
        self, image: Image, level: int, ndim: int, channels: tuple[int, ...]
    ) -> None:
        info = image.info
        loops = LOOP_AXES + ("Z" if ndim == 2 else "")
        self._image, self._level, self._ndim, self._channels = image, level, ndim, channels
        self.loop_axes: str = "".join(letter for letter in AXES if letter in info.axes and letter in loops)
        """Axes that are iterated, in the order STCZYX; empty for an ordinary image."""
        self.loop_shape: tuple[int, ...] = tuple(info.extent(letter, level) for letter in self.loop_axes)
        """Their extents."""
        self._last: tuple[int, Plane] | None = None

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
            raise IndexError(f"plane {index} of {len(self)}")
        last = self._last
        if last is not None and last[0] == index:
            return last[1]  # asked for again and again where there is only one
        rest, at = index % len(self), {}
        for letter, extent in zip(reversed(self.loop_axes), reversed(self.loop_shape), strict=True):
            rest, at[letter] = divmod(rest, extent)
        ordered = {letter: at[letter] for letter in self.loop_axes}
        plane = Plane(self._image, self._level, self._ndim, self._channels, ordered)
        self._last = index, plane
        return plane

    def __iter__(self) -> Iterator[Plane]:
        return (self[i] for i in range(len(self)))


def planes(
    image: Image, *, ndim: int, level: int = 0, channels: Sequence[int | str] | None = None, name: str = ""
) -> Planes:
    """Look at an image as a model does.

    S and T are loop axes, and so is Z for a 2-D model; an axis of extent 1 that the image has is one too.

    Parameters
    ----------
    image
        To look at.
    ndim
        Spatial axes that the model sees: 2 or 3.
    level
        Resolution level, 0 the finest.
    channels
        By index or name, in the order wanted; all where it is None.
    name
        For messages; the image itself where it is empty.

    Raises
    ------
    ImageMismatchError
        If the image has no such level or channel, or no Z axis for a 3-D model.
    """
    info, name = image.info, name or repr(image)
    if not 0 <= level < len(info.levels):
        raise ImageMismatchError(f"{name} has no level {level}", f"it has {_listed(len(info.levels), 'level')}")
    if ndim == 3 and "Z" not in info.axes:
        raise ImageMismatchError(f"{name} has axes {info.axes} and no Z for a 3-D patch",
                                 "give a 2-D patch, or name the axes with --axes")
    return Planes(image, level, ndim, _channels(info, channels, name))


def _channels(info: ImageInfo, wanted: Sequence[int | str] | None, name: str) -> tuple[int, ...]:
    count = info.extent("C")
    if wanted is None:
        return tuple(range(count))
    if not wanted:
        raise ImageMismatchError(f"{name}: no channel is selected", "leave --channels out to take all")
    return tuple(_channel(info, channel, count, name) for channel in wanted)


def _channel(info: ImageInfo, channel: int | str, count: int, name: str) -> int:
    if isinstance(channel, str) and channel in info.channels:
        return info.channels.index(channel)
    if not isinstance(channel, str) and 0 <= channel < count:
        return int(channel)
    listed = _listed(count, "channel")
    named = f", named {', '.join(info.channels)}" if info.channels else ""
    raise ImageMismatchError(f"{name} has no channel {channel}", f"it has {listed}{named}; choose with --channels")


def _listed(count: int, what: str) -> str:
    return f"1 {what}, number 0" if count == 1 else f"{count} {what}s, 0 to {count - 1}"
