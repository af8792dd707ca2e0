"""Ordinary JPEGs are read without Pillow's detours, and are what Pillow makes of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from patchloom.errors import UnreadableImageError
from patchloom.geometry.region import Region
from patchloom.images.encoded import open_bytes
from patchloom.images.readers import jpeg


def encoded(shape: tuple[int, ...], seed: int = 0, **options: object) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "jpeg", **options)
    return file.getvalue()


def decoded_by_pillow(data: bytes) -> np.ndarray:
    with Pillow.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    channels=st.sampled_from([(), (3,)]),
    quality=st.integers(5, 100),
    progressive=st.booleans(),
    subsampling=st.sampled_from([0, 1, 2]),
    seed=st.integers(0, 9),
)
def test_header_and_pixels_are_those_of_pillow(
    rows: int, columns: int, channels: tuple[int, ...], quality: int, progressive: bool, subsampling: int, seed: int
) -> None:
    shape = (rows, columns, *channels)
    data = encoded(shape, seed, quality=quality, progressive=progressive, subsampling=subsampling)
    assert jpeg.header(data) == (shape, b"")
    pixels = jpeg.decode(data)
    assert pixels is not None
    np.testing.assert_array_equal(pixels, decoded_by_pillow(data))


def test_colours_that_are_stored_as_they_are_stay_so() -> None:
    data = encoded((20, 30, 3), keep_rgb=True, subsampling=0)
    np.testing.assert_array_equal(open_bytes(data).read(Region((0, 0, 0), (20, 30, 3))), decoded_by_pillow(data))


def test_notes_of_cameras_are_found_in_front_of_the_pixels() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    data = encoded((20, 30, 3), exif=exif)
    found = jpeg.header(data)
    assert found is not None
    assert found == ((20, 30, 3), exif.tobytes())
    assert open_bytes(data).info.shape == (30, 20, 3)


@pytest.mark.parametrize("mode", ["CMYK"])
def test_what_is_out_of_the_ordinary_is_left_to_pillow(mode: str) -> None:
    file = io.BytesIO()
    Pillow.new(mode, (30, 20)).save(file, "jpeg")
    assert jpeg.header(file.getvalue()) is None
    assert open_bytes(file.getvalue()).info.shape == (20, 30, 3)


def test_a_header_that_is_cut_off_is_none_at_any_length() -> None:
    data = encoded((20, 30, 3))
    frame = data.index(b"\xff\xc0")
    assert all(jpeg.header(data[:length]) is None for length in range(3, frame + 10))


def test_a_jpeg_that_lost_its_end_is_damaged_and_not_filled_up_with_grey() -> None:
    data = encoded((64, 64, 3))[:-200]
    assert jpeg.decode(data) is None
    with pytest.raises(UnreadableImageError, match="truncated"):
        open_bytes(data, name="row 17").read(Region((0, 0, 0), (64, 64, 3)))
