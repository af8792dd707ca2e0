"""Planes show an image as a model sees it, whatever the order of its axes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from patchloom.errors import ImageMismatchError
from patchloom.geometry.region import Region
from patchloom.images import ArrayImage, planes
from patchloom.images.image import ImageInfo


def numbered(*shape: int) -> NDArray[Any]:
    """Array in which each value occurs once."""
    return np.arange(np.prod(shape), dtype=np.int32).reshape(shape)


class Recording:
    """Image that notes what is read."""

    def __init__(self, array: NDArray[Any], axes: str, chunks: tuple[int, ...], names: tuple[str, ...] = ()) -> None:
        self._image = ArrayImage(array, axes)
        self.info: ImageInfo = replace(self._image.info, chunks=(chunks,), channels=names)
        self.reads: list[Region] = []

    def read(self, region: Region, level: int = 0) -> NDArray[Any]:
        self.reads.append(region)
        return self._image.read(region, level)

    def close(self) -> None:
        self._image.close()


@given(axes=st.permutations("STCZYX"), count=st.integers(2, 6), ndim=st.sampled_from([2, 3]), data=st.data())
def test_any_order_of_axes_gives_channels_then_space(
    axes: list[str], count: int, ndim: int, data: st.DataObject
) -> None:
    needed = "YX" + ("Z" if ndim == 3 else "")
    kept = "".join(letter for letter in axes if letter in needed or axes.index(letter) < count - 2)
    extents = dict(zip("STCZYX", (2, 3, 4, 5, 6, 7), strict=True))
    array = numbered(*(extents[letter] for letter in kept))
    views = planes(ArrayImage(array, kept), ndim=ndim)
    loops = "".join(letter for letter in "STZ" if letter in kept and not (letter == "Z" and ndim == 3))
    assert views.loop_axes == "".join(letter for letter in "STCZYX" if letter in loops)
    assert views.loop_shape == tuple(extents[letter] for letter in views.loop_axes)
    assert len(views) == int(np.prod(views.loop_shape))
    index = data.draw(st.integers(0, len(views) - 1))
    plane = views[index]
    at = dict(zip(views.loop_axes, np.unravel_index(index, views.loop_shape), strict=True)) if loops else {}
    assert plane.loops == at
    assert list(plane.loops) == list(views.loop_axes)
    order = [letter for letter in "CZYX" if letter in kept and letter not in at]
    expected = np.moveaxis(array, [kept.index(letter) for letter in at], range(len(at)))[tuple(at.values())]
    rest = [letter for letter in kept if letter not in at]
    expected = expected.transpose([rest.index(letter) for letter in order])
    expected = expected if "C" in kept else expected[None]
    assert plane.channels == len(expected)
    assert plane.shape == expected.shape[1:]
    start = tuple(data.draw(st.integers(0, n - 1)) for n in plane.shape)
    extent = tuple(data.draw(st.integers(1, n - a)) for a, n in zip(start, plane.shape, strict=True))
    region = Region(start, extent)
    np.testing.assert_array_equal(plane.read(region), expected[(slice(None), *region.slices)])


@pytest.mark.parametrize("axes", ["YXC", "CYX", "YX"])
def test_a_plane_is_a_view_of_what_was_decoded(axes: str) -> None:
    array = numbered(*({"Y": 8, "X": 9, "C": 3}[letter] for letter in axes))
    plane = planes(ArrayImage(array, axes), ndim=2)[0]
    assert np.shares_memory(plane.read(Region((1, 2), (4, 5))), array)


@pytest.mark.parametrize("channels", [[0], [2, 1, 0], [1, 2], [0, 3], [3, 3, 0], [1, 0, 2]])
@pytest.mark.parametrize("axes", ["YXC", "CYX"])
def test_channels_come_in_the_order_asked_for(axes: str, channels: list[int]) -> None:
    array = numbered(6, 7, 4) if axes == "YXC" else numbered(4, 6, 7)
    plane = planes(ArrayImage(array, axes), ndim=2, channels=channels)[0]
    assert plane.channels == len(channels)
    expected = np.moveaxis(array, axes.index("C"), 0)[channels]
    np.testing.assert_array_equal(plane.read(Region((0, 0), (6, 7))), expected)


def test_channels_far_apart_are_read_without_those_between() -> None:
    image = Recording(numbered(100, 6, 7), "CYX", (1, 6, 7))
    plane = planes(image, ndim=2, channels=[90, 3])[0]
    found = plane.read(Region((0, 0), (6, 7)))
    np.testing.assert_array_equal(found, numbered(100, 6, 7)[[90, 3]])
    assert [region.shape[0] for region in image.reads] == [1, 1]


def test_interleaved_channels_are_read_once() -> None:
    image = Recording(numbered(6, 7, 4), "YXC", (6, 7, 4))
    planes(image, ndim=2, channels=[3, 0])[0].read(Region((0, 0), (6, 7)))
    assert len(image.reads) == 1


def test_channels_are_chosen_by_name() -> None:
    image = Recording(numbered(3, 6, 7), "CYX", (1, 6, 7), ("DAPI", "FITC", "Cy5"))
    np.testing.assert_array_equal(planes(image, ndim=2, channels=["Cy5", 0])[0].read(Region((0, 0), (6, 7))),
                                  numbered(3, 6, 7)[[2, 0]])
    with pytest.raises(ImageMismatchError, match="no channel GFP") as caught:
        planes(image, ndim=2, channels=["GFP"])
    assert "DAPI, FITC, Cy5" in caught.value.hint


@pytest.mark.parametrize("channel", [4, -1, "red"])
def test_a_channel_that_is_not_there_is_a_mismatch_that_says_which_are(channel: int | str) -> None:
    with pytest.raises(ImageMismatchError, match=f"slide has no channel {channel}") as caught:
        planes(ArrayImage(numbered(6, 7, 4)), ndim=2, channels=[channel], name="slide")
    assert "4 channels, 0 to 3" in caught.value.hint


def test_an_image_without_channel_axis_has_channel_0() -> None:
    views = planes(ArrayImage(numbered(6, 7)), ndim=2, channels=[0])
    assert views[0].read(Region((0, 0), (6, 7))).shape == (1, 6, 7)
    with pytest.raises(ImageMismatchError, match="no channel 1"):
        planes(ArrayImage(numbered(6, 7)), ndim=2, channels=[1])


def test_a_level_or_a_depth_that_is_not_there_is_a_mismatch() -> None:
    with pytest.raises(ImageMismatchError, match="no level 2") as caught:
        planes(ArrayImage(numbered(6, 7)), ndim=2, level=2)
    assert "1 level, number 0" in caught.value.hint
    with pytest.raises(ImageMismatchError, match="no Z"):
        planes(ArrayImage(numbered(6, 7)), ndim=3)


def test_loop_axes_of_extent_one_stay() -> None:
    views = planes(ArrayImage(numbered(1, 1, 2, 1, 6, 7), "STCZYX"), ndim=2)
    assert (views.loop_axes, views.loop_shape, len(views)) == ("STZ", (1, 1, 1), 1)


def test_planes_are_counted_by_arithmetic() -> None:
    class Endless:
        shape = (10**6, 10**6, 6, 7)
        dtype = np.dtype(np.uint8)

    views = planes(ArrayImage(Endless(), "TZYX"), ndim=2)
    assert len(views) == 10**12
    assert views[-1].loops == {"T": 10**6 - 1, "Z": 10**6 - 1}
    with pytest.raises(IndexError):
        views[10**12]


def test_planes_behave_as_a_sequence() -> None:
    views = planes(ArrayImage(numbered(3, 6, 7), "TYX"), ndim=2)
    assert [plane.loops for plane in views] == [{"T": 0}, {"T": 1}, {"T": 2}]
    assert [plane.loops for plane in views[1:]] == [{"T": 1}, {"T": 2}]
    assert views[-1].loops == {"T": 2}
