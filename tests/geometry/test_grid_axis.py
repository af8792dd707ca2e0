"""One axis of a grid answers as an oracle does that lists every patch and every pixel."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchloom.geometry.grid import GridAxis
from patchloom.testing import oracle
from patchloom.testing.strategies import axes, intervals


def starts(axis: GridAxis) -> list[int]:
    return oracle.starts(axis.size, axis.patch, axis.stride, axis.edge)


def owned(axis: GridAxis) -> list[tuple[int, int]]:
    return oracle.owned(axis.size, axis.patch, axis.stride, axis.edge)


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (GridAxis(1000, 512, 448), [0, 448, 488]),
        (GridAxis(1000, 512, 448, "pad"), [0, 448, 896]),
        (GridAxis(1000, 512, 448, "drop"), [0, 448]),
        (GridAxis(960, 512, 448), [0, 448]),
        (GridAxis(960, 512, 448, "pad"), [0, 448]),
        (GridAxis(512, 512, 448, "drop"), [0]),
        (GridAxis(1, 512, 448), [0]),
        (GridAxis(1, 512, 448, "pad"), [0]),
        (GridAxis(511, 512, 448, "drop"), []),
        (GridAxis(1, 1, 1), [0]),
        (GridAxis(10, 3, 5), [0, 5, 7]),
        (GridAxis(10, 3, 5, "pad"), [0, 5]),
        (GridAxis(10, 3, 5, "drop"), [0, 5]),
        (GridAxis(9, 3, 5), [0, 5, 6]),
    ],
)
def test_starts_are_those_that_the_documentation_states(axis: GridAxis, expected: list[int]) -> None:
    assert [axis.start(i) for i in range(axis.count)] == expected


@given(axes())
def test_starts_equal_the_list_of_the_oracle(axis: GridAxis) -> None:
    assert [axis.start(i) for i in range(axis.count)] == starts(axis)


@given(axes())
def test_a_start_leads_back_to_its_patch_and_other_pixels_lead_nowhere(axis: GridAxis) -> None:
    listed = starts(axis)
    for pixel in range(-3, axis.size + axis.stride + 3):
        assert axis.index_of(pixel) == (listed.index(pixel) if pixel in listed else None)


@given(axes())
def test_neighbours_meet_in_the_middle_of_what_they_share(axis: GridAxis) -> None:
    assert [axis.cut(i) for i in range(axis.count - 1)] == oracle.cuts(starts(axis), axis.patch)


@given(axes())
def test_each_patch_owns_the_pixels_that_the_oracle_gives_it(axis: GridAxis) -> None:
    assert [axis.owned(i) for i in range(axis.count)] == owned(axis)


@given(axes())
def test_each_covered_pixel_has_one_owner_which_covers_it(axis: GridAxis) -> None:
    owners = [0] * axis.size
    for i in range(axis.count):
        first, stop = axis.owned(i)
        assert axis.start(i) <= first < stop <= min(axis.start(i) + axis.patch, axis.size)
        for pixel in range(first, stop):
            owners[pixel] += 1
    covered = {pixel for start in starts(axis) for pixel in range(start, start + axis.patch)}
    assert owners == [int(pixel in covered) for pixel in range(axis.size)]


@given(axes(), st.data())
def test_patches_that_cover_an_interval_share_a_pixel_with_it(axis: GridAxis, data: st.DataObject) -> None:
    first, stop = data.draw(intervals(axis.size))
    pixels = set(range(first, stop))
    expected = [i for i, start in enumerate(starts(axis)) if pixels & set(range(start, start + axis.patch))]
    assert list(axis.covering(first, stop)) == expected


@given(axes(), st.data())
def test_owners_of_an_interval_are_the_patches_that_own_one_of_its_pixels(axis: GridAxis, data: st.DataObject) -> None:
    first, stop = data.draw(intervals(axis.size))
    pixels = set(range(first, stop))
    assert list(axis.owners(first, stop)) == [i for i, own in enumerate(owned(axis)) if pixels & set(range(*own))]


@given(axes(), st.data())
def test_patches_that_start_in_an_interval_are_those_of_the_list(axis: GridAxis, data: st.DataObject) -> None:
    first, stop = data.draw(intervals(axis.size))
    assert list(axis.starting_in(first, stop)) == [i for i, start in enumerate(starts(axis)) if first <= start < stop]


@given(axes())
def test_pixels_are_final_up_to_the_first_that_a_later_patch_touches(axis: GridAxis) -> None:
    for i in range(-1, axis.count):
        owned_later = [first for first, _ in owned(axis)[i + 1:]]
        covered_later = starts(axis)[i + 1:]
        assert axis.final_after(i, owned=True) == min(owned_later, default=axis.size)
        assert axis.final_after(i, owned=False) == min(covered_later, default=axis.size)


@given(axes())
def test_final_pixels_never_become_fewer(axis: GridAxis) -> None:
    for owned_ in (True, False):
        finals = [axis.final_after(i, owned=owned_) for i in range(axis.count)]
        assert all(a <= b for a, b in pairwise(finals))


@given(axes(20), st.integers(1, 5))
def test_a_reduced_head_has_the_same_patches_at_whole_pixels_of_its_map(axis: GridAxis, k: int) -> None:
    fine = GridAxis(axis.size * k, axis.patch * k, axis.stride * k, axis.edge)
    coarse = fine.scaled(Fraction(1, k))
    assert [coarse.start(i) * k for i in range(coarse.count)] == starts(fine)
    assert [coarse.owned(i)[0] for i in range(coarse.count)] == [first // k for first, _ in owned(fine)]
    assert [coarse.owned(i)[1] for i in range(coarse.count)] == [stop // k for _, stop in owned(fine)]


@given(axes(20), st.integers(1, 5))
def test_an_enlarged_head_hands_over_where_the_image_does(axis: GridAxis, k: int) -> None:
    enlarged = axis.scaled(Fraction(k))
    assert [enlarged.start(i) for i in range(enlarged.count)] == [start * k for start in starts(axis)]
    assert [enlarged.owned(i) for i in range(enlarged.count)] == [(first * k, stop * k) for first, stop in owned(axis)]


@given(axes(20), st.integers(1, 5))
def test_there_and_back_again_is_the_same_axis_but_for_its_steps(axis: GridAxis, k: int) -> None:
    back = axis.scaled(Fraction(k)).scaled(Fraction(1, k))
    assert (back.size, back.patch, back.stride, back.edge) == (axis.size, axis.patch, axis.stride, axis.edge)


@pytest.mark.parametrize("axis", [GridAxis(10, 4, 4), GridAxis(12, 5, 4), GridAxis(12, 4, 3)])
def test_lengths_that_are_no_multiple_of_the_scale_are_refused(axis: GridAxis) -> None:
    with pytest.raises(ValueError, match="no multiples of 4"):
        axis.scaled(Fraction(1, 4))


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-5, 1, 1)])
def test_an_axis_without_pixels_patches_or_strides_is_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        GridAxis(*numbers)


def test_an_unknown_edge_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="shift, pad, drop, not 'wrap'"):
        GridAxis(1, 1, 1, "wrap")  # type: ignore[arg-type]
