"""How overlapping predictions become one: windows, normalised so that they sum to 1 at every pixel."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.grid import Grid

__all__ = ["Blend", "BlendWeights", "window"]

Blend = Literal["crop", "constant", "gaussian", "hann"]

GAUSSIAN_SIGMA = 0.125
"""Standard deviation of the `gaussian` window as a part of the patch."""
GAUSSIAN_FLOOR = 1e-3
"""Least weight of the `gaussian` window."""
CACHE_BYTES = 64 << 20


def window(blend: Blend, shape: Sequence[int]) -> NDArray[np.float64]:
    r"""Weights of one patch before they are normalised.

    Parameters
    ----------
    blend
        `constant` is 1. `gaussian` is :math:`\exp(-x^2 / 2 \sigma^2)` about the centre of the patch with
        :math:`\sigma = 0.125` of the patch, the product over the axes floored at 0.001, as MONAI's
        ``compute_importance_map`` defines it. `hann` is :math:`\sin^2(\pi (i + 0.5) / n)`, sampled in the middle of
        pixels so that no weight is zero.
    shape
        Pixels of a patch on each axis.

    Returns
    -------
    numpy.ndarray
        float64 of `shape`, positive everywhere.
    """
    if blend not in get_args(Blend) or blend == "crop":
        raise ValueError(f"no window for blend {blend!r}")
    weights = np.ones(())
    for n in shape:
        weights = weights[..., None] * _profile(blend, n)
    if blend == "gaussian":
        weights = np.maximum(weights, max(float(weights.min()), GAUSSIAN_FLOOR))
    return weights


def _profile(blend: Blend, n: int) -> NDArray[np.float64]:
    if blend == "gaussian":
        distance = np.arange(n) - (n - 1) / 2
        return np.exp(-(distance**2) / (2 * (GAUSSIAN_SIGMA * n) ** 2))
    if blend == "hann":
        return np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2
    return np.ones(n)


class BlendWeights:
    """Weights of each patch of a grid, divided by the sum of the weights of all patches at a pixel.

    Most patches have the same neighbours at the same distances, hence the same weights: these are computed once for
    each such arrangement and kept, so that stitching is one multiplication and one addition, and nothing is
    divided at the end.

    Parameters
    ----------
    grid
        Grid of the head, in the head's pixels.
    blend
        A weighted blend.
    """

    def __init__(self, grid: Grid, blend: Blend) -> None:
        self._grid = grid
        self._window = window(blend, grid.patch)
        self._cache: OrderedDict[tuple[tuple[int, ...], ...], NDArray[np.float32]] = OrderedDict()
        self._capacity = max(4, CACHE_BYTES // (4 * self._window.size))
        self._lock = Lock()

    def __call__(self, place: Sequence[int]) -> NDArray[np.float32]:
        """Weights of the patch at `place`: float32 of the patch's shape."""
        key = tuple(self._neighbours(axis, i) for axis, i in enumerate(place))
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        weights = self._normalised(key)
        with self._lock:
            self._cache[key] = weights
            while len(self._cache) > self._capacity:
                self._cache.popitem(last=False)
        return weights

    def _neighbours(self, axis: int, i: int) -> tuple[int, ...]:
        line = self._grid.axes[axis]
        start = line.start(i)
        return tuple(line.start(j) - start for j in line.covering(start, start + line.patch))

    def _normalised(self, offsets: tuple[tuple[int, ...], ...]) -> NDArray[np.float32]:
        total = np.zeros_like(self._window)
        for offset in itertools.product(*offsets):
            here = tuple(slice(max(0, o), n + min(0, o)) for o, n in zip(offset, total.shape, strict=True))
            there = tuple(slice(max(0, -o), n + min(0, -o)) for o, n in zip(offset, total.shape, strict=True))
            total[here] += self._window[there]
        return (self._window / total).astype(np.float32)
