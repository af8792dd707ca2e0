"""The few array operations that NumPy and PyTorch do differently, so that each is spoken to in its own words.

PyTorch is looked at only if the user has imported it. Arrays that NumPy understands (those of JAX, eager tensors of
TensorFlow, nested lists) are taken as NumPy arrays.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from patchloom.config import Pad
from patchloom.engine.reading import source_pixels
from patchloom.errors import UsageError
from patchloom.predictions import dense

__all__ = [
    "Array",
    "as_array",
    "blank",
    "cast",
    "default_nodata",
    "divided",
    "empty",
    "fitting",
    "integers",
    "integers_like",
    "is_array",
    "permuted",
    "repeated",
    "result_dtype",
    "strip",
    "sums_dtype",
    "torch_of",
    "weighted",
    "windows",
    "with_nodata",
]

Array: TypeAlias = Any
"""A NumPy array or a PyTorch tensor."""


def torch_of(value: object) -> Any:
    """The module `torch` if `value` is one of its tensors, else None."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(value, torch.Tensor) else None


def is_array(value: object) -> bool:
    """Whether `value` is a NumPy array, a tensor, or anything else that has a shape and becomes an array."""
    return hasattr(value, "shape") and (hasattr(value, "__array__") or torch_of(value) is not None)


def as_array(value: Any, what: str) -> Array:
    """Tensors and NumPy arrays as they are, anything else as a NumPy array.

    Raises
    ------
    UsageError
        If it is no array of numbers; `what` begins the message.
    """
    if torch_of(value) is not None:
        return value
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{what} cannot be made an array: {error}", "give an array or a tensor") from error
    if array.dtype.kind in "OUSMm":
        raise UsageError(f"{what} is a {type(value).__name__}, not an array of numbers", "give an array or a tensor")
    # NumPy does not have bfloat16, which JAX has.
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def integers(value: Any, what: str) -> NDArray[np.int64]:
    """Whole numbers in a list, array or tensor of any device, as NumPy int64.

    Raises
    ------
    UsageError
        If there are others; `what` begins the message.
    """
    tensor = torch_of(value) is not None
    if not tensor and isinstance(value, Sequence):
        value = [row.tolist() if is_array(row) else row for row in value]
    array = value.detach().cpu().numpy() if tensor else as_array(value, what)
    if array.size and array.dtype.kind not in "iu":
        raise UsageError(f"{what} are {array.dtype}, not whole numbers")
    return np.asarray(array, np.int64)


def integers_like(values: NDArray[np.int64], like: Array) -> Array:
    """`values` as what `like` is: NumPy int64, or a tensor of int64 on the same device."""
    torch = torch_of(like)
    return values if torch is None else torch.as_tensor(values, device=like.device)


def windows(array: Array, axis: int, length: int, step: int) -> Array:
    """View of all windows of `length` at multiples of `step`: `axis` counts them, a new last axis is within them."""
    if torch_of(array) is not None:
        return array.unfold(axis, length, step)
    every = np.lib.stride_tricks.sliding_window_view(array, length, axis, writeable=True)
    return every[_along(axis, slice(None, None, step))]


def strip(array: Array, axis: int, start: int, length: int, pad: Pad, fill: float) -> Array:
    """Pixels ``[start, start + length)`` of an axis: a view, or a copy that is padded where it reaches over an edge."""
    pixels = source_pixels(start, length, array.shape[axis], pad)
    if pixels is None:
        return array[_along(axis, slice(start, start + length))]
    torch = torch_of(array)
    if torch is None:
        padded = np.take(array, np.maximum(pixels, 0), axis)
    else:
        padded = array.index_select(axis, torch.as_tensor(np.maximum(pixels, 0), device=array.device))
    inside = np.flatnonzero(pixels >= 0)
    for outside in (slice(0, inside[0]), slice(inside[-1] + 1, length)):
        if outside.start < outside.stop:
            padded[_along(axis, outside)] = fitting(fill, array, "fill")
    return padded


def permuted(array: Array, axes: Sequence[int]) -> Array:
    """View with the axes in another order."""
    return array.transpose(axes) if torch_of(array) is None else array.permute(*axes)


def empty(like: Array, shape: Sequence[int]) -> Array:
    """Array of the kind, dtype and device of `like` with arbitrary content."""
    return np.empty(shape, like.dtype) if torch_of(like) is None else like.new_empty(tuple(shape))


def blank(like: Array, shape: Sequence[int], value: float, dtype: Any) -> Array:
    """Array of the kind and device of `like`, `value` everywhere."""
    if torch_of(like) is None:
        return np.full(shape, value, dtype)
    return like.new_full(tuple(shape), value, dtype=dtype)


def repeated(array: Array, times: int) -> Array:
    """Each row of the first axis `times` times in a row: a copy, the array itself where once is enough."""
    if times == 1:
        return array
    return np.repeat(array, times, 0) if torch_of(array) is None else array.repeat_interleave(times, 0)


def cast(array: Array, dtype: Any) -> Array:
    """Same values in another dtype; the array itself where it is of that dtype."""
    return array.astype(dtype, copy=False) if torch_of(array) is None else array.to(dtype)


def sums_dtype(array: Array) -> Any:
    """What predictions are added up in: float32, or their own dtype if it is wider."""
    return array.dtype if _is_inexact(array) and array.dtype.itemsize >= 8 else (torch_of(array) or np).float32


def result_dtype(array: Array) -> Any:
    """What a weighted sum of predictions is given in: the dtype of the predictions, float32 for whole numbers."""
    return array.dtype if _is_inexact(array) else (torch_of(array) or np).float32


def weighted(values: Array, weights: NDArray[np.float32], dtype: Any) -> Array:
    """Product in `dtype`; the weights follow the values to their device."""
    torch = torch_of(values)
    return cast(values, dtype) * (weights if torch is None else torch.as_tensor(weights, device=values.device))


def divided(values: Array, divisor: NDArray[np.float32]) -> Array:
    """Quotient; the divisor follows the values to their device."""
    torch = torch_of(values)
    return values / (divisor if torch is None else torch.as_tensor(divisor, device=values.device))


def with_nodata(array: Array, covered: NDArray[np.bool_], nodata: float) -> Array:
    """`nodata` wherever nothing is covered; `covered` broadcasts to the array."""
    torch = torch_of(array)
    if torch is None:
        return np.where(covered, array, np.asarray(nodata).astype(array.dtype))
    return array.masked_fill(~torch.as_tensor(covered, device=array.device), nodata)


def default_nodata(array: Array) -> float | int:
    """Value of what was never predicted: NaN for floats, the largest value of an integer type, 0 for bool."""
    if _is_inexact(array):
        return float("nan")
    torch = torch_of(array)
    if torch is None:
        return dense.default_nodata(array.dtype)
    return 0 if array.dtype == torch.bool else int(torch.iinfo(array.dtype).max)


def fitting(value: float, array: Array, what: str) -> float | int:
    """`value` as a number that the dtype of `array` can hold.

    Raises
    ------
    UsageError
        If it cannot; `what` begins the message.
    """
    torch = torch_of(array)
    if _is_inexact(array):
        return value
    framework = np if torch is None else torch
    limits = None if array.dtype == framework.bool else framework.iinfo(array.dtype)
    low, high = (0, 1) if limits is None else (limits.min, limits.max)
    if not low <= value <= high or value != int(value):
        name = str(array.dtype).removeprefix("torch.")
        raise UsageError(f"{what} {value} is no value of {name}", f"give a whole number from {low} to {high}")
    return int(value)


def _is_inexact(array: Array) -> bool:
    if torch_of(array) is None:
        return bool(np.issubdtype(array.dtype, np.inexact))
    return bool(array.is_floating_point() or array.is_complex())


def _along(axis: int, index: Any) -> tuple[Any, ...]:
    return (*[slice(None)] * axis, index)
