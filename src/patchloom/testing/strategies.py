"""Hypothesis strategies for grids, sources of the shapes at which arithmetic goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from hypothesis import strategies as st

from patchloom.geometry.grid import Edge, Grid, GridAxis
from patchloom.testing.oracle import Oracle

__all__ = ["EDGES", "Layout", "axes", "extents", "grids", "intervals", "layouts"]

EDGES: tuple[Edge, ...] = get_args(Edge)
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59)


def extents(largest: int = 60) -> st.SearchStrategy[int]:
    """Pixels on an axis: one, primes, anything up to `largest`."""
    primes = [prime for prime in PRIMES if prime <= largest]
    return st.one_of(st.just(1), st.sampled_from(primes), st.integers(1, largest))


@dataclass(frozen=True)
class Layout:
    """Where patches go, in plain numbers, one an axis."""

    size: tuple[int, ...]
    patch: tuple[int, ...]
    stride: tuple[int, ...]
    edge: Edge

    @property
    def grid(self) -> Grid:
        """The grid that is tested."""
        return Grid.of(self.size, self.patch, self.stride, edge=self.edge)

    @property
    def oracle(self) -> Oracle:
        """The naive twin of the grid."""
        return Oracle(self.patch, self.stride, self.edge)


@st.composite
def layouts(draw: st.DrawFn, ndims: tuple[int, ...] = (2, 3), largest: int | None = None) -> Layout:
    """Layouts of all edges: images below a patch, strides below, at and above the patch, in `ndims` dimensions."""
    ndim = draw(st.sampled_from(ndims))
    largest = largest or {1: 60, 2: 24, 3: 10}[ndim]
    size = tuple(draw(extents(largest)) for _ in range(ndim))
    patch = tuple(draw(extents(max(3, largest // 2))) for _ in range(ndim))
    stride = tuple(draw(st.one_of(st.just(p), st.integers(1, p), st.integers(p, p + 5))) for p in patch)
    return Layout(size, patch, stride, draw(st.sampled_from(EDGES)))


@st.composite
def axes(draw: st.DrawFn, largest: int = 60) -> GridAxis:
    """Axes of a grid; see `layouts`."""
    layout = draw(layouts((1,), largest))
    return layout.grid.axes[0]


@st.composite
def grids(draw: st.DrawFn, ndims: tuple[int, ...] = (2, 3)) -> Grid:
    """Grids; see `layouts`."""
    return draw(layouts(ndims)).grid


@st.composite
def intervals(draw: st.DrawFn, size: int) -> tuple[int, int]:
    """Pixels ``[first, stop)`` of an axis of `size`; may be empty, and reach over the end as patches do."""
    first = draw(st.integers(0, size + 3))
    return first, draw(st.integers(first, size + 6))
