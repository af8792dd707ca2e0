"""The engine's view of an image: planes of ``(C, [Z,] Y, X)``, whatever order the file has its axes in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ImageMismatchError
from patchloom.geometry.axes import AXES, LOOP_AXES, spatial_axes
from patchloom.geometry.region import Region
from patchloom.images.image import FetchesAhead, Image, ImageInfo

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
        self._image = image
        self._level = level
        self._at = at
        self._form = _form(info.axes, info.levels[level], info.chunks[level], ndim, channels, tuple(at.items()))
        self.shape: tuple[int, ...] = self._form.shape
        """Extents ([z,] y, x) in pixels of the level."""
        self.channels: int = len(channels)
        """Number of channels; 1 where the image has no channel axis."""
        self.dtype: np.dtype[Any] = info.dtype
        """Of the pixels."""
        self.chunks: tuple[int, ...] = self._form.chunks
        """Extents ([z,] y, x) of the blocks that are decoded at once."""

    def of(self, image: Image) -> Plane:
        """The same place in another image of the same description."""
        plane = Plane.__new__(Plane)
        vars(plane).update(vars(self))
        plane._image = image
        return plane

    def of_none(self) -> Plane:
        """The same place without an image, which is not kept; others are asked for with `of`."""
        plane = self.of(self._image)
        del plane._image
        return plane

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
        runs = self._form.runs
        if len(runs) == 1:
            return self._read_run(region, *runs[0])
        out = np.empty((self.channels, *region.shape), self.dtype)
        place = 0
        for run in runs:
            part = self._read_run(region, *run)
            out[place : place + len(part)] = part
            place += len(part)
        return out

    @property
    def is_far(self) -> bool:
        """Whether `fetch` helps."""
        return bool(getattr(self._image, "is_far", False))

    def fetch(self, regions: Sequence[Region]) -> None:
        """Begin to get what `read` of these regions needs, where the image takes its time to get it."""
        if self.is_far:
            runs = self._form.runs
            wanted = [_source(self._form, region, low, high) for region in regions for low, high, _ in runs]
            cast(FetchesAhead, self._image).fetch(wanted, self._level)

    def _read_run(self, region: Region, low: int, high: int, pick: slice | list[int] | None) -> NDArray[Any]:
        form = self._form
        pixels = self._image.read(_source(form, region, low, high), self._level)[form.squeeze].transpose(form.order)
        if len(form.order) == len(form.shape):
            pixels = pixels[None]
        return pixels if pick is None else pixels[pick]


Run = tuple[int, int, slice | list[int] | None]


@dataclass(frozen=True, eq=False)
class _Form:
    """How planes of one shape lie in their images.

    Parameters
    ----------
    axes, at
        Of the image, and the index on each axis that the plane does not have.
    shape, chunks
        Along the axes of the plane.
    runs
        What is read to get the channels.
    squeeze, order
        Index and transposition from what is read to ``([C,] [Z,] Y, X)``.
    """

    axes: str
    at: Mapping[str, int]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    runs: list[Run]
    squeeze: tuple[int | slice, ...]
    order: tuple[int, ...]


@lru_cache(maxsize=256)
def _form(
    axes: str,
    extents: tuple[int, ...],
    chunks: tuple[int, ...],
    ndim: int,
    channels: tuple[int, ...],
    at: tuple[tuple[str, int], ...],
) -> _Form:
    """Collections have many images of one shape."""
    space, fixed = spatial_axes(ndim), dict(at)
    extent = dict.fromkeys(space, 1) | dict(zip(axes, extents, strict=True))
    chunk = dict(zip(axes, chunks, strict=True))
    kept = [letter for letter in axes if letter not in fixed]
    return _Form(
        axes,
        fixed,
        tuple(extent[letter] for letter in space),
        tuple(chunk[letter] for letter in space),
        _runs(channels, chunk.get("C")),
        tuple(0 if letter in fixed else slice(None) for letter in axes),
        tuple(kept.index(letter) for letter in ("C" + space if "C" in kept else space)),
    )


@lru_cache(maxsize=1024)
def _source(form: _Form, region: Region, low: int, high: int) -> Region:
    """A region of a plane, and some channels, in its image."""
    space = spatial_axes(len(form.shape))
    start, shape = [], []
    for letter in form.axes:
        if letter == "C":
            start.append(low)
            shape.append(high - low)
        elif letter in form.at:
            start.append(form.at[letter])
            shape.append(1)
        else:
            axis = space.index(letter)
            start.append(region.start[axis])
            shape.append(region.shape[axis])
    return Region(tuple(start), tuple(shape))


def _runs(channels: tuple[int, ...], block: int | None) -> list[Run]:
    """Reads that give the channels: ``[low, high)`` and what to take of it.

    One read where the channels lie in blocks next to each other; else one for each channel, so that nothing between
    them is decoded. `block` is the number of channels in a block; None where there is no axis of channels.
    """
    if block is None:
        return [(0, 1, None)]
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
        self._image, self._level, self._ndim, self._channels = image, level, ndim, channels
        self.loop_axes: str = _loop_axes(info.axes, ndim)
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
        last = self._last
        if last is not None and last[0] == index:
            return last[1]  # asked for again and again where there is only one
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"plane {index} of {len(self)}")
        rest, at = index % len(self), {}
        for letter, extent in zip(reversed(self.loop_axes), reversed(self.loop_shape), strict=True):
            rest, at[letter] = divmod(rest, extent)
        ordered = {letter: at[letter] for letter in self.loop_axes}
        plane = Plane(self._image, self._level, self._ndim, self._channels, ordered)
        self._last = index, plane
        return plane

    def __iter__(self) -> Iterator[Plane]:
        return (self[i] for i in range(len(self)))


@lru_cache(maxsize=64)
def _loop_axes(axes: str, ndim: int) -> str:
    loops = LOOP_AXES + ("Z" if ndim == 2 else "")
    return "".join(letter for letter in AXES if letter in axes and letter in loops)


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
