"""Which patches are not worth predicting: background, little variance, outside of a mask, or what a function says.

A filter looks at the pixels of one patch as the file has them, before any preprocessing, and knows nothing of models.
It answers the same for the same patch every time, so that a run gives one answer however it is computed.
"""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ImageError, ModelError, PatchloomError, UnreadableImageError, UsageError
from patchloom.geometry.region import Region
from patchloom.images.plane import Planes, planes
from patchloom.images.registry import known_suffixes, open_image
from patchloom.images.sources.entry import image_name, is_zarr
from patchloom.references import is_reference, resolve

__all__ = ["Background", "Filter", "Function", "Mask", "Variance", "as_filter", "inside"]

FOREGROUND = 0.05
"""Least share of foreground that a patch is kept for, where nothing is said."""
BRIGHT, DARK, COLOURLESS = 200, 25, 15
"""Of 255, for 8-bit colour: where glass and paper begin, where black ends, and how far grey is from colour at most."""
SAME = 0.02
"""Values that differ by no more than this part hardly vary."""
MASKS_OPEN = 16
MASK_BYTES = 128 << 20
"""Decoded pixels of masks that are kept, besides those of the last one used."""
FORMS = "background, background:0.05, variance:T, mask:FOLDER or package.module:function"


@runtime_checkable
class Filter(Protocol):
    """Decides which patches are skipped; may be called from several threads at once."""

    def skips(self, pixels: NDArray[Any], image: str, region: Region, plane: tuple[int, ...]) -> bool:
        """Whether a patch is not worth predicting.

        Parameters
        ----------
        pixels
            ``(C, [Z,] Y, X)``: the selected channels of the patch in the file's own dtype, of `region`. Not written to.
        image
            Name of the image.
        region
            The part of the patch that lies inside the image, ([z,] y, x) in pixels of the level that is read.
        plane
            Extents of the whole plane at that level, ([z,] y, x).

        Raises
        ------
        ImageError
            If that cannot be said for this image, such as for want of its mask; it costs this image.
        """


def as_filter(value: str | Filter | Callable[..., Any]) -> Filter:
    """Filter out of whatever a user gives.

    Parameters
    ----------
    value
        ``"background"``, ``"background:0.05"`` (`Background`), ``"variance:T"`` (`Variance`), ``"mask:PATH"``
        (`Mask`), ``"package.module:function"`` or a function (`Function`), or a `Filter`.

    Raises
    ------
    UsageError
        If it is nothing of the kind, or there is no such path or function.

    Examples
    --------
    >>> as_filter("variance:12.5")
    Variance(least=12.5)
    >>> as_filter("background").skips(np.full((3, 8, 8), 244, np.uint8), "a.png", Region((0, 0), (8, 8)), (8, 8))
    True
    """
    if isinstance(value, str):
        return _from_text(value)
    if isinstance(value, Filter):
        return value
    if callable(value):
        return Function(value)
    raise UsageError(f"skip: a {type(value).__name__} is no filter", f"give {FORMS}, or a function of a patch")


def inside(patch: Region, plane: Sequence[int]) -> Region:
    """The part of a patch that a filter sees: what of it lies inside the plane."""
    return patch.intersect(Region.whole(plane))


@dataclass(frozen=True)
class Background:
    """Skips patches with hardly any foreground.

    In 8-bit images of three or four channels, which are taken as RGB(A), a pixel is background where it is

    - dark: no channel above 25;
    - bright and without colour: no channel below 200, and the largest not more than 15 above the smallest;
    - transparent: a fourth channel of 0.

    In all others, where white and black are not known, a pixel is background where it hardly varies: in no channel it
    differs from the channel's median in the patch by more than 2 % of the range (8 bits: by more than 5), or, of
    pixels with more bits and of floats, by more than 2 % of that median. So flat patches are background at any
    brightness; of dark and noisy ones `Variance` says more. Pixels that are not finite are background.

    Parameters
    ----------
    least
        Share of foreground, of all pixels of the patch inside the image, below which a patch is skipped.
    """

    least: float = FOREGROUND

    def __post_init__(self) -> None:
        if not 0 < self.least <= 1:
            raise UsageError(f"skip: background:{self.least} is no share of a patch", "above 0 and not above 1")

    def skips(self, pixels: NDArray[Any], image: str, region: Region, plane: tuple[int, ...]) -> bool:
        """See `Filter.skips`."""
        coloured = pixels.dtype == np.uint8 and len(pixels) in (3, 4)
        foreground = _coloured(pixels) if coloured else _varying(pixels)
        return bool(np.count_nonzero(foreground) < self.least * foreground.size)


def _coloured(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Foreground of 8-bit RGB(A)."""
    high, low = pixels[:3].max(axis=0), pixels[:3].min(axis=0)
    foreground = (high > DARK) & ((low < BRIGHT) | (high - low > COLOURLESS))
    return foreground & (pixels[3] > 0) if len(pixels) == 4 else foreground


def _varying(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Foreground of other images."""
    found = np.zeros(pixels.shape[1:], np.bool_)
    for channel in pixels:
        values = np.abs(channel) if channel.dtype.kind == "c" else channel
        finite = np.isfinite(values)
        if not finite.any():
            continue
        # Of integers of 64 bits float64 loses what 2 % do not notice.
        middle = float(np.median(values[finite]))
        eight_bits = values.dtype.itemsize == 1
        largest = 1 if values.dtype.kind == "b" else 255 if eight_bits else abs(middle)
        found |= finite & (np.abs(np.where(finite, values, 0).astype(np.float64) - middle) > SAME * largest)
    return found


@dataclass(frozen=True)
class Variance:
    """Skips patches that hardly vary.

    Parameters
    ----------
    least
        Standard deviation (of the population, in units of pixel values as the file has them, over the finite pixels
        of the patch inside the image). A patch is skipped where it is below this in every channel.
    """

    least: float

    def __post_init__(self) -> None:
        if not 0 < self.least < math.inf:
            raise UsageError(f"skip: variance:{self.least} is no standard deviation", "give a number above 0")

    def skips(self, pixels: NDArray[Any], image: str, region: Region, plane: tuple[int, ...]) -> bool:
        """See `Filter.skips`."""
        return all(_deviation(channel) < self.least for channel in pixels)


def _deviation(channel: NDArray[Any]) -> float:
    values = channel if channel.dtype.kind in "biu" else channel[np.isfinite(channel)]
    return float(values.std(dtype=np.complex128 if values.dtype.kind == "c" else np.float64)) if values.size else 0.0


@dataclass(frozen=True)
class Function:
    """Skips what a function says.

    Parameters
    ----------
    function
        From the pixels of a patch, ``(C, [Z,] Y, X)`` in the file's dtype, to True where the patch is to be skipped.
        Called from several threads at once.
    """

    function: Callable[..., Any]

    def skips(self, pixels: NDArray[Any], image: str, region: Region, plane: tuple[int, ...]) -> bool:
        """See `Filter.skips`.

        Raises
        ------
        UsageError
            If the function raises, or answers with anything but True or False.
        """
        name = getattr(self.function, "__qualname__", repr(self.function))
        try:
            answer = self.function(pixels)
        except (PatchloomError, MemoryError):
            raise
        except Exception as error:
            where = f"the patch of {image} at {', '.join(map(str, region.start))}"
            raise UsageError(f"skip: {name} raised {type(error).__name__} at {where}: {error}",
                             "correct the function") from error
        if not isinstance(answer, (bool, np.bool_)):
            raise UsageError(f"skip: {name} gave a {type(answer).__name__}", "True skips a patch, False keeps it")
        return bool(answer)


@dataclass(frozen=True)
class Mask:
    """Skips patches in which a mask of the image has no pixel above or below 0.

    The mask may have any resolution: its extents are scaled to the image's, and a pixel counts where any part of it
    lies in the patch. It is found by the image's name, or by that name with another suffix (``a/S-1.svs``:
    ``a/S-1.png`` in the folder of masks). All channels count but transparency, and all planes of a mask that has
    several; a mask with Z is compared slice by slice where the patch is 3-D.

    Parameters
    ----------
    path
        Folder of masks; or one mask, for a single image.

    Raises
    ------
    UsageError
        If there is no such path.
    """

    path: str
    _views: OrderedDict[str, Planes] = field(init=False, repr=False, compare=False, default_factory=OrderedDict)
    _lock: threading.Lock = field(init=False, repr=False, compare=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", os.path.abspath(os.path.expanduser(self.path)))
        if not os.path.exists(self.path):
            raise UsageError(f"skip: there is no mask {self.path}", "give a folder of masks, or one mask for one image")

    def __reduce__(self) -> tuple[type[Mask], tuple[str]]:
        return Mask, (self.path,)

    @cached_property
    def is_one(self) -> bool:
        """Whether it is one mask and no folder of them."""
        return not os.path.isdir(self.path) or is_zarr(Path(self.path))

    def skips(self, pixels: NDArray[Any], image: str, region: Region, plane: tuple[int, ...]) -> bool:
        """See `Filter.skips`.

        Raises
        ------
        ImageError
            If the image has no mask, or several, or the mask cannot be read.
        """
        views = self._of(image, len(plane))
        shape = views[0].shape
        lines = (region.start[-len(shape) :], region.stop[-len(shape) :], plane[-len(shape) :], shape)
        area = Region.between(*zip(*map(_scaled, *lines), strict=True))
        return not any(_opaque(view.read(area)).any() for view in views)

    def find(self, image: str) -> Path:
        """File of an image's mask.

        Raises
        ------
        ImageError
            If there is none, or several.
        """
        folder = Path(self.path)
        if self.is_one:
            return folder
        name = PurePosixPath(image_name(image))
        same = folder / name
        if same.exists() and (same.is_file() or is_zarr(same)):
            return same
        found = [path for path in _candidates(folder, name) if path.exists()]
        if len(found) != 1:
            has = f"several masks, {found[0].name} and {found[1].name}," if found else "no mask"
            raise ImageError(f"{image} has {has} in {folder}", "masks are called like their images, with any suffix")
        return found[0]

    def _of(self, image: str, ndim: int) -> Planes:
        with self._lock:
            views = self._views.get(image)
            if views is None:
                views = self._views[image] = _opened(self.find(image), ndim)
            self._views.move_to_end(image)
            # What is dropped here is closed when the last thread that reads it is done.
            while len(self._views) > 1 and (len(self._views) > MASKS_OPEN or self._kept_bytes() > MASK_BYTES):
                self._views.popitem(last=False)
            return views

    def _kept_bytes(self) -> int:
        firsts = (views[0] for views in self._views.values())
        return sum(math.prod(view.chunks) * view.channels * view.dtype.itemsize for view in firsts)


def _opened(path: Path, ndim: int) -> Planes:
    try:
        mask = open_image(path)
    except ImageError as error:
        raise UnreadableImageError(f"the mask {error.message}", error.hint) from error
    return planes(mask, ndim=3 if ndim == 3 and "Z" in mask.info.axes else 2, name=str(path))


def _candidates(folder: Path, name: PurePosixPath) -> Iterator[Path]:
    """Files that are called like an image but for the suffix, of which ``.ome.tif`` is one, too."""
    plain = name.stem.removesuffix(".ome")
    stems = dict.fromkeys((plain, f"{plain}.ome", name.stem, name.name))
    for stem in stems:
        for suffix in sorted(known_suffixes()):
            yield folder / name.parent / f"{stem}{suffix}"


def _scaled(start: int, stop: int, size: int, mask: int) -> tuple[int, int]:
    """Pixels ``[a, b)`` of a mask of which any part lies in ``[start, stop)`` of an image of `size`."""
    return start * mask // size, -(-stop * mask // size)


def _opaque(pixels: NDArray[Any]) -> NDArray[Any]:
    """Channels without transparency, which two or four 8-bit channels end with."""
    return pixels[:-1] if len(pixels) in (2, 4) and pixels.dtype == np.uint8 else pixels


def _from_text(text: str) -> Filter:
    name, _, argument = text.partition(":")
    if name == "background":
        return Background(_number(text, argument)) if argument else Background()
    if name == "variance":
        return Variance(_number(text, argument))
    if name == "mask" and argument:
        return Mask(argument)
    if not is_reference(text):
        raise UsageError(f"skip: no filter is called {text!r}", FORMS)
    try:
        found = resolve(text)
    except ModelError as error:
        raise UsageError(f"skip: {error.message}", error.hint) from error
    return as_filter(found() if isinstance(found, type) and issubclass(found, Filter) else found)


def _number(text: str, argument: str) -> float:
    try:
        return float(argument)
    except ValueError:
        raise UsageError(f"skip: {text} has no number after the colon", FORMS) from None
