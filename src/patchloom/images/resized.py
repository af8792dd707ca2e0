"""Whole images at the size that a model takes: the shorter side to a length, antialiased, then the centre.

The arithmetic is that of torchvision: the longer side is rounded down, the centre is rounded to the even pixel, the
filter is bilinear and widened by as much as the image shrinks. Channels are resized apart from each other, alpha too.
8-bit pixels are computed in fixed point, all others as float32; integers are rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ImageMismatchError
from patchloom.geometry.region import Region
from patchloom.images.image import Image, ImageInfo

__all__ = ["Fit", "ReadsResized", "ResizedImage"]

Box = tuple[float, float, float, float]
"""Top, left, bottom and right edge in pixels, fractions among them."""


@runtime_checkable
class ReadsResized(Protocol):
    """An image that makes itself small faster than by being decoded whole: JPEG decodes to an eighth of its size."""

    def read_resized(self, shape: tuple[int, int], box: Box) -> NDArray[Any] | None:
        """The part `box` of the image, resized to `shape` (y, x), along the axes of the image.

        None where it can do no better than `Image.read`. What is decoded first has at least twice the pixels of
        `shape` on each axis, so that the answer stays within rounding of smooth pictures.
        """


@dataclass(frozen=True)
class Fit:
    """How a plane of any size is made small.

    Parameters
    ----------
    resize
        Length in pixels of the shorter side, or exact (y, x); None leaves the size.
    centre_crop
        Then the middle of this size, one number or (y, x); None takes everything.

    Examples
    --------
    >>> Fit((256,), (224,)).shape((480, 640))
    (224, 224)
    >>> Fit((256,)).shape((480, 640))
    (256, 341)
    """

    resize: tuple[int, ...] | None = None
    centre_crop: tuple[int, ...] | None = None

    @property
    def fixed(self) -> tuple[int, int] | None:
        """Result (y, x) where it is the same for all images."""
        if self.centre_crop is not None:
            return _pair(self.centre_crop)
        return _pair(self.resize) if self.resize is not None and len(self.resize) == 2 else None

    def resized(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Size (y, x) of a plane before its centre is taken."""
        if self.resize is None:
            return shape
        if len(self.resize) == 2:
            return _pair(self.resize)
        length, short = self.resize[0], min(shape)
        rows, columns = (length if n == short else max(1, length * n // short) for n in shape)
        return rows, columns

    def shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Size (y, x) of the result.

        Raises
        ------
        ValueError
            If the centre is larger than what it is cut out of.
        """
        found = self.resized(shape)
        if self.centre_crop is None:
            return found
        crop = _pair(self.centre_crop)
        if any(c > n for c, n in zip(crop, found, strict=True)):
            raise ValueError(f"the centre of {_by(crop)} pixels is larger than {_by(found)}")
        return crop

    def start(self, shape: tuple[int, int]) -> tuple[int, int]:
        """First pixel (y, x) of the centre in the plane once it is resized."""
        rows, columns = (round((n - c) / 2) for n, c in zip(self.resized(shape), self.shape(shape), strict=True))
        return rows, columns

    def box(self, shape: tuple[int, int]) -> Box:
        """Part of the plane that becomes the result."""
        (top, left), (rows, columns) = self.start(shape), self.shape(shape)
        y, x = (n / m for n, m in zip(shape, self.resized(shape), strict=True))
        return top * y, left * x, (top + rows) * y, (left + columns) * x


class ResizedImage:
    """An image that looks as if it were stored at the size that a model takes; each plane is one chunk.

    Axes, loops and channels are those of the image. Each of its levels becomes one level of the result, which is made
    from the coarsest one that has at least twice its pixels on each axis; that is how a slide is shown whole.

    Parameters
    ----------
    image
        Closed with this one.
    fit
        How it is resized.
    name
        For messages.

    Raises
    ------
    ImageMismatchError
        If the centre is larger than the image, or pixels cannot be averaged.

    Examples
    --------
    >>> from patchloom.images.array import ArrayImage
    >>> photograph = ArrayImage(np.zeros((480, 640, 3), np.uint8))
    >>> ResizedImage(photograph, Fit((256,), (224,))).info.shape
    (224, 224, 3)
    """

    def __init__(self, image: Image, fit: Fit, name: str = "") -> None:
        name = name or repr(image)
        info = image.info
        if info.dtype.kind not in "biuf":
            raise ImageMismatchError(
                f"{name}: pixels of type {info.dtype} cannot be resized", "predict on it in patches"
            )
        self._image, self._fit, self._name = image, fit, name
        self._planes = [(info.extent("Y", i), info.extent("X", i)) for i in range(len(info.levels))]
        try:
            shapes = [fit.shape(plane) for plane in self._planes]
        except ValueError as error:
            raise ImageMismatchError(
                f"{name}: {error}", "make it larger with --resize, or choose --centre-crop"
            ) from None
        self._shapes = shapes
        self._steps = [tuple(n / m for n, m in zip(p, fit.resized(p), strict=True)) for p in self._planes]
        self.info: ImageInfo = replace(
            info,
            levels=tuple(_replaced(info, old, new) for old, new in zip(info.levels, shapes, strict=True)),
            chunks=tuple(_replaced(info, old, new) for old, new in zip(info.chunks, shapes, strict=True)),
            spacing={axis: size * self._step(axis) for axis, size in info.spacing.items()},
            origin=self._origin(info),
        )

    @property
    def original(self) -> tuple[int, int]:
        """Size (y, x) of the image in its own pixels of level 0."""
        return self._planes[0]

    @property
    def decoded_bytes(self) -> int:
        """Memory that is taken while one plane of the image is made small, all levels considered."""
        info = self._image.info
        sources = {self._source(level) for level in range(len(info.levels))}
        return max(math.prod(self._planes[i]) for i in sources) * info.extent("C") * info.dtype.itemsize

    def read(self, region: Region, level: int = 0) -> NDArray[Any]:
        """Decode and resize the planes that `region` touches; see `Image.read`."""
        info = self.info
        if not 0 <= level < len(info.levels):
            raise ImageMismatchError(f"{self._name} has no level {level}", f"it has {len(info.levels)}")
        if any(a < 0 or b > n for a, b, n in zip(region.start, region.stop, info.levels[level], strict=True)):
            raise ValueError(f"region {region} reaches beyond the shape {info.levels[level]}")
        pixels = self._at_once(level)
        if pixels is not None:
            return pixels[region.slices]
        source, y, x = self._source(level), info.axes.index("Y"), info.axes.index("X")
        start, shape, inside = list(region.start), list(region.shape), [slice(None)] * len(info.axes)
        for axis, n in zip((y, x), self._planes[source], strict=True):
            inside[axis] = slice(start[axis], start[axis] + shape[axis])
            start[axis], shape[axis] = 0, n
        whole = self._image.read(Region(tuple(start), tuple(shape)), source)
        return _resized(whole, y, x, self._shapes[level], self._box(level, source))[tuple(inside)]

    def close(self) -> None:
        """Close the image."""
        self._image.close()

    def __repr__(self) -> str:
        return f"<ResizedImage {self._image!r} to {_by(self._shapes[0])}>"

    def _at_once(self, level: int) -> NDArray[Any] | None:
        """The whole result, where the image makes it by itself."""
        if level or not isinstance(self._image, ReadsResized):
            return None
        pixels = self._image.read_resized(self._shapes[0], self._fit.box(self._planes[0]))
        if pixels is not None and pixels.shape != self.info.shape:
            raise ImageMismatchError(f"{self._name} resizes to {pixels.shape} and not to {self.info.shape}")
        return pixels

    def _source(self, level: int) -> int:
        """Level that a level of the result is made from."""
        wanted = self._fit.resized(self._planes[level])
        coarser = range(level, len(self._planes) if self._fit.resize is not None else level)
        fine = [i for i in coarser if all(n >= 2 * m for n, m in zip(self._planes[i], wanted, strict=True))]
        return min(fine, key=lambda i: math.prod(self._planes[i]), default=level)

    def _box(self, level: int, source: int) -> Box:
        """Part of a level of the image that becomes a level of the result."""
        y, x = (n / m for n, m in zip(self._planes[source], self._planes[level], strict=True))
        top, left, bottom, right = self._fit.box(self._planes[level])
        return top * y, left * x, bottom * y, right * x

    def _step(self, axis: str) -> float:
        """Pixels of the image in one of the result."""
        return float(self._steps[0]["YX".index(axis)]) if axis in ("Y", "X") else 1.0

    def _origin(self, info: ImageInfo) -> tuple[float, float] | None:
        """Coordinates of the upper left corner, which the centre has moved; Y points up."""
        if info.origin is None or not {"Y", "X"} <= set(info.spacing):
            return info.origin if self._fit.centre_crop is None else None
        top, left, _, _ = self._fit.box(self._planes[0])
        return info.origin[0] + left * info.spacing["X"], info.origin[1] - top * info.spacing["Y"]


def _resized(pixels: NDArray[Any], y: int, x: int, shape: tuple[int, int], box: Box) -> NDArray[Any]:
    """`box` of the planes of an array, whose axes `y` and `x` are the spatial ones, resized."""
    whole = (0.0, 0.0, *map(float, (pixels.shape[y], pixels.shape[x])))
    if shape == (pixels.shape[y], pixels.shape[x]) and box == whole:
        return pixels
    out = list(pixels.shape)
    out[y], out[x] = shape
    if pixels.ndim == 3 and (y, x) == (0, 1) and pixels.shape[2] == 3 and pixels.dtype == np.uint8:
        return _resized_plane(pixels, shape, box)  # Pillow's own order, three channels at once
    result = np.empty(out, pixels.dtype)
    source, target = np.moveaxis(pixels, (y, x), (-2, -1)), np.moveaxis(result, (y, x), (-2, -1))
    for index in np.ndindex(*source.shape[:-2]):
        target[index] = _resized_plane(source[index], shape, box)
    return result


def _resized_plane(pixels: NDArray[Any], shape: tuple[int, int], box: Box) -> NDArray[Any]:
    """``(Y, X)`` of any type or ``(Y, X, 3)`` of uint8."""
    from PIL import Image as Pillow

    top, left, bottom, right = box
    exact = pixels.dtype == np.uint8
    picture = Pillow.fromarray(np.ascontiguousarray(pixels, None if exact else np.float32))
    small = picture.resize(shape[::-1], Pillow.Resampling.BILINEAR, (left, top, right, bottom))
    found = np.asarray(small)
    if exact or pixels.dtype.kind == "f":
        return found.astype(pixels.dtype, copy=False)
    if pixels.dtype.kind == "b":
        return found >= 0.5
    limits = np.iinfo(pixels.dtype)
    # In float64, which holds the limits of 32-bit integers exactly.
    return np.clip(np.rint(found.astype(np.float64)), limits.min, limits.max).astype(pixels.dtype)


def _replaced(info: ImageInfo, extents: tuple[int, ...], shape: tuple[int, int]) -> tuple[int, ...]:
    new = dict(zip("YX", shape, strict=True))
    return tuple(new.get(axis, n) for axis, n in zip(info.axes, extents, strict=True))


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
