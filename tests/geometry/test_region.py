"""Boxes of pixels, against sets of pixels."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from patchloom.geometry.region import Region


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Region, Region]:
    """Two boxes in the same number of dimensions, near one another."""
    ndim = draw(st.integers(1, 3))

    def box() -> Region:
        return Region(
            tuple(draw(st.integers(-3, 5)) for _ in range(ndim)), tuple(draw(st.integers(0, 4)) for _ in range(ndim))
        )

    return box(), box()


def pixels(region: Region) -> set[tuple[int, ...]]:
    return set(itertools.product(*(range(a, b) for a, b in zip(region.start, region.stop, strict=True))))


@given(pairs())
def test_size_is_the_number_of_pixels(boxes: tuple[Region, Region]) -> None:
    assert boxes[0].size == len(pixels(boxes[0]))


@given(pairs())
def test_an_intersection_holds_the_pixels_that_both_hold(boxes: tuple[Region, Region]) -> None:
    a, b = boxes
    assert pixels(a.intersect(b)) == pixels(a) & pixels(b) == pixels(b.intersect(a))
    assert min(a.intersect(b).shape) >= 0


@given(pairs())
def test_between_start_and_stop_is_the_box_itself(boxes: tuple[Region, Region]) -> None:
    assert Region.between(boxes[0].start, boxes[0].stop) == boxes[0]


@given(pairs())
def test_relative_to_a_pixel_moves_every_pixel(boxes: tuple[Region, Region]) -> None:
    region, other = boxes
    moved = {tuple(a - o for a, o in zip(pixel, other.start, strict=True)) for pixel in pixels(region)}
    assert pixels(region.relative_to(other.start)) == moved


def test_slices_cut_the_box_out_of_an_array() -> None:
    array = np.arange(20).reshape(4, 5)
    assert array[Region((1, 2), (2, 3)).slices].tolist() == [[7, 8, 9], [12, 13, 14]]


def test_the_whole_of_an_array_is_all_of_it() -> None:
    assert Region.whole((4, 5)) == Region((0, 0), (4, 5))


def test_regions_are_values() -> None:
    assert len({Region((0, 0), (1, 2)), Region((0, 0), (1, 2)), Region((0, 1), (1, 2))}) == 2
