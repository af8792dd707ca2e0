"""What happens to pixels before the model and to its answers after it, declared rather than programmed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelInputError, UsageError
from patchloom.models import kernels

__all__ = ["EVERY_HEAD", "Preprocess", "Reduce", "Reduction", "ReductionName", "Steps", "parse_reduce"]

ReductionName = Literal["softmax", "sigmoid", "argmax", "threshold", "uint8", "float16"]
EVERY_HEAD = "*"
"""Key of `Steps.reduce` for heads that are not named in it."""


@dataclass(frozen=True)
class Preprocess:
    """x / scale, then (x - mean) / std, in float32; what is None is left out.

    Parameters
    ----------
    scale
        Pixels are divided by it.
    mean, std
        One number for all channels, or one a channel.

    Examples
    --------
    >>> pixels = np.full((1, 2, 2), 51, np.uint8)
    >>> out = np.empty((1, 2, 2), np.float32)
    >>> Preprocess(255.0).into(pixels, out)
    >>> float(out[0, 0, 0])
    0.20000000298023224
    """

    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None:
                numbers = (value,) if isinstance(value, (int, float)) else tuple(value)
                object.__setattr__(self, name, tuple(float(number) for number in numbers))
        for name, value in (("scale", self.scale), ("std", self.std)):
            if value is not None and 0 in (value if isinstance(value, tuple) else (value,)):
                raise UsageError(f"{name} cannot be 0", "pixels are divided by it")

    @property
    def changes_values(self) -> bool:
        """Whether any of the three is given."""
        return self.scale is not None or self.mean is not None or self.std is not None

    def check(self, channels: int) -> None:
        """Raise UsageError unless `mean` and `std` have one number, or one for each of `channels`."""
        for name, value in (("mean", self.mean), ("std", self.std)):
            if value is not None and len(value) not in (1, channels):
                plural = "" if channels == 1 else "s"
                raise UsageError(
                    f"{name} has {len(value)} numbers, and the patches have {channels} channel{plural}",
                    f"give one number, or {channels}",
                )

    def output_dtype(self, image_dtype: Any, model_dtype: Any = None) -> np.dtype[Any]:
        """Type of the batch that the model gets.

        Parameters
        ----------
        image_dtype
            Of the pixels.
        model_dtype
            Of the input that the model declares, or None.

        Raises
        ------
        ModelInputError
            If the model takes integers that cannot hold the image's values or the results of preprocessing.
        """
        image = np.dtype(image_dtype)
        model = None if model_dtype is None else np.dtype(model_dtype)
        if model is None:
            return np.dtype(np.float32) if self.changes_values else image
        if model.kind == "f":
            return model
        if self.changes_values:
            raise ModelInputError(
                f"the model takes {model} pixels, and scale, mean and std make them float32",
                "leave out scale, mean and std for this model",
            )
        if not np.can_cast(image, model, "safe"):
            raise ModelInputError(f"the model takes {model} pixels, and the image has {image}", "convert the images")
        return model

    def into(self, pixels: NDArray[Any], out: NDArray[Any], channel_axis: int = 0) -> None:
        """Write preprocessed `pixels` into `out`.

        Parameters
        ----------
        pixels
            ``(C, [Z,] Y, X)`` or another place of the channels; any strides, any real dtype.
        out
            Of the same shape: a part of a batch, whose memory may be in another order.
        channel_axis
            Where the channels are, in both.

        Raises
        ------
        UsageError
            If `mean` or `std` fit another number of channels.
        """
        self.check(pixels.shape[channel_axis])
        if not self.changes_values:
            np.copyto(out, pixels, casting="unsafe")
            return
        result = out if out.dtype == np.float32 else np.empty_like(out, dtype=np.float32)
        if self.scale is None:
            np.copyto(result, pixels, casting="unsafe")
        else:
            np.divide(pixels, np.float32(self.scale), out=result, dtype=np.float32, casting="unsafe")
        self._normalise(result, channel_axis % result.ndim)
        if result is not out:
            with np.errstate(over="ignore"):  # float16 has inf for what is too large
                np.copyto(out, result, casting="unsafe")

    def _normalise(self, result: NDArray[np.float32], channel_axis: int) -> None:
        if self._mean is None and self._std is None:
            return
        steps: tuple[tuple[np.ufunc, NDArray[np.float32] | None], ...]
        steps = ((np.subtract, self._mean), (np.divide, self._std))
        # Where channels are interleaved in memory, rows of channels are three or so elements long and NumPy's loops
        # crawl; seen as rows of X * C elements, with the numbers repeated, they run at full speed.
        interleaved = np.moveaxis(result, channel_axis, -1)
        rows = interleaved.flags.c_contiguous and result.ndim > 1 and interleaved.shape[-1] > 1
        length = interleaved.shape[-2] if rows else 1
        for operation, numbers in steps:
            if numbers is None:
                continue
            if numbers.size == 1:
                operation(result, numbers[0], out=result)
            elif rows:
                view = interleaved.reshape(-1, length * numbers.size)
                operation(view, np.tile(numbers, length), out=view)
            else:
                operation(result, numbers.reshape((-1,) + (1,) * (result.ndim - 1 - channel_axis)), out=result)

    @cached_property
    def _mean(self) -> NDArray[np.float32] | None:
        return None if self.mean is None else np.array(self.mean, np.float32)

    @cached_property
    def _std(self) -> NDArray[np.float32] | None:
        return None if self.std is None else np.array(self.std, np.float32)


@dataclass(frozen=True)
class Reduction:
    """One step that makes an answer smaller or turns scores into probabilities.

    Parameters
    ----------
    name
        Which one.
    limit
        Of `threshold`.
    """

    name: ReductionName
    limit: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Reduction:
        """``argmax``, ``threshold:0.5``, …; UsageError names what is understood."""
        name, colon, value = text.strip().partition(":")
        if name not in get_args(ReductionName) or bool(colon) != (name == "threshold"):
            raise UsageError(
                f"reduce: {text!r} is no reduction", "softmax, sigmoid, argmax, threshold:0.5, uint8 or float16"
            )
        try:
            return cls(name, float(value) if colon else 0.0)  # type: ignore[arg-type]
        except ValueError:
            raise UsageError(f"reduce: {value!r} in {text!r} is no number", "write threshold:0.5") from None

    @property
    def over_channels(self) -> bool:
        """Whether it needs all channels of a pixel at once."""
        return self.name in ("softmax", "argmax")

    def __str__(self) -> str:
        return f"threshold:{self.limit:g}" if self.name == "threshold" else self.name


_POINTWISE: dict[str, Callable[[NDArray[Any], float], NDArray[Any]]] = {
    "sigmoid": lambda array, _: kernels.sigmoid(array),
    "threshold": kernels.threshold,
    "uint8": lambda array, _: kernels.quantise(array),
    "float16": lambda array, _: kernels.half(array),
}
_OVER_CHANNELS = {"softmax": kernels.softmax, "argmax": kernels.argmax}


@dataclass(frozen=True)
class Reduce:
    """Reductions of one head, in order. Each looks at one pixel (with its channels) only, never at its neighbours.

    So they commute with cropping and may run before stitching where every output value comes from one patch.

    Examples
    --------
    >>> scores = np.array([[0.5, 2.0], [3.0, 1.0]], np.float32)
    >>> Reduce.of("softmax", "argmax")(scores, channel_axis=1)
    array([1, 0], dtype=uint8)
    """

    steps: tuple[Reduction, ...] = ()

    @classmethod
    def of(cls, *texts: str) -> Reduce:
        """Reductions from texts such as ``"sigmoid"``, ``"threshold:0.5"``."""
        return cls(tuple(Reduction.parse(text) for text in texts))

    def __bool__(self) -> bool:
        return bool(self.steps)

    def __str__(self) -> str:
        return ",".join(map(str, self.steps))

    @property
    def drops_channels(self) -> bool:
        """Whether the result has no channel axis any more."""
        return any(step.name == "argmax" for step in self.steps)

    def __call__(self, array: NDArray[Any], channel_axis: int | None = 1) -> NDArray[Any]:
        """Reduce an array.

        Parameters
        ----------
        array
            Any number of axes; it is not written to. Without steps it is returned itself.
        channel_axis
            Where the channels are (1 in a batch, 0 in a stitched band), or None where there are none.

        Raises
        ------
        UsageError
            If `softmax` or `argmax` finds no channel axis.
        """
        if channel_axis is not None:
            channel_axis %= array.ndim
        for step in self.steps:
            if step.over_channels:
                array = _OVER_CHANNELS[step.name](array, self._axis(channel_axis, step))
                channel_axis = None if step.name == "argmax" else channel_axis
            else:
                array = _POINTWISE[step.name](array, step.limit)
        return array

    def output(
        self, shape: tuple[int, ...], dtype: Any, classes: tuple[str, ...]
    ) -> tuple[tuple[int, ...], np.dtype[Any], tuple[str, ...]]:
        """Shape, dtype and classes that come out, without running anything.

        Parameters
        ----------
        shape
            Of one patch's prediction without the batch axis, channels first.
        dtype
            Of the prediction.
        classes
            Names of its channels; empty where it has no channel axis.

        Raises
        ------
        UsageError
            If `softmax` or `argmax` finds no channel axis.
        """
        dtype = np.dtype(dtype)
        channels = len(classes)
        for step in self.steps:
            if step.over_channels:
                self._axis(0 if classes else None, step)
            if step.name == "argmax":
                shape, dtype, classes = shape[1:], kernels.class_dtype(channels), ()
            elif step.name in ("softmax", "sigmoid"):
                dtype = kernels.score_dtype(dtype)
            else:
                dtype = np.dtype(np.float16 if step.name == "float16" else np.uint8)
        return shape, dtype, classes

    def _axis(self, axis: int | None, step: Reduction) -> int:
        if axis is None:
            raise UsageError(
                f"reduce: {step.name} needs a channel axis, and there is none at that point",
                "the model gives one value a pixel or patch, or an argmax came before; use sigmoid or threshold:0.5",
            )
        return axis


def parse_reduce(texts: Iterable[str], head_names: Iterable[str]) -> dict[str, Reduce]:
    """Reductions of each head from texts such as ``["softmax"]`` or ``["map=argmax", "score=sigmoid"]``.

    Parameters
    ----------
    texts
        Steps in order; those without ``HEAD=`` are for all heads. A text may hold several, separated by commas.
    head_names
        Heads of the model.

    Returns
    -------
    dict
        A `Reduce` for each head, empty for those that nothing applies to.

    Raises
    ------
    UsageError
        If a step or a head does not exist.
    """
    steps: dict[str, list[Reduction]] = {name: [] for name in head_names}
    for text in (part for whole in texts for part in whole.split(",") if part.strip()):
        name, equals, step = text.strip().rpartition("=")
        name = name.strip()
        if equals and name not in steps:
            raise UsageError(f"reduce: the model has no head {name!r}", f"its heads: {', '.join(steps)}")
        for head in [name] if equals else list(steps):
            steps[head].append(Reduction.parse(step))
    return {name: Reduce(tuple(found)) for name, found in steps.items()}


@dataclass(frozen=True)
class Steps:
    """All declared steps around a model.

    Parameters
    ----------
    preprocess
        Of pixels.
    reduce
        Of heads, by name; `EVERY_HEAD` stands for those that are not named.
    """

    preprocess: Preprocess = Preprocess()
    reduce: Mapping[str, Reduce] = field(default_factory=dict)

    def reduction(self, head: str) -> Reduce:
        """Reductions of one head."""
        found = self.reduce.get(head)
        return self.reduce.get(EVERY_HEAD, Reduce()) if found is None else found
