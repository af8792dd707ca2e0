"""Photographs and screenshots: PNG, JPEG, WebP, BMP, GIF, decoded as a whole by Pillow."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageOps

from patchloom.errors import ImageMismatchError, ImageTooLargeError, UnreadableImageError
from patchloom.images.array import guess_axes
from patchloom.images.image import Image, ImageInfo
from patchloom.geometry.region import Region

__all__ = ["RasterReader"]

LARGEST = 16 << 30
"""Bytes of pixels above which an image is refused whatever the memory is."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
DTYPES = {"L": (np.uint8, 1), "RGB": (np.uint8, 3), "RGBA": (np.uint8, 4), "LA": (np.uint8, 2), "I;16": (np.uint16, 1),
          "I": (np.int32, 1), "F": (np.float32, 1)}
SEEN_AS = {"1": "L", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB", "PA": "RGBA", "La": "LA",
           "RGBa": "RGBA", "RGBX": "RGB", "I;16B": "I;16"}
"""What is stored in another way than it is looked at."""
TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange height and width."""


class RasterReader:
    """Formats that are decoded as a whole."""

    suffixes = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".dib", ".jfif")

    def recognises(self, path: Path, head: bytes) -> bool:
        """By signature."""
        return head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"GIF87a", b"GIF89a")) or (
            head[:4] == b"RIFF" and head[8:12] == b"WEBP")

    def open(self, path: Path, *, axes: str | None = None) -> Image:
        """Read the header."""
        try:
            with _quiet(), PIL.Image.open(path, formats=FORMATS) as picture:
                mode = SEEN_AS.get(picture.mode, picture.mode)
                if picture.mode == "P" and "transparency" in picture.info:
                    mode = "RGBA"
                width, height = picture.size
                orientation = picture.getexif().get(0x0112, 1)
        except Exception as error:
            raise UnreadableImageError(f"{path} is no readable image: {_line(error)}", "is it truncated?") from error
        if mode not in DTYPES:
            raise UnreadableImageError(f"{path} has pixels of a kind that is not supported ({mode})", "convert it to RGB")
        if orientation in TURNED:
            height, width = width, height
        dtype, channels = DTYPES[mode]
        shape = (height, width, channels) if channels > 1 else (height, width)
        if height * width * channels * np.dtype(dtype).itemsize > LARGEST:
            raise ImageTooLargeError(f"{path} claims {height:,} x {width:,} pixels, which are decoded as a whole",
                                     "is the header damaged? if not, convert it to a tiled TIFF")
        own = "YXC" if channels > 1 else "YX"
        if axes is not None and guess_axes(shape, axes, str(path)) != own:
            raise ImageMismatchError(f"{path} has axes {own}, not {axes}", "leave out --axes for photographs")
        return _Raster(path, ImageInfo(own, (shape,), np.dtype(dtype), (shape,)), mode)


class _Raster:
    """Image that is decoded once, at the first read, and kept until it is closed."""

    def __init__(self, path: Path, info: ImageInfo, mode: str) -> None:
        self._path, self._info, self._mode = path, info, mode
        self._lock = threading.Lock()
        self._pixels: NDArray[Any] | None = None

    @property
    def info(self) -> ImageInfo:
        """What the header says."""
        return self._info

    def read(self, region: Region, level: int = 0) -> NDArray[Any]:
        """Pixels of a region, as users see the image: EXIF orientation applied, palettes and CMYK as RGB."""
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decode()
            pixels = self._pixels
        return pixels[region.slices]

    def close(self) -> None:
        """Forget the pixels."""
        with self._lock:
            self._pixels = None

    def _decode(self) -> NDArray[Any]:
        try:
            with _quiet(), PIL.Image.open(self._path, formats=FORMATS) as picture:
                turned = ImageOps.exif_transpose(picture)
                pixels = np.asarray(turned if turned.mode == self._mode else turned.convert(self._mode))
        except Exception as error:
            raise UnreadableImageError(f"{self._path} does not decode: {_line(error)}", "is it truncated?") from error
        if pixels.shape != self._info.shape:
            raise UnreadableImageError(f"{self._path} decodes to {pixels.shape}, and its header says {self._info.shape}",
                                       "is it damaged?")
        return pixels.astype(self._info.dtype, copy=False)


class _quiet(warnings.catch_warnings):  # noqa: N801 - used as a function
    """Sizes are checked here: Pillow's guard against large images has nothing to add."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.simplefilter("ignore")
        return entered


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
