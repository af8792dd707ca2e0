"""Readers of files read encoded bytes in memory, too, and with the same errors."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from patchloom import Region
from patchloom.errors import ImageError, UnknownFormatError, UnreadableImageError
from patchloom.images.encoded import open_bytes
from tests.sources_db.photographs import encoded, pixels


def as_bytes(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "NPY":
        np.save(file, pixels(5))
    elif kind == "TIFF":
        tifffile.imwrite(file, pixels(5), photometric="rgb")
    elif kind == "tiled TIFF":
        tifffile.imwrite(file, pixels(5), photometric="rgb", tile=(16, 16), compression="zlib")
    else:
        Image.fromarray(pixels(5)).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def decoded(data: bytes) -> NDArray[Any]:
    image = open_bytes(data, name="row 17")
    return image.read(Region.whole(image.info.shape))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "NPY", "TIFF", "tiled TIFF"])
def test_an_image_in_memory_has_the_pixels_that_were_encoded(kind: str) -> None:
    image = open_bytes(as_bytes(kind), name="row 5")
    assert image.info.axes == "YXC"
    np.testing.assert_array_equal(image.read(Region.whole(image.info.shape)), pixels(5))
    np.testing.assert_array_equal(image.read(Region((3, 17, 0), (9, 8, 3))), pixels(5)[3:12, 17:25])
    image.close()


def test_a_jpeg_in_memory_decodes_as_its_file_does(tmp_path) -> None:
    from patchloom.images.registry import open_image

    (tmp_path / "a.jpg").write_bytes(encoded(3, "JPEG"))
    box = Region((0, 0, 0), (24, 32, 3))
    np.testing.assert_array_equal(open_bytes(encoded(3, "JPEG")).read(box), open_image(tmp_path / "a.jpg").read(box))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "NPY", "TIFF", "tiled TIFF"])
def test_bytes_that_lost_their_end_are_an_error_that_names_the_row(kind: str) -> None:
    data = as_bytes(kind)
    with pytest.raises(UnreadableImageError, match=r"^row 17: "):
        decoded(data[: len(data) * 2 // 3])


def test_nothing_and_no_image_are_errors_that_name_the_row() -> None:
    with pytest.raises(UnreadableImageError, match="row 17: is empty"):
        open_bytes(b"", name="row 17")
    with pytest.raises(UnknownFormatError, match="row 17: no reader"):
        open_bytes(b"hello, world", name="row 17")


def test_axes_that_the_user_gives_hold_for_bytes() -> None:
    file = io.BytesIO()
    np.save(file, np.zeros((2, 20, 30), np.uint8))
    assert open_bytes(file.getvalue(), axes="TYX").info.axes == "TYX"


@given(kind=st.sampled_from(["PNG", "NPY", "TIFF", "tiled TIFF"]), place=st.integers(0, 400), value=st.integers(0, 255))
def test_a_damaged_byte_gives_pixels_or_an_error_of_the_image(kind: str, place: int, value: int) -> None:
    data = bytearray(as_bytes(kind))
    data[place % len(data)] = value
    try:
        assert decoded(bytes(data)).size > 0
    except ImageError as error:
        said = error.message
    else:
        said = "row 17 is fine"
    assert "row 17" in said
