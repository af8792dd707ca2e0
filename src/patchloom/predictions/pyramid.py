"""Reduced copies of maps: the mean of 2 x 2 pixels for scores, the nearest pixel for classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["halve", "level_shapes"]

SMALLEST = 512
"""Levels are made until Y and X are no longer than this."""


def level_shapes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Spatial shapes of all levels, level 0 first; Y and X are halved and rounded up, Z stays.

    Examples
    --------
    >>> level_shapes((1500, 700))
    ((1500, 700), (750, 350), (375, 175))
    """
    shapes = [shape]
    while max(shapes[-1][-2:]) > SMALLEST:
        *depth, height, width = shapes[-1]
        shapes.append((*depth, -(-height // 2), -(-width // 2)))
    return tuple(shapes)


def halve(block: NDArray[Any], *, classes: bool) -> NDArray[Any]:
    """Block of the next level.

    Parameters
    ----------
    block
        ``(..., Y, X)``; odd extents are rounded up, the last row or column then standing for itself.
    classes
        Take the nearest pixel instead of the mean.

    Returns
    -------
    numpy.ndarray
        Of the same dtype. Means are computed in float32 (float64 for float64) and rounded for integers. NaN stays NaN.
    """
    if classes:
        return block[..., ::2, ::2]
    values = block if block.dtype in (np.float32, np.float64) else block.astype(np.float32)
    for axis in (-2, -1):
        if values.shape[axis] % 2:
            last = values[..., -1:, :] if axis == -2 else values[..., -1:]
            values = np.concatenate([values, last], axis)
    rows = values[..., 0::2, :] + values[..., 1::2, :]
    means = rows[..., 0::2] + rows[..., 1::2]
    means *= 0.25
    return means if means.dtype == block.dtype else _cast(means, block.dtype)


def _cast(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    return (np.rint(values) if dtype.kind in "iu" else values).astype(dtype)
