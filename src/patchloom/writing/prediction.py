"""What a caller's own loop hands over: one prediction of one sample of an image, or of a tile of it; checked."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelOutputError, PredictionError
from patchloom.geometry.axes import LOOP_AXES, check_axes, spatial_axes
from patchloom.models.model import HeadKind
from patchloom.models.outputs import to_numpy
from patchloom.predictions.dense import map_shape

__all__ = ["ImagePrediction", "ImageShape", "Sample", "checked"]


@dataclass(frozen=True, eq=False)
class ImagePrediction:
    """Prediction of one sample of an image, whole or a tile of it.

    Parameters
    ----------
    data
        ``(C, [Z,] Y, X)``, or without C: NumPy, PyTorch on any device, TensorFlow or JAX. `WriteRun` also takes numbers
        per tile, ``(K,)``.
    axes, data_shape
        Of the whole source array in its own order, such as ``"SYX"`` and ``(5, 64, 64)``. C is the source's, and
        need not be that of `data`.
    data_index
        Number of the image; what has the same number is of the same image.
    sample
        Number over S and T of the source, S outside and T inside; where `data` is 2-D and the source has Z, over Z as
        well, which is then the innermost.
    source
        Path of the image, below the folder of all images; names what is written. None where there is no file.
    start
        First pixel of a tile, (y, x) or (z, y, x); None for a whole sample.
    ndim
        Number of spatial axes of `data`, 2 or 3, for when its shape leaves that open: ``(3, Y, X)`` of a source of
        three Z is taken for a volume without channels unless `start` or this says otherwise.

    Examples
    --------
    >>> ImagePrediction(np.zeros((1, 64, 64)), axes="SYX", data_shape=(5, 64, 64), data_index=0, sample=3).sample
    3
    """

    data: Any
    axes: str
    data_shape: Sequence[int]
    data_index: int
    sample: int = 0
    source: Any = None
    start: Sequence[int] | None = None
    ndim: int | None = None

    def to(self, device: Any) -> ImagePrediction:
        """The same with its data on another device, as Lightning moves what `predict_step` returns."""
        return replace(self, data=self.data.to(device)) if hasattr(self.data, "to") else self


@dataclass(frozen=True)
class ImageShape:
    """What all predictions of one image have in common.

    Parameters
    ----------
    axes, data_shape
        Of the source.
    channels
        Of the predictions; None where they have no such axis.
    extent
        Pixels of one prediction on its spatial axes.
    dtype
        Of the predictions.
    kind
        ``dense``: pixels. ``vector``: numbers per tile, of which there are `channels`.
    """

    axes: str
    data_shape: tuple[int, ...]
    channels: int | None
    extent: tuple[int, ...]
    dtype: np.dtype[Any]
    kind: HeadKind = "dense"

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.extent)

    @cached_property
    def loop_axes(self) -> str:
        """Axes that samples are numbered over, the outermost first."""
        return "".join(axis for axis in LOOP_AXES + "Z"[: self.ndim == 2] if axis in self.axes)

    @cached_property
    def loop_shape(self) -> tuple[int, ...]:
        """Extents of `loop_axes`."""
        return tuple(self.data_shape[self.axes.index(axis)] for axis in self.loop_axes)

    @property
    def samples(self) -> int:
        """Number of samples."""
        return math.prod(self.loop_shape)

    @cached_property
    def plane(self) -> tuple[int, ...]:
        """Pixels of a sample of the source, (y, x) or (z, y, x)."""
        return tuple(self.data_shape[self.axes.index(axis)] for axis in spatial_axes(self.ndim))

    @property
    def output_axes(self) -> str:
        """Axes of what is written, in OME order; C where the predictions have it, the others where the source has."""
        channels = "" if self.channels is None else "C"
        planes = self.loop_axes.replace("Z", "")
        return planes + channels + self.loop_axes[len(planes) :] + spatial_axes(self.ndim)

    def output_shape(self, space: Sequence[int] | None = None) -> tuple[int, ...]:
        """Extents along `output_axes`, with other pixels on the spatial axes than those of the source if given."""
        extents = dict(zip(self.loop_axes, self.loop_shape, strict=True)) | {"C": self.channels or 1}
        extents |= zip(spatial_axes(self.ndim), space or self.plane, strict=True)
        return tuple(extents[axis] for axis in self.output_axes)

    def loops(self, sample: int) -> tuple[int, ...]:
        """Index of a sample on `loop_axes`."""
        return tuple(int(i) for i in np.unravel_index(sample, self.loop_shape)) if self.loop_shape else ()

    def index(self, sample: int, space: tuple[slice, ...] | None = None) -> tuple[int | slice, ...]:
        """Where a sample, or the pixels `space` of it, belongs in what is written."""
        at = dict(zip(self.loop_axes, self.loops(sample), strict=True))
        inside = space or (slice(None),) * self.ndim
        before = self.output_axes[: -self.ndim]
        return (*(at.get(axis, slice(None)) for axis in before), *inside)

    def scale(self, patch: Sequence[int]) -> tuple[Fraction, ...]:
        """Pixels of a prediction per pixel of a `patch` of the source."""
        return tuple(Fraction(out, pixels) for out, pixels in zip(self.extent, patch, strict=True))

    def map(self, patch: Sequence[int]) -> tuple[int, ...]:
        """Pixels of a predicted sample on its spatial axes, of tiles that `patch` pixels of the source make."""
        return map_shape(self.plane, self.scale(patch))

    def difference(self, other: ImageShape) -> str:
        """What two predictions of one image contradict each other in; empty where nothing."""
        for what, mine, theirs in (
            ("axes", self.axes, other.axes),
            ("data_shape", self.data_shape, other.data_shape),
            ("number of channels", self.channels, other.channels),
            ("extent", self.extent, other.extent),
            ("dtype", self.dtype, other.dtype),
            ("kind", self.kind, other.kind),
        ):
            if mine != theirs:
                return f"its {what} {mine} became {theirs}"
        return ""


@dataclass(frozen=True, eq=False)
class Sample:
    """An `ImagePrediction` that was checked.

    Parameters
    ----------
    data_index, source, sample, start
        As there; a source that is no file is empty.
    values
        ``(C, *extent)``, or without C.
    shape
        Of its image.
    """

    data_index: int
    source: str
    sample: int
    start: tuple[int, ...] | None
    values: NDArray[Any]
    shape: ImageShape

    @property
    def key(self) -> tuple[int, tuple[int, ...] | None]:
        """What no two predictions of one image share."""
        return self.sample, self.start

    def __str__(self) -> str:
        at = "" if self.start is None else f"tile at {self.start} of "
        return f"{at}sample {self.sample} of data index {self.data_index}"


def checked(prediction: ImagePrediction, patch: Sequence[int] | None = None) -> Sample:
    """Check that a prediction fits the image that it says it is of.

    Parameters
    ----------
    prediction
        Of a caller.
    patch
        Pixels of the source that a vector stands for; None where vectors are not taken.

    Raises
    ------
    PredictionError
        Naming the data index.
    """
    if not isinstance(prediction, ImagePrediction):
        raise PredictionError(
            f"a write strategy takes ImagePrediction, not {type(prediction).__name__}",
            "say of which image it is: ImagePrediction(data=…, axes=…, data_shape=…, data_index=…)",
        )
    where = f"data index {prediction.data_index}"
    try:
        data_index, sample = operator.index(prediction.data_index), operator.index(prediction.sample)
        data_shape = tuple(operator.index(n) for n in prediction.data_shape)
        start = None if prediction.start is None else tuple(operator.index(n) for n in prediction.start)
    except TypeError as error:
        raise PredictionError(f"{where}: {error}", "numbers of images, samples and pixels are whole") from None
    where = f"data index {data_index}"
    try:
        axes = check_axes(prediction.axes, data_shape)
    except (ValueError, AttributeError) as error:
        raise PredictionError(f"{where}: {error}", "axes and data_shape are those of the whole source array") from None
    if min(data_shape) < 1:
        raise PredictionError(f"{where}: data_shape {data_shape} holds no pixels", "give the shape of the source array")
    try:
        values = to_numpy(prediction.data, f"prediction of {where}")
    except ModelOutputError as error:
        raise PredictionError(error.message, error.hint) from error
    shape = _shape(prediction, where, axes, data_shape, values, start, patch)
    if not 0 <= sample < shape.samples:
        raise PredictionError(
            f"{where}: there is no sample {sample}: axes {axes} of shape {data_shape} have {shape.samples}",
            f"samples are numbered from 0 over {shape.loop_axes}" if shape.loop_axes else "its only sample is 0",
        )
    if start is not None and any(not 0 <= a < n for a, n in zip(start, shape.plane, strict=True)):
        raise PredictionError(f"{where}: a tile starts at {start}, outside of {shape.plane} pixels", "start is (y, x)")
    return Sample(data_index, _source(prediction.source), sample, start, values, shape)


def _shape(
    prediction: ImagePrediction,
    where: str,
    axes: str,
    data_shape: tuple[int, ...],
    values: NDArray[Any],
    start: tuple[int, ...] | None,
    patch: Sequence[int] | None,
) -> ImageShape:
    if values.dtype.kind not in "fiubc":
        raise PredictionError(f"{where}: data of type {values.dtype} are no pixels", "hand over numbers")
    if patch is not None and values.ndim < 2:
        ndim = len(patch)
    else:
        ndim = _spatial_axes(prediction, axes, data_shape, values, start)
        if values.ndim not in (ndim, ndim + 1):
            raise PredictionError(
                f"{where}: data of shape {values.shape} do not fit axes {axes}",
                "data are (C, Y, X) or, for a source with Z, (C, Z, Y, X): one sample at a time",
            )
    if start is not None and len(start) != ndim:
        raise PredictionError(
            f"{where}: start {start} does not fit data of shape {values.shape}", "start is (y, x), 3-D (z, y, x)"
        )
    if not values.size:
        raise PredictionError(f"{where}: data of shape {values.shape} hold no pixels", "hand over the prediction")
    if patch is not None and values.ndim < 2:
        count = values.size if values.ndim else None
        return ImageShape(axes, data_shape, count, tuple(patch), values.dtype, "vector")
    channels = values.shape[0] if values.ndim > ndim else None
    return ImageShape(axes, data_shape, channels, values.shape[values.ndim - ndim :], values.dtype)


def _spatial_axes(
    prediction: ImagePrediction,
    axes: str,
    data_shape: tuple[int, ...],
    values: NDArray[Any],
    start: tuple[int, ...] | None,
) -> int:
    """Whether Z is an axis of the data, or one that samples are numbered over."""
    if prediction.ndim is not None:
        if prediction.ndim not in (2, 3) or "Z" * (prediction.ndim - 2) not in axes:
            raise PredictionError(
                f"data index {prediction.data_index}: no data of {prediction.ndim} spatial axes are of axes {axes}",
                "ndim is 2, or 3 where the source has Z",
            )
        return prediction.ndim
    if "Z" not in axes or values.ndim < 3:
        return 2
    if values.ndim > 3:
        return 3
    if start is not None:
        return 3 if len(start) == 3 else 2
    return 3 if values.shape[0] == data_shape[axes.index("Z")] else 2


def _source(source: Any) -> str:
    return "" if source is None else str(source)
