"""Random numbers that are a function of their place, so that any block of a scene can be made without the others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Jittered", "Window", "hashed", "jittered", "mesh_noise", "texture", "upsampled"]

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class Window(NamedTuple):
    """A part of a scene, in pixels; it may reach beyond it."""

    top: int
    left: int
    height: int
    width: int

    def grown(self, margin: float) -> tuple[float, float, float, float]:
        """Top, left, bottom and right with `margin` pixels more on each side."""
        return (self.top - margin, self.left - margin, self.top + self.height + margin, self.left + self.width + margin)


_SPLINE = np.array([[1, 4, 1, 0], [-3, 0, 3, 0], [3, -6, 3, 0], [-1, 3, -3, 1]], np.float32) / 6
"""Uniform cubic B-spline: powers of the fraction (rows) times the four lattice values around it (columns)."""
_NOISE_STD = 0.277
"""Standard deviation of the spline of values that are uniform in -1 … 1; `mesh_noise` divides by it."""


def hashed(y: NDArray[np.integer], x: NDArray[np.integer], seed: int) -> Floats:
    """Numbers in 0 … 1 that depend on the integers `y`, `x` and `seed` alone.

    The finaliser is `lowbias32` of Chris Wellons' hash-prospector, applied to one coordinate after the other.
    """
    mixed = np.full(np.broadcast_shapes(y.shape, x.shape), seed & 0xFFFFFFFF, np.uint32)
    for values in (y, x):
        mixed = _scrambled(mixed + values.astype(np.int64).astype(np.uint32) * np.uint32(0x9E3779B1))
    return (mixed >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)


def _scrambled(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x21F0AAAD)
    bits = (bits ^ (bits >> np.uint32(15))) * np.uint32(0x735A2D97)
    return bits ^ (bits >> np.uint32(15))


def mesh_noise(y: Floats, x: Floats, step: float, seed: int) -> Floats:
    """Smooth noise of mean 0 and standard deviation about 1, with features of about `step` pixels.

    Parameters
    ----------
    y, x
        Coordinates of the rows and of the columns, in pixels, ascending.
    step
        Distance of the lattice on which the values are drawn.
    seed
        Which noise.

    Returns
    -------
    numpy.ndarray
        float32 of shape ``(len(y), len(x))``.
    """
    (first_y, rows), (first_x, columns) = (_spline_weights(axis, step) for axis in (y, x))
    lattice_y = np.arange(first_y, first_y + rows.shape[1])[:, None]
    lattice_x = np.arange(first_x, first_x + columns.shape[1])[None, :]
    values = 2 * hashed(lattice_y, lattice_x, seed) - 1
    return np.asarray(rows @ values @ columns.T / np.float32(_NOISE_STD), np.float32)


def _spline_weights(axis: Floats, step: float) -> tuple[int, Floats]:
    position = np.asarray(axis, np.float64) / step
    cell = np.floor(position).astype(np.int64)
    fraction = (position - cell).astype(np.float32)
    powers = np.stack([np.ones_like(fraction), fraction, fraction**2, fraction**3], 1)
    weights = np.zeros((len(axis), int(cell[-1] - cell[0]) + 4), np.float32)
    np.put_along_axis(weights, (cell - cell[0])[:, None] + np.arange(4), powers @ _SPLINE, 1)
    return int(cell[0]) - 1, weights


def upsampled(mesh: Floats, factor: int) -> Floats:
    """Linear interpolation of ``(n + 1, m + 1)`` values to `factor` times as many, ``(n * factor, m * factor)``."""
    t = np.arange(factor, dtype=np.float32) / np.float32(factor)
    wide = mesh[:, :-1, None] + (mesh[:, 1:] - mesh[:, :-1])[:, :, None] * t
    wide = wide.reshape(len(mesh), -1)
    tall = (wide[1:] - wide[:-1])[:, None, :] * t[:, None]
    tall += wide[:-1, None, :]
    return tall.reshape(-1, wide.shape[1])


class Jittered:
    """Points of a lattice of square cells, one a cell, moved at random within it.

    Attributes
    ----------
    y, x
        Coordinates in pixels, 1-D.
    """

    def __init__(self, cells: tuple[Integers, Integers], size: float, jitter: float, seed: int) -> None:
        self._cells, self._seed = cells, seed
        cell_y, cell_x = cells
        self.y = (cell_y + 0.5 + jitter * (self.random(0) - 0.5)) * np.float32(size)
        self.x = (cell_x + 0.5 + jitter * (self.random(1) - 0.5)) * np.float32(size)

    def random(self, which: int) -> Floats:
        """One number in 0 … 1 a point; another `which` gives other numbers."""
        return hashed(*self._cells, self._seed + 7919 * which)


def jittered(window: Window, margin: float, *, size: float, jitter: float, seed: int) -> Jittered:
    """Every point whose cell touches the window or the `margin` around it; cells are `size` pixels wide."""
    top, left, bottom, right = window.grown(margin)
    rows = np.arange(np.floor(top / size), np.ceil(bottom / size), dtype=np.int64)
    columns = np.arange(np.floor(left / size), np.ceil(right / size), dtype=np.int64)
    cell_y, cell_x = np.meshgrid(rows, columns, indexing="ij")
    return Jittered((cell_y.ravel(), cell_x.ravel()), size, jitter, seed)


def texture(period: int, feature: float, seed: int) -> Floats:
    """Square texture that repeats after `period` pixels: mean 0, standard deviation 1, grains of `feature` pixels."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(period)[:, None], np.fft.rfftfreq(period)[None, :])
    band = np.exp(-((frequency * feature) ** 2) * 2) * frequency
    pixels = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((period, period))) * band, s=(period, period))
    return np.asarray(pixels / pixels.std(), np.float32)
