"""Reductions of a head in NumPy, block by block so that intermediate results stay in the cache.

All take arrays viewed as ``(outer, channels, inner)``; NumPy releases the interpreter lock in each step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["argmax", "class_dtype", "half", "quantise", "score_dtype", "sigmoid", "softmax", "threshold"]

BLOCK = 1 << 16
"""Elements of a channel that are worked on at a time: 256 KB of float32."""
TOURNAMENT_CHANNELS = 64
"""Up to so many channels, comparing them pair by pair beats ``numpy.argmax`` clearly (9 times for 4 channels)."""


def class_dtype(channels: int) -> np.dtype[Any]:
    """Type of a class map: the largest value stays free for "not predicted"."""
    return np.dtype(np.uint8 if channels <= 255 else np.uint16)


def score_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Type of softmax and sigmoid: that of the scores where they are floating, else float32."""
    return dtype if np.issubdtype(dtype, np.floating) else np.dtype(np.float32)


def _work_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def _cube(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """View as ``(outer, channels, inner)``; copies only what no strides can express."""
    shape = array.shape
    return array.reshape(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))


def _blocks(cube: NDArray[Any]) -> Iterator[tuple[slice | int, ...]]:
    """Indices of blocks: along the inner axis, or along the outer one where the inner is short, as for vectors."""
    outer, _, inner = cube.shape
    if inner == 1:
        for first in range(0, outer, BLOCK):
            yield slice(first, first + BLOCK), slice(None), 0
    else:
        for i in range(outer):
            for first in range(0, inner, BLOCK):
                yield i, slice(None), slice(first, first + BLOCK)


def _channels_first(block: NDArray[Any], vectors: bool) -> NDArray[Any]:
    return block.T if vectors else block


def _scores(block: NDArray[Any], vectors: bool) -> NDArray[Any]:
    """Block to compute on: interleaved channels, whose loops are several times slower, are copied apart first."""
    return np.ascontiguousarray(_channels_first(block, vectors))


def argmax(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """Index of the largest channel as `class_dtype`, without the channel axis.

    Ties and NaN as in ``numpy.argmax``: the first one wins.
    """
    channels = array.shape[axis]
    dtype = class_dtype(channels)
    if not 2 <= channels <= TOURNAMENT_CHANNELS or array.dtype == np.float16:
        return np.argmax(array, axis=axis).astype(dtype)
    cube = _cube(array, axis)
    vectors = cube.shape[2] == 1
    out = np.empty((cube.shape[0], cube.shape[2]), dtype)
    for index in _blocks(cube):
        _tournament(_scores(cube[index], vectors), out[index[0], index[2]])
    return out.reshape(array.shape[:axis] + array.shape[axis + 1 :])


def _tournament(scores: NDArray[Any], out: NDArray[np.uint8]) -> None:
    """Argmax over the first axis.

    Later channels have larger numbers, so "the winner so far or channel c" is the maximum of two numbers; that runs in
    vector instructions, which a masked copy does not.
    """
    np.greater(scores[1], scores[0], out=out.view(np.bool_))
    best = np.maximum(scores[0], scores[1])
    wins = np.empty_like(out)
    for channel in range(2, len(scores)):
        np.greater(scores[channel], best, out=wins.view(np.bool_))
        np.multiply(wins, np.uint8(channel), out=wins)
        np.maximum(out, wins, out=out)
        np.maximum(best, scores[channel], out=best)
    if best.dtype.kind == "f" and np.isnan(np.min(best, initial=np.inf)):
        out[...] = np.argmax(scores, axis=0)


def softmax(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """Softmax over the channels, stable for large scores; of `score_dtype`."""
    cube = _cube(array, axis)
    vectors = cube.shape[2] == 1
    out = np.empty(cube.shape, score_dtype(array.dtype))
    work = _work_dtype(out.dtype)
    for index in _blocks(cube):
        scores, target = _scores(cube[index], vectors), _channels_first(out[index], vectors)
        largest = np.max(scores, axis=0)
        result = target if target.dtype == work else np.empty(target.shape, work)
        np.subtract(scores, largest, out=result, dtype=work)
        np.exp(result, out=result)
        np.divide(result, np.sum(result, axis=0), out=result)
        if result is not target:
            np.copyto(target, result, casting="unsafe")
    return out.reshape(array.shape)


def sigmoid(array: NDArray[Any]) -> NDArray[Any]:
    """1 / (1 + exp(-x)); of `score_dtype`."""
    out = np.empty(array.shape, score_dtype(array.dtype))
    work = _work_dtype(out.dtype)
    flat, target = array.reshape(-1), out.reshape(-1)
    with np.errstate(over="ignore"):  # exp of a large number is inf, and 1 / inf the right answer
        for first in range(0, flat.size, BLOCK):
            part = slice(first, first + BLOCK)
            result = np.negative(flat[part], dtype=work) if array.dtype.kind != "b" else -flat[part].astype(work)
            np.exp(result, out=result)
            np.add(result, 1, out=result)
            np.divide(1, result, out=target[part], dtype=work, casting="unsafe")
    return out


def threshold(array: NDArray[Any], limit: float) -> NDArray[np.uint8]:
    """1 where a value is above `limit`, else 0; NaN is not above anything."""
    out = np.empty(array.shape, np.uint8)
    np.greater(array, array.dtype.type(limit) if array.dtype.kind == "f" else limit, out=out.view(np.bool_))
    return out


def quantise(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Probabilities 0 to 1 as 0 to 255, rounded to nearest (ties to even) and clipped; integers are cast as they are.

    NaN becomes 0.
    """
    if array.dtype.kind != "f":
        return array.astype(np.uint8)
    out = np.empty(array.shape, np.uint8)
    work = _work_dtype(array.dtype)
    flat, target = array.reshape(-1), out.reshape(-1)
    with np.errstate(over="ignore"):  # inf is clipped
        for first in range(0, flat.size, BLOCK):
            part = slice(first, first + BLOCK)
            scaled = np.multiply(flat[part], 255, dtype=work)
            np.rint(scaled, out=scaled)
            np.fmax(scaled, 0, out=scaled)
            np.fmin(scaled, 255, out=scaled)
            np.copyto(target[part], scaled, casting="unsafe")
    return out


def half(array: NDArray[Any]) -> NDArray[np.float16]:
    """Values as float16; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return array.astype(np.float16)
