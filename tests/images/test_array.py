"""Arrays are images: NumPy, and whatever has a shape and slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr

from patchloom.errors import ImageMismatchError
from patchloom.geometry.region import Region
from patchloom.images import ArrayImage, Image
from patchloom.images.guess import guess_axes


@pytest.mark.parametrize(("shape", "axes"), [
    ((50, 60), "YX"), ((50, 60, 3), "YXC"), ((50, 60, 1), "YXC"), ((3, 50, 60), "CYX"), ((40, 50, 60), "ZYX"),
    ((3, 40, 50, 60), "CZYX"), ((40, 50, 60, 3), "ZYXC"),
    ((2, 3, 40, 50, 60), "TCZYX"), ((1, 2, 3, 4, 50, 60), "STCZYX"),
])  # fmt: skip
def test_axes_are_guessed_from_the_shape(shape: tuple[int, ...], axes: str) -> None:
    assert guess_axes(shape) == axes
    assert ArrayImage(np.zeros(shape, np.uint8)).info.axes == axes


def test_axes_that_are_given_win() -> None:
    assert ArrayImage(np.zeros((5, 6, 3)), "TYX").info.axes == "TYX"


@pytest.mark.parametrize("array", [
    np.zeros(5), np.zeros(()), np.zeros((0, 5)), np.zeros((2,) * 7), np.array([["a", "b"]]), np.array([[None, {}]]),
])  # fmt: skip
def test_what_is_no_image_is_a_mismatch_that_names_it(array: Any) -> None:
    with pytest.raises(ImageMismatchError, match="mine"):
        ArrayImage(array, None, "mine")


@pytest.mark.parametrize("axes", ["YXQ", "YX", "YYX", "ZCT"])
def test_axes_that_do_not_fit_are_a_mismatch(axes: str) -> None:
    with pytest.raises(ImageMismatchError, match="mine"):
        ArrayImage(np.zeros((5, 6, 7)), axes, "mine")


def test_reading_numpy_copies_nothing() -> None:
    array = np.arange(42).reshape(6, 7)
    image = ArrayImage(array)
    assert isinstance(image, Image)
    assert np.shares_memory(image.read(Region((1, 2), (3, 4))), array)
    image.close()
    image.close()


def test_other_byte_orders_are_read_as_native() -> None:
    image = ArrayImage(np.arange(42, dtype=">i4").reshape(6, 7))
    part = image.read(Region((1, 2), (3, 4)))
    assert part.dtype.isnative and image.info.dtype == part.dtype
    np.testing.assert_array_equal(part, np.arange(42).reshape(6, 7)[1:4, 2:6])


def test_zarr_arrays_keep_their_chunks_and_are_read_lazily() -> None:
    array = zarr.create_array({}, shape=(100, 90), chunks=(32, 16), dtype="uint8")
    array[10, 20] = 7
    image = ArrayImage(array)
    assert image.info.chunks == ((32, 16),)
    assert image.read(Region((10, 20), (1, 1))).tolist() == [[7]]


def test_lists_and_tensors_are_arrays_too() -> None:
    assert ArrayImage([[1, 2], [3, 4]]).info.shape == (2, 2)
    torch = pytest.importorskip("torch")
    image = ArrayImage(torch.arange(42, dtype=torch.float32).reshape(6, 7))
    assert image.info.dtype == np.float32
    assert image.read(Region((5, 6), (1, 1))).tolist() == [[41.0]]


def test_regions_beyond_the_array_and_other_levels_are_refused() -> None:
    image = ArrayImage(np.zeros((6, 7)))
    with pytest.raises(ValueError, match="beyond"):
        image.read(Region((0, 0), (7, 7)))
    with pytest.raises(ImageMismatchError, match="level 1"):
        image.read(Region((0, 0), (1, 1)), 1)
