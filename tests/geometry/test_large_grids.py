"""A grid of 10^9 patches answers as fast as one of ten, and holds no more."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType

import pytest

from patchloom.geometry.blend import BlendWeights
from patchloom.geometry.grid import Edge, Grid
from patchloom.geometry.region import Region


def square(side: int, edge: Edge) -> Grid:
    """Grid of side x side patches of 512 pixels, the last of them off the stride."""
    return Grid.of((side * 448 + 65, side * 448 + 65), 512, 448, edge=edge)


def cube(side: int, edge: Edge) -> Grid:
    """Grid of side x side x side overlapping patches of 64 pixels."""
    return Grid.of((side * 32 + 33,) * 3, 64, 32, edge=edge)


def ask_everything(grid: Grid) -> None:
    """Every question of a grid, in its middle, at its beginning and at its end."""
    for index in (0, len(grid) // 2, len(grid) - 1):
        patch = grid[index]
        assert grid.index_of(patch.region.start) == index
        owned = grid.owned(patch.place)
        assert grid.owners(owned) == tuple(range(i, i + 1) for i in patch.place)
        assert all(i in r for i, r in zip(patch.place, grid.covering(patch.region), strict=True))
        assert all(i in r for i, r in zip(patch.place, grid.starting_in(patch.region), strict=True))
        grid.final_after(patch.place[0], owned=True)
        grid.final_after(patch.place[0], owned=False)
        assert grid.index_of([n + 1 for n in patch.region.start]) is None


def calls(function: Callable[[], object]) -> int:
    """Number of Python calls that `function` makes: a measure of work that does not depend on the machine."""
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def peak_bytes(function: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


LARGE = [(square, 40_000, 10**9), (cube, 1_001, 10**9)]


@pytest.mark.parametrize("edge", ["shift", "pad", "drop"])
@pytest.mark.parametrize(("make", "side", "patches"), LARGE, ids=["2-D", "3-D"])
class TestAThousandMillionPatches:
    def test_take_as_much_work_as_a_thousand(
        self, make: Callable[[int, Edge], Grid], side: int, patches: int, edge: Edge
    ) -> None:
        large, small = make(side, edge), make(10, edge)
        assert len(large) >= patches
        ask_everything(small)
        # A bisection among the patches around a pixel may take a step more in one place than in another.
        assert calls(lambda: ask_everything(large)) <= 1.1 * calls(lambda: ask_everything(small))

    def test_take_no_memory(self, make: Callable[[int, Edge], Grid], side: int, patches: int, edge: Edge) -> None:
        assert peak_bytes(lambda: ask_everything(make(side, edge))) < 20_000

    def test_are_iterated_one_at_a_time(
        self, make: Callable[[int, Edge], Grid], side: int, patches: int, edge: Edge
    ) -> None:
        def first_thousand() -> None:
            for patch in make(side, edge):
                if patch.index == 1000:
                    return

        # The numbers of rows and columns, but never their product.
        assert peak_bytes(first_thousand) < 10 * side * 36


def test_weights_of_a_thousand_million_patches_are_those_of_a_few_arrangements() -> None:
    grid = Grid.of((40_000 * 6 + 3,) * 2, 8, 6)
    weights = BlendWeights(grid, "gaussian")
    assert len(grid) > 10**9
    middle = weights((20_000, 20_000))
    assert weights((20_001, 31)) is middle, "patches with the same neighbours share one array"
    assert weights((0, 0)) is not middle


def test_a_region_of_a_large_grid_is_covered_by_the_patches_around_it() -> None:
    rows, columns = square(40_000, "shift").covering(Region((448 * 30_000, 0), (1, 1)))
    assert rows == range(29_999, 30_001)
    assert columns == range(1)
