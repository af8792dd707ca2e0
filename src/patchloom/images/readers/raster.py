"""Photographs and drawings: PNG, JPEG, WebP, BMP and the first frame of GIF, each decoded as a whole.

Pixels are what users see: EXIF orientation is applied, palettes and CMYK become RGB (RGBA where a palette has
transparent colours), one-bit images become 0 and 255. Alpha is an ordinary last channel. 16 bits stay 16 bits.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ImageError, ImageMismatchError, UnreadableImageError
from patchloom.geometry.region import Region
from patchloom.images.files import in_memory, open_whole
from patchloom.images.guess import axes_or_guess
from patchloom.images.image import ImageInfo
from patchloom.images.limits import check_chunks
from patchloom.images.readers import jpeg

__all__ = ["RasterImage", "RasterReader"]

Pixels = NDArray[Any]
Box = tuple[float, float, float, float]
"""Top, left, bottom and right edge in pixels."""

SMALL = 64 << 10
"""Bytes of a file that is read at once when it is opened, and not again to be decoded."""
PNG = b"\x89PNG\r\n\x1a\n"
BMP_HEADERS = {bytes((size, 0, 0, 0)) for size in (12, 40, 52, 56, 64, 108, 124)}
ORIENTATION = 0x0112
DEEP_PNG = {0: "Y", 2: "RGB", 4: "YA", 6: "RGBA"}
"""Colour types of PNG with 16 bits a sample, which Pillow would cut to 8."""

SHOWN_AS = {
    "1": "L", "L": "L", "LA": "LA", "La": "LA", "RGB": "RGB", "RGBX": "RGB", "RGBA": "RGBA", "RGBa": "RGBA",
    "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB", "P": "RGB", "PA": "RGBA",
    "I;16": "I;16", "I;16B": "I;16", "I;16L": "I;16", "I": "I", "F": "F",
}  # fmt: skip
"""Pillow's modes, and those in which users see them."""
TYPES = {
    "L": ("u1", 1), "LA": ("u1", 2), "RGB": ("u1", 3), "RGBA": ("u1", 4),
    "I;16": ("u2", 1), "I": ("i4", 1), "F": ("f4", 1),
}  # fmt: skip

TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
"""From how pixels are stored to how they are seen, by EXIF orientation."""


class RasterReader:
    """Reads PNG, JPEG, WebP, BMP and GIF."""

    suffixes: tuple[str, ...] = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif")

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether the file begins like one of these formats."""
        return _format(head) is not None

    def open(self, path: Path, *, axes: str | None = None) -> RasterImage:
        """Read the header; see `Reader.open`."""
        try:
            data = in_memory(path) or _beginning(path)
            header = _header(path, data)
        except Exception as error:  # damaged headers make Pillow raise almost anything
            raise _unreadable(path, error) from error
        info = _info(header.shape, header.dtype)
        if axes is not None and axes_or_guess(path, header.shape, axes) != info.axes:
            raise ImageMismatchError(f"{path}: is {info.axes}, not {axes}", "leave --axes out for such files")
        return RasterImage(path, check_chunks(path, info), header, data if len(data) < SMALL else None)


@dataclass(frozen=True)
class _Header:
    """What decoding needs to know: Pillow's mode to convert to (empty for PNG of 16 bits), EXIF orientation, result,
    and whether it is a JPEG like most.
    """

    mode: str
    orientation: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_plain_jpeg: bool = False


class RasterImage:
    """One file. It is decoded as a whole, and kept from one window to the next until it is closed.

    Parameters
    ----------
    path, info, header
        The file, and what its header says.
    data
        All of it where that is little; used once.
    """

    def __init__(self, path: Path, info: ImageInfo, header: _Header, data: bytes | None = None) -> None:
        self.info = info
        self._path = path
        self._header = header
        self._data = data
        self._lock = threading.Lock()
        self._kept: Pixels | None = None

    def read(self, region: Region, level: int = 0) -> Pixels:
        """A view of the decoded image; see `Image.read`."""
        if level != 0:
            raise ImageMismatchError(f"{self._path} has no level {level}", "such files have level 0 only")
        whole = region.shape == self.info.shape and not any(region.start)
        within = zip(region.start, region.shape, self.info.shape, strict=True)
        if not whole and any(a < 0 or a + m > n for a, m, n in within):
            raise ValueError(f"region {region} reaches beyond the shape {self.info.shape}")
        with self._lock:
            pixels = self._decode() if self._kept is None else self._kept
            # Whoever reads it whole keeps it as long as it is needed; whoever reads a window will read the next one.
            self._kept = None if whole else pixels
        return pixels if whole else pixels[region.slices]

    def read_resized(self, shape: tuple[int, int], box: Box) -> Pixels | None:
        """A part made small, out of a JPEG decoded to a half, quarter or eighth; see `ReadsResized`."""
        if self._header.mode not in ("L", "RGB"):
            return None  # alpha must not change colours, and Pillow would have it do so
        return self._read(lambda file: _decode_resized(file, self._header, shape, box))

    def close(self) -> None:
        """Forget the pixels."""
        with self._lock:
            self._kept = self._data = None

    def _read(self, decode: Callable[[BinaryIO], Pixels]) -> Pixels:
        data, self._data = self._data, None
        try:
            with open_whole(self._path) if data is None else io.BytesIO(data) as file:
                return decode(file)
        except MemoryError:
            raise
        except Exception as error:  # damaged files make Pillow raise almost anything
            raise _unreadable(self._path, error) from error

    def _decode(self) -> Pixels:
        pixels = self._read(lambda file: _decode(file, self._header))
        if pixels.shape != self.info.shape:
            raise UnreadableImageError(
                f"{self._path}: its header says {self.info.shape} and it decodes to {pixels.shape}",
                "the file is damaged, or was changed while it was read")
        return pixels

    def __repr__(self) -> str:
        return f"<RasterImage {self._path} {self.info.axes} {self.info.shape} {self.info.dtype}>"


def _format(head: bytes) -> str | None:
    if head.startswith(PNG):
        return "PNG"
    if head.startswith(jpeg.JPEG):
        return "JPEG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    # A text may begin with "BM" too; a bitmap has a header of a known size.
    return "BMP" if head.startswith(b"BM") and head[14:18] in BMP_HEADERS else None


def _picture(file: BinaryIO) -> Any:
    """Pillow's image of a file, opened by its class: `PIL.Image.open` warns of sizes, which are checked here anyway."""
    from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

    classes: dict[str | None, Any] = {
        "PNG": PngImagePlugin.PngImageFile, "JPEG": JpegImagePlugin.JpegImageFile, "GIF": GifImagePlugin.GifImageFile,
        "WEBP": WebPImagePlugin.WebPImageFile, "BMP": BmpImagePlugin.BmpImageFile,
    }  # fmt: skip
    kind = _format(file.read(64))
    if kind is None:
        raise ValueError("it begins like no format that is known")
    file.seek(0)
    return classes[kind](file)


def _deep(head: bytes) -> int | None:
    """Channels of a PNG with 16 bits a sample and more than one channel, which Pillow cannot hold."""
    if not head.startswith(PNG) or head[12:16] != b"IHDR" or head[24:25] != b"\x10":
        return None
    channels = len(DEEP_PNG.get(head[25], ""))
    return channels if channels > 1 else None


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(SMALL)


@lru_cache(maxsize=1024)
def _info(shape: tuple[int, ...], dtype: np.dtype[Any]) -> ImageInfo:
    """Collections have many images of one size."""
    return ImageInfo("YXC"[: len(shape)], (shape,), dtype, (shape,))


def _header(path: Path, beginning: bytes) -> _Header:
    found = jpeg.header(beginning) if beginning.startswith(jpeg.JPEG) else None
    if found is None:
        with path.open("rb") as file:
            return _header_by_pillow(file)
    shape, exif = found
    orientation = _orientation(exif)
    return _plain_header(shape, orientation)


@lru_cache(maxsize=1024)
def _plain_header(shape: tuple[int, ...], orientation: int) -> _Header:
    if orientation >= 5:
        shape = shape[1::-1] + shape[2:]
    return _Header("L" if len(shape) == 2 else "RGB", orientation, shape, np.dtype(np.uint8), is_plain_jpeg=True)


def _header_by_pillow(file: BinaryIO) -> _Header:
    head = file.read(64)
    file.seek(0)
    with _picture(file) as picture:
        columns, rows = picture.size
        if columns < 1 or rows < 1:
            raise ValueError(f"{rows} x {columns} pixels")
        orientation = _orientation(picture.info.get("exif"))
        mode = SHOWN_AS[picture.mode]
        if picture.mode == "P" and "transparency" in picture.info:
            mode = "RGBA"
    deep = _deep(head)
    code, channels = ("u2", deep) if deep else TYPES[mode]
    if orientation >= 5:
        rows, columns = columns, rows
    shape = (rows, columns) if channels == 1 else (rows, columns, channels)
    return _Header("" if deep else mode, orientation, shape, np.dtype(code))


def _orientation(data: bytes | None) -> int:
    """EXIF orientation out of what stands before the pixels, so that nothing is decoded to find it."""
    if not data:
        return 1
    from PIL import Image

    exif = Image.Exif()
    try:
        exif.load(data)
        value = exif.get(ORIENTATION, 1)
    except Exception:  # a damaged note about a picture is no reason to refuse the picture
        return 1
    return value if value in TURNS else 1


def _decode(file: BinaryIO, header: _Header) -> Pixels:
    pixels = _decode_plain(file, header)
    if pixels is not None:
        pass
    elif header.mode:
        with _picture(file) as picture:
            shown = picture if picture.mode == header.mode else picture.convert(header.mode)
            pixels = np.asarray(shown)
    else:
        import imagecodecs

        pixels = imagecodecs.png_decode(file.read())
    pixels = pixels.astype(header.dtype, copy=False)
    turn = TURNS.get(header.orientation)
    return pixels if turn is None else turn(pixels)


def _decode_plain(file: BinaryIO, header: _Header) -> Pixels | None:
    """Pixels as they are stored; None, and the file at its beginning, where Pillow has to decode it."""
    pixels = jpeg.decode(file.read()) if header.is_plain_jpeg else None
    if pixels is None:
        file.seek(0)
    return pixels


def _decode_resized(file: BinaryIO, header: _Header, shape: tuple[int, int], box: Box) -> Pixels:
    """The part `box` of the image as users see it, resized to `shape`."""
    from PIL import Image

    turn = TURNS.get(header.orientation)
    if turn is not None:
        shape, box = _stored(header, shape, box)
    (top, left, bottom, right), (rows, columns) = box, shape
    # libjpeg leaves out frequencies; twice the pixels that are wanted keep what shows.
    most = min((bottom - top) / rows, (right - left) / columns) / 2
    divisor = next((n for n in (8, 4, 2) if n <= most), 1)
    whole = _decode_plain(file, header) if divisor == 1 else None
    with _picture(file) if whole is None else Image.fromarray(whole) as picture:
        step = _shrunk(picture, divisor)
        shown = picture if picture.mode == header.mode else picture.convert(header.mode)
        edges = (left / step, top / step, right / step, bottom / step)
        small = shown.resize((columns, rows), Image.Resampling.BILINEAR, edges)
        pixels = np.asarray(small)
    return pixels if turn is None else turn(pixels)


def _shrunk(picture: Any, divisor: int) -> float:
    """Have a JPEG decoded small; returns how many of its pixels become one."""
    width, height = picture.size
    if divisor == 1 or picture.format != "JPEG":
        return 1.0
    drafted = picture.draft(None, (max(1, width // divisor), max(1, height // divisor)))
    return float(width / drafted[1][2]) if drafted else 1.0


def _stored(header: _Header, shape: tuple[int, int], box: Box) -> tuple[tuple[int, int], Box]:
    """A size and a part of the picture as users see it, in the picture as it is stored."""
    corners = TURNS[header.orientation](np.arange(4).reshape(2, 2))
    low, high = list(box[:2]), list(box[2:])
    for axis, first in enumerate(np.argwhere(corners == 0)[0]):
        if first:  # the first stored pixel is seen at the far end of this axis
            n = header.shape[axis]
            low[axis], high[axis] = n - high[axis], n - low[axis]
    if header.orientation >= 5:
        return (shape[1], shape[0]), (low[1], low[0], high[1], high[0])
    return shape, (low[0], low[1], high[0], high[1])


def _unreadable(path: Path, error: Exception) -> ImageError:
    if isinstance(error, ImageError):
        return error
    reason = str(error).partition("\n")[0] or type(error).__name__
    return UnreadableImageError(f"{path}: does not decode: {reason}",
                                "copy the file again from where it came from, or leave it out")
