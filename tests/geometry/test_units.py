"""Units cut a plane without gaps, and along the shards of every map."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchloom.geometry.grid import Grid
from patchloom.geometry.units import CHUNKS_A_UNIT, UnitLayout, chunk_extents, dense_unit, table_unit
from patchloom.testing.strategies import Layout, layouts

SCALES = st.sampled_from([Fraction(1), Fraction(2), Fraction(4), Fraction(1, 2), Fraction(1, 3), Fraction(1, 4)])


@st.composite
def unit_layouts(draw: st.DrawFn) -> UnitLayout:
    """Planes of one pixel to a few units on each axis."""
    ndim = draw(st.integers(2, 3))
    side = st.integers(1, 40 if ndim == 2 else 12)
    return UnitLayout(tuple(draw(side) for _ in range(ndim)), tuple(draw(side) for _ in range(ndim)))


@given(unit_layouts())
def test_units_of_all_sweeps_hold_each_pixel_once(layout: UnitLayout) -> None:
    units = np.zeros(layout.shape, int)
    regions = [region for across in layout.sweeps() for region in layout.sweep(across)]
    for region in regions:
        assert region.size > 0
        units[region.slices] += 1
    assert (units == 1).all()
    assert len(regions) == len(layout) == math.prod(layout.counts)


@given(unit_layouts())
def test_a_sweep_goes_down_from_the_first_row_to_the_last(layout: UnitLayout) -> None:
    for across in layout.sweeps():
        sweep = list(layout.sweep(across))
        assert sweep[0].start[0] == 0
        assert sweep[-1].stop[0] == layout.shape[0]
        assert all(a.stop[0] == b.start[0] and a.start[1:] == b.start[1:] for a, b in itertools.pairwise(sweep))


@given(unit_layouts(), st.data())
def test_a_unit_starts_at_a_multiple_of_its_extent(layout: UnitLayout, data: st.DataObject) -> None:
    index = tuple(data.draw(st.integers(0, n - 1)) for n in layout.counts)
    region = layout.region(index)
    assert region.start == tuple(i * u for i, u in zip(index, layout.unit, strict=True))
    assert region in list(layout.sweep(index[1:]))


def test_a_plane_of_a_million_pixels_a_side_has_units_without_being_listed() -> None:
    layout = UnitLayout((10**6, 10**6), (512, 8192))
    assert len(layout) == 1954 * 123
    assert layout.region((1953, 122)).stop == (10**6, 10**6)
    assert next(layout.sweep((122,))).start == (0, 122 * 8192)


@given(
    st.integers(2, 3),
    st.lists(SCALES, min_size=1, max_size=3),
    st.one_of(st.none(), st.integers(1, 20_000)),
    st.data(),
)
def test_a_dense_unit_is_whole_even_numbers_of_chunks_of_every_map(
    ndim: int, scales: list[Fraction], memory_width: int | None, data: st.DataObject
) -> None:
    unit = dense_unit(ndim, [(scale,) * ndim for scale in scales], memory_width)
    assert len(unit) == ndim
    for scale in scales:
        pixels = [n * scale for n in unit]
        assert all(n.denominator == 1 for n in pixels), "a unit ends between two pixels of a map"
        part = tuple(int(n) for n in pixels)
        shape = tuple(data.draw(st.integers(1, 3 * n + 5)) for n in part)
        chunks = chunk_extents(shape, part)
        for n, extent, chunk in zip(shape, part, chunks, strict=True):
            assert 1 <= chunk <= n
            if n > chunk:
                assert chunk % 2 == 0, "a reduced level would cut a pixel in two"
            if n > extent:
                assert extent % (CHUNKS_A_UNIT * chunk) == 0, "a unit ends within a shard"


@given(st.integers(2, 3), SCALES, st.integers(1, 10_000))
def test_less_memory_makes_no_unit_wider(ndim: int, scale: Fraction, memory_width: int) -> None:
    free = dense_unit(ndim, [(scale,) * ndim])
    bound = dense_unit(ndim, [(scale,) * ndim], memory_width)
    assert all(a <= b for a, b in zip(bound, free, strict=True))


def test_units_of_plain_maps_are_two_chunks_high_and_as_wide_as_memory_allows() -> None:
    assert dense_unit(2, [(Fraction(1),) * 2]) == (512, 8192)
    assert dense_unit(2, [(Fraction(1),) * 2], 3000) == (512, 3072)
    assert dense_unit(2, [(Fraction(1, 4),) * 2]) == (2048, 32768)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5000, 9000), (256, 256)),
        ((300, 200), (150, 200)),
        ((1, 1), (1, 1)),
        ((256, 256), (256, 256)),
        ((257, 511), (130, 256)),
    ],
)
def test_small_maps_get_chunks_that_they_fill(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert chunk_extents(shape, (512, 8192)) == expected


@given(layouts())
def test_a_table_unit_ends_between_two_patches(layout: Layout) -> None:
    grid = layout.grid
    unit = table_unit(grid)
    assert all(n % axis.stride == 0 and n >= axis.stride for n, axis in zip(unit, grid.axes, strict=True))


@pytest.mark.parametrize("shape", [(10**6, 10**6), (100, 10**6), (10**6, 100)])
def test_a_table_unit_of_a_large_image_has_some_thousand_patches(shape: tuple[int, int]) -> None:
    grid = Grid.of(shape, 256)
    unit = table_unit(grid)
    patches = math.prod(min(-(-n // axis.stride), axis.count) for n, axis in zip(unit, grid.axes, strict=True))
    assert patches <= 5000


@given(layouts())
def test_each_patch_belongs_to_one_table_unit(layout: Layout) -> None:
    grid = layout.grid
    units = UnitLayout(layout.size, tuple(max(1, n // 1) for n in layout.stride))
    numbers = [0] * len(grid)
    for across in units.sweeps():
        for region in units.sweep(across):
            for place in itertools.product(*grid.starting_in(region)):
                numbers[grid[place].index] += 1
    assert numbers == [1] * len(grid)
