"""Grids in two and three dimensions against the oracle."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchloom.geometry.grid import Grid, Patch
from patchloom.geometry.region import Region
from patchloom.testing.strategies import Layout, intervals, layouts


@given(layouts())
def test_patches_come_row_by_row_at_the_origins_of_the_oracle(layout: Layout) -> None:
    patches = list(layout.grid)
    assert [patch.region.start for patch in patches] == layout.oracle.origins(layout.size)
    assert {patch.region.shape for patch in patches} <= {layout.patch}
    assert [patch.index for patch in patches] == list(range(len(layout.grid)))


@given(layouts())
def test_number_place_and_origin_lead_to_the_same_patch(layout: Layout) -> None:
    grid = layout.grid
    for patch in grid:
        assert grid[patch.index] == grid[patch.place] == patch
        assert grid[patch.index - len(grid)] == patch
        assert grid.place_of(patch.index) == patch.place
        assert grid.index_of(patch.region.start) == patch.index


@given(layouts(), st.data())
def test_a_pixel_at_which_no_patch_starts_has_no_patch(layout: Layout, data: st.DataObject) -> None:
    pixel = tuple(data.draw(st.integers(-2, n + 2)) for n in layout.size)
    origins = layout.oracle.origins(layout.size)
    assert layout.grid.index_of(pixel) == (origins.index(pixel) if pixel in origins else None)


@given(layouts())
def test_numbers_and_places_beyond_the_grid_are_index_errors(layout: Layout) -> None:
    grid = layout.grid
    beyond = (len(grid), -len(grid) - 1, grid.counts, (-1,) * len(grid.counts), (0,))
    for key in beyond:
        with pytest.raises(IndexError):
            grid[key]


@given(layouts())
def test_each_patch_owns_what_the_oracle_gives_it(layout: Layout) -> None:
    assert [layout.grid.owned(patch.place).slices for patch in layout.grid] == layout.oracle.regions(layout.size)


@given(layouts())
def test_owned_regions_fill_what_is_covered_and_do_not_overlap(layout: Layout) -> None:
    owners, covered = np.zeros(layout.size, int), np.zeros(layout.size, bool)
    for patch in layout.grid:
        owners[layout.grid.owned(patch.place).slices] += 1
        covered[patch.region.slices] = True
    assert (owners == covered).all()
    if layout.edge != "drop" and all(s <= p for s, p in zip(layout.stride, layout.patch, strict=True)):
        assert covered.all()


@given(layouts(), st.data())
def test_regions_are_answered_for_as_by_looking_at_every_patch(layout: Layout, data: st.DataObject) -> None:
    first, stop = zip(*(data.draw(intervals(n)) for n in layout.size), strict=True)
    region, grid = Region.between(first, stop), layout.grid
    patches = list(grid)
    assert places(grid.covering(region)) == [p.place for p in patches if p.region.intersect(region).size]
    assert places(grid.owners(region)) == [p.place for p in patches if grid.owned(p.place).intersect(region).size]
    assert places(grid.starting_in(region)) == [p.place for p in patches if inside(p, region)]


def places(ranges: tuple[range, ...]) -> list[tuple[int, ...]]:
    return list(itertools.product(*ranges))


def inside(patch: Patch, region: Region) -> bool:
    return all(a <= o < b for a, o, b in zip(region.start, patch.region.start, region.stop, strict=True))


@given(layouts())
def test_output_rows_are_final_when_no_later_patch_row_touches_them(layout: Layout) -> None:
    grid = layout.grid
    for row in range(grid.counts[0] if len(grid) else 0):
        later = [patch for patch in grid if patch.place[0] > row]
        by_owner = min((grid.owned(patch.place).start[0] for patch in later), default=layout.size[0])
        by_cover = min((patch.region.start[0] for patch in later), default=layout.size[0])
        assert grid.final_after(row, owned=True) == by_owner
        assert grid.final_after(row, owned=False) == by_cover


@given(layouts(), st.integers(1, 4))
def test_scaling_a_grid_scales_each_of_its_axes(layout: Layout, k: int) -> None:
    scale = tuple(Fraction(k + i) for i in range(len(layout.size)))
    scaled = layout.grid.scaled(scale)
    assert scaled.counts == layout.grid.counts
    assert scaled.shape == tuple(n * s for n, s in zip(layout.size, scale, strict=True))
    assert scaled.patch == tuple(n * s for n, s in zip(layout.patch, scale, strict=True))


@given(layouts())
def test_overlap_is_what_the_patch_has_beyond_the_stride(layout: Layout) -> None:
    overlap = [p - s for p, s in zip(layout.patch, layout.stride, strict=True)]
    if min(overlap) >= 0:
        assert Grid.of(layout.size, layout.patch, overlap=overlap, edge=layout.edge) == layout.grid


def test_one_number_counts_for_all_axes() -> None:
    assert Grid.of((30, 40, 50), 10, 5) == Grid.of((30, 40, 50), (10, 10, 10), (5, 5, 5))
    assert Grid.of((30, 40), 10) == Grid.of((30, 40), 10, 10) == Grid.of((30, 40), 10, overlap=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 8, "stride": 4, "overlap": 4}, "excludes"),
        ({"patch": 8, "overlap": 8}, "overlap is below the patch"),
        ({"patch": (8, 8, 8)}, "3 numbers for 2 axes"),
        ({"patch": 8, "stride": 0}, "at least 1"),
        ({"patch": 0}, "at least 1"),
        ({"patch": 8, "edge": "wrap"}, "shift, pad, drop"),
    ],
)
def test_grids_that_make_no_sense_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid.of((100, 100), **options)  # type: ignore[arg-type]
