"""The naive way to predict an image patch by patch, for tests to compare with.

Everything is materialised: the starts of all patches in lists, the padded image, the sums of the weights, in float64.
None of it uses `patchloom.geometry`, so that the two can only agree by both being right. Models for testing stand at
the end.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Oracle",
    "cuts",
    "owned",
    "padded",
    "positions_in_patch",
    "smoothed",
    "starts",
    "weights",
]

Array = NDArray[Any]
PatchModel = Callable[[Array], Array]


def starts(size: int, patch: int, stride: int, edge: str) -> list[int]:
    """First pixels of all patches on an axis of `size` pixels.

    Examples
    --------
    >>> starts(10, 4, 3, "shift"), starts(11, 4, 3, "shift"), starts(11, 4, 3, "pad"), starts(11, 4, 3, "drop")
    ([0, 3, 6], [0, 3, 6, 7], [0, 3, 6, 9], [0, 3, 6])
    """
    fitting = [start for start in range(0, size, stride) if start + patch <= size]
    if edge == "drop":
        return fitting
    if size <= patch:
        return [0]
    if edge == "shift":
        return sorted({*fitting, size - patch})
    reaching = []
    for start in range(0, size, stride):
        reaching.append(start)
        if start + patch >= size:
            break
    return reaching


def cuts(firsts: Sequence[int], patch: int) -> list[int]:
    """Pixels at which each patch hands over to the next under `crop`: the middle of what the two share."""
    return [b + (a + patch - b) // 2 for a, b in itertools.pairwise(firsts)]


def owned(size: int, patch: int, stride: int, edge: str) -> list[tuple[int, int]]:
    """Pixels ``[first, stop)`` that each patch owns under `crop`, in the order of `starts`."""
    firsts = starts(size, patch, stride, edge)
    owner = [-1] * size
    handovers = cuts(firsts, patch)
    for pixel in range(size):
        candidates = [i for i, first in enumerate(firsts) if first <= pixel < first + patch]
        if candidates:
            passed = sum(cut <= pixel for cut in handovers)
            owner[pixel] = min(max(passed, candidates[0]), candidates[-1])
    return [(owner.index(i), size - owner[::-1].index(i)) for i in range(len(firsts))]


def weights(blend: str, patch: Sequence[int]) -> Array:
    """Weight of each pixel of a patch: float64 of shape `patch`; MONAI's importance map for `gaussian`."""
    result = np.empty(tuple(patch))
    for place in itertools.product(*map(range, patch)):
        result[place] = math.prod(_weight(blend, i, n) for i, n in zip(place, patch, strict=True))
    return np.maximum(result, max(float(result.min()), 1e-3)) if blend == "gaussian" else result


def _weight(blend: str, i: int, n: int) -> float:
    if blend == "gaussian":
        sigma = 0.125 * n
        return math.exp(-((i - (n - 1) / 2) ** 2) / (2 * sigma**2))
    if blend == "hann":
        return math.sin(math.pi * (i + 0.5) / n) ** 2
    return 1.0


def padded(image: Array, stop: Sequence[int], pad: str, fill: float = 0) -> Array:
    """Image ``(C, [Z,] Y, X)`` continued to `stop` on its spatial axes, one pixel at a time."""
    for axis, end in enumerate(stop, start=1):
        size = image.shape[axis]
        planes = [np.take(image, _source(pixel, size, pad), axis) for pixel in range(max(end, size))]
        image = np.stack(planes, axis)
        if pad == "constant":
            beyond = (slice(None),) * axis + (slice(size, None),)
            image[beyond] = fill
    return image


def _source(pixel: int, size: int, pad: str) -> int:
    """Pixel whose value stands at `pixel`: reflection goes back and forth and does not repeat the last pixel."""
    if pixel < size:
        return pixel
    if pad != "reflect" or size == 1:
        return size - 1
    phase = pixel % (2 * (size - 1))
    return min(phase, 2 * (size - 1) - phase)


@dataclass(frozen=True)
class Oracle:
    """How an image is predicted, with the names that `patchloom.predict` has for it.

    Parameters
    ----------
    patch, stride
        Pixels on each spatial axis.
    edge, pad, fill, blend
        As for `patchloom.predict`.
    scale
        Pixels of the map for each pixel of the image.
    nodata
        Value of what is never predicted; None is NaN for floats and the largest value of an integer type.
    """

    patch: tuple[int, ...]
    stride: tuple[int, ...]
    edge: str = "shift"
    pad: str = "reflect"
    fill: float = 0
    blend: str = "crop"
    scale: Fraction = Fraction(1)
    nodata: float | None = None

    def shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """Pixels that the grid is planned on: those of the image, rounded up to whole pixels of the map."""
        multiple = self.scale.denominator
        return tuple(-(-n // multiple) * multiple for n in size)

    def origins(self, size: Sequence[int]) -> list[tuple[int, ...]]:
        """First pixels of all patches on an image of `size`, row by row."""
        return list(itertools.product(*self._each_axis(starts, size)))

    def regions(self, size: Sequence[int]) -> list[tuple[slice, ...]]:
        """Pixels of the image that each patch owns under `crop`, row by row."""
        axes = self._each_axis(owned, size)
        return [tuple(slice(*interval) for interval in place) for place in itertools.product(*axes)]

    def patches(self, image: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
        """Origin and pixels ``(C, [Z,] Y, X)`` of each patch, padded where it reaches over the edge."""
        origins = self.origins(image.shape[1:])
        stop = [max((o[axis] + p for o in origins), default=0) for axis, p in enumerate(self.patch)]
        continued = padded(image, stop, self.pad, self.fill)
        for origin in origins:
            box = tuple(slice(o, o + p) for o, p in zip(origin, self.patch, strict=True))
            yield origin, continued[(slice(None), *box)]

    def vectors(self, image: Array, model: PatchModel) -> dict[tuple[int, ...], Array]:
        """Prediction of each patch by its origin, for a model that answers ``(1, …)`` to ``(1, C, [Z,] Y, X)``."""
        return {origin: model(pixels[None])[0] for origin, pixels in self.patches(image)}

    def stitch(self, image: Array, model: PatchModel) -> Array:
        """Map of the whole image.

        Parameters
        ----------
        image
            ``(C, [Z,] Y, X)``.
        model
            From ``(1, C, [Z,] Y, X)`` to ``(1, K, [Z,] Y, X)``, or without K, at `scale`.

        Returns
        -------
        numpy.ndarray
            ``(K, [Z,] Y, X)``, or without K: of the model's dtype under `crop`, float64 where patches are blended.
        """
        size = image.shape[1:]
        answers = self.vectors(image, model)
        if not answers:
            raise ValueError("no patch fits, so that the number of channels is not known")
        stitched = self._cropped(size, answers) if self.blend == "crop" else self._blended(size, answers)
        pixels = (-(-n * self.scale.numerator // self.scale.denominator) for n in size)
        return stitched[_box(slice(n) for n in pixels)]

    def unpredicted(self, dtype: np.dtype[Any]) -> float:
        """Value of what is never predicted."""
        if self.nodata is not None:
            return self.nodata
        return float("nan") if dtype.kind == "f" else int(np.iinfo(dtype).max)

    def footprints(self, size: Sequence[int]) -> dict[tuple[int, ...], tuple[slice, ...]]:
        """Part of the map that each patch covers, clipped to the image."""
        extent = [-(-n * self.scale.numerator // self.scale.denominator) for n in size]
        return {
            origin: tuple(
                slice(int(o * self.scale), min(int((o + p) * self.scale), n))
                for o, p, n in zip(origin, self.patch, extent, strict=True)
            )
            for origin in self.origins(size)
        }

    def _each_axis(self, question: Callable[..., list[Any]], size: Sequence[int]) -> list[list[Any]]:
        each = zip(self.shape(size), self.patch, self.stride, strict=True)
        return [question(n, patch, stride, self.edge) for n, patch, stride in each]

    def _cropped(self, size: Sequence[int], answers: dict[tuple[int, ...], Array]) -> Array:
        result: Array | None = None
        for (origin, answer), region in zip(answers.items(), self.regions(size), strict=True):
            if result is None:
                result = self._empty(size, answer, answer.dtype)
                result[...] = self.unpredicted(answer.dtype)
            # Where patches hand over is rounded down to whole pixels of the map.
            there = tuple(slice(math.floor(r.start * self.scale), math.floor(r.stop * self.scale)) for r in region)
            here = tuple(slice(t.start - int(o * self.scale), t.stop - int(o * self.scale))
                         for t, o in zip(there, origin, strict=True))
            result[_box(there)] = answer[_box(here)]
        assert result is not None
        return result

    def _blended(self, size: Sequence[int], answers: dict[tuple[int, ...], Array]) -> Array:
        some = next(iter(answers.values()))
        window = weights(self.blend, some.shape[-len(self.patch):])
        total: Array = self._empty(size, some, np.float64)
        weight = np.zeros_like(total)
        for origin, answer in answers.items():
            there: list[slice] = []
            here: list[slice] = []
            for o, n, end in zip(origin, window.shape, total.shape[-window.ndim:], strict=True):
                first = int(o * self.scale)
                there.append(slice(first, min(first + n, end)))
                here.append(slice(0, min(n, end - first)))
            total[_box(there)] += answer[_box(here)].astype(np.float64) * window[_box(here)]
            weight[_box(there)] += window[_box(here)]
        with np.errstate(invalid="ignore"):
            return np.where(weight > 0, total / weight, self.unpredicted(some.dtype))

    def _empty(self, size: Sequence[int], answer: Array, dtype: Any) -> Array:
        leading = answer.shape[: answer.ndim - len(self.patch)]
        return np.zeros((*leading, *(int(n * self.scale) for n in self.shape(size))), dtype)

    def replace(self, **changes: Any) -> Oracle:
        """Copy with some of the fields changed."""
        return replace(self, **changes)


def _box(slices: Iterable[slice]) -> tuple[Any, ...]:
    """Index of a box on the last axes."""
    return (..., *slices)


def positions_in_patch(batch: Array) -> Array:
    """Model that shows who predicted a pixel: answers with each pixel's number within its patch, plus its value.

    Parameters
    ----------
    batch
        ``(N, C, [Z,] Y, X)``.

    Returns
    -------
    numpy.ndarray
        float32 of ``(N, 2, [Z,] Y, X)``: the number, and the sum of the channels and of the number.
    """
    spatial = batch.shape[2:]
    number = np.arange(math.prod(spatial), dtype=np.float32).reshape(spatial)
    number = np.broadcast_to(number, (len(batch), *spatial))
    return np.stack([number, batch.sum(axis=1, dtype=np.float32) + number], axis=1)


def smoothed(batch: Array) -> Array:
    """Model that looks around: mean of each pixel and the one before it on each axis, zero beyond the patch.

    Answers float32 of ``(N, C, [Z,] Y, X)`` to a batch of that shape. What it says of a pixel depends on the patch
    that the pixel is seen in, as it does for any network with padding.
    """
    result: Array = batch.astype(np.float32)
    for axis in range(2, batch.ndim):
        before = np.roll(result, 1, axis)
        before[(slice(None),) * axis + (0,)] = 0
        result = (result + before) / np.float32(2)
    return result
