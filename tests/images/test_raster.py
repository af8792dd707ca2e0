"""Photographs come as users see them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps

from patchloom.errors import ImageMismatchError, ImageTooLargeError, UnreadableImageError
from patchloom.geometry.region import Region
from patchloom.images import open_image
from patchloom.images.image import ImageInfo
from patchloom.images.readers import raster


def whole(path: Path) -> tuple[ImageInfo, NDArray[Any]]:
    image = open_image(path)
    try:
        return image.info, np.array(image.read(Region.whole(image.info.shape)))
    finally:
        image.close()


def picture(mode: str) -> Pillow.Image:
    colours = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    return Pillow.fromarray(colours).convert(mode)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == ".webp" else {}
    picture("RGB").save(tmp_path / f"a{suffix}", exif=exif, **options)
    info, found = whole(tmp_path / f"a{suffix}")
    with Pillow.open(tmp_path / f"a{suffix}") as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    assert info.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("mode", "suffix", "seen"), [
    ("1", ".png", "L"), ("L", ".png", "L"), ("P", ".png", "RGB"), ("P", ".gif", "RGB"), ("LA", ".png", "LA"),
    ("RGBA", ".png", "RGBA"), ("CMYK", ".jpg", "RGB"), ("1", ".bmp", "L"), ("RGBA", ".webp", "RGBA"),
])  # fmt: skip
def test_pixels_are_what_users_see(tmp_path: Path, mode: str, suffix: str, seen: str) -> None:
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    shown = picture("L" if mode == "LA" else "RGB").convert(mode)
    if mode.endswith("A"):
        shown.putalpha(picture("L"))
    shown.save(tmp_path / f"a{suffix}", **options)
    info, found = whole(tmp_path / f"a{suffix}")
    with Pillow.open(tmp_path / f"a{suffix}") as stored:
        expected = np.asarray(stored.convert(seen))
    assert info.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    if mode == "1":
        assert set(np.unique(found)) == {0, 255}


def test_palettes_with_transparent_colours_have_alpha(tmp_path: Path) -> None:
    picture("P").save(tmp_path / "a.png", transparency=3)
    assert whole(tmp_path / "a.png")[0].shape == (20, 30, 4)


def png_header(rows: int, columns: int) -> bytes:
    """PNG that claims a size and has hardly any data."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    size = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    return raster.PNG + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def test_sizes_beyond_reason_are_refused_at_opening(tmp_path: Path) -> None:
    (tmp_path / "huge.png").write_bytes(png_header(10**6, 10**6))
    with pytest.raises(ImageTooLargeError, match=r"huge\.png"):
        open_image(tmp_path / "huge.png")


def test_large_photographs_open_without_warnings_of_other_libraries(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png_header(20000, 20000))
    image = open_image(tmp_path / "large.png")
    assert image.info.shape == (20000, 20000, 3)
    assert image.info.chunks == (image.info.shape,)
    image.close()


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_truncated_files_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    picture("RGB").resize((300, 200)).save(path)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(UnreadableImageError, match="cut"):
        whole(path)


def test_windows_do_not_decode_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture("RGB").save(tmp_path / "a.png")
    calls = []
    decode = raster._decode
    monkeypatch.setattr(raster, "_decode", lambda file, header: calls.append(1) or decode(file, header))
    image = open_image(tmp_path / "a.png")
    for y in range(0, 20, 5):
        image.read(Region((y, 0, 0), (5, 30, 3)))
    assert len(calls) == 1
    image.close()


def test_axes_of_photographs_are_known(tmp_path: Path) -> None:
    picture("RGB").save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png", axes="YXC").info.axes == "YXC"
    with pytest.raises(ImageMismatchError, match=r"a\.png"):
        open_image(tmp_path / "a.png", axes="ZYX")
