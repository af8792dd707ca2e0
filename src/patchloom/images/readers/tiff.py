"""TIFF: strips and tiles, BigTIFF, pyramids, stacks, OME, SVS and GeoTIFF.

tifffile reads the headers and knows the codecs; segments are read with `os.pread` and decoded outside of any lock, so that
threads decode side by side.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from patchloom.errors import ImageMismatchError, ImageTooLargeError, UnreadableImageError
from patchloom.geometry.axes import check_axes
from patchloom.geometry.region import Region
from patchloom.images.image import Image, ImageInfo
from patchloom.images.readers.tiff_metadata import geography, spacing_of

__all__ = ["TiffReader"]

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
LARGEST_SEGMENT = 16 << 30
"""Bytes of one decoded segment above which an image is refused whatever the memory is."""
PAGES = 256
"""Pages whose tables are kept."""
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class TiffReader:
    """TIFF and everything built on it."""

    suffixes = (".tif", ".tiff", ".btf", ".tf8", ".svs", ".ome.tif", ".ome.tiff", ".qptiff", ".lsm", ".stk")

    def recognises(self, path: Path, head: bytes) -> bool:
        """TIFF and BigTIFF of either byte order."""
        return head[:4] in SIGNATURES

    def open(self, path: Path, *, axes: str | None = None) -> Image:
        """Read the headers of the first series."""
        try:
            file = tifffile.TiffFile(path)
        except Exception as error:
            raise UnreadableImageError(f"{path} is no readable TIFF: {_line(error)}", "is it truncated?") from error
        try:
            return _opened(path, file, axes)
        except (UnreadableImageError, ImageMismatchError, ImageTooLargeError):
            file.close()
            raise
        except Exception as error:
            file.close()
            raise UnreadableImageError(f"{path} has headers that cannot be read: {_line(error)}", "is it damaged?") from error


@dataclass(frozen=True)
class _Layout:
    """How the pages of a level are cut into segments."""

    keyframe: Any
    pages: Any
    height: int
    width: int
    samples: int
    separate: bool
    rows: int
    columns: int
    down: int
    across: int

    @property
    def segments(self) -> int:
        """Segments of one page."""
        return self.down * self.across * (self.samples if self.separate else 1)


def _opened(path: Path, file: tifffile.TiffFile, axes: str | None) -> Image:
    if not file.series:
        raise UnreadableImageError(f"{path} holds no image", "is it truncated?")
    series = file.series[0]
    if math.prod(series.shape) == 0:
        raise UnreadableImageError(f"{path} holds an image without pixels", "is it damaged?")
    leading = series.axes[: len(series.axes) - len(series.keyframe.axes)]
    layouts = [_layout(path, level) for level in series.levels]
    size = os.stat(path).st_size
    for layout in layouts:
        _check_segments(path, layout, layout.keyframe, size)
    return _TiffImage(path, file, series, leading, layouts, axes)


def _layout(path: Path, level: Any) -> _Layout:
    page = level.keyframe
    if page.imagedepth != 1 or page.tiledepth not in (0, 1):
        raise UnreadableImageError(f"{path} stores volumes in one page, which is not supported", "store it as pages")
    if page.compression not in tifffile.TIFF.DECOMPRESSORS:
        name = getattr(page.compression, "name", page.compression)
        raise UnreadableImageError(f"{path} is compressed in a way that cannot be decoded ({name})",
                                   "convert it, for example to deflate")
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (
        min(page.rowsperstrip or page.imagelength, page.imagelength), page.imagewidth)
    separate = page.planarconfig == 2 and page.samplesperpixel > 1
    return _Layout(page, level.pages, page.imagelength, page.imagewidth, page.samplesperpixel, separate, rows, columns,
                   -(-page.imagelength // rows), -(-page.imagewidth // columns))


def _check_segments(path: Path, layout: _Layout, page: Any, size: int) -> None:
    """Arithmetic on the tables only: what the header claims has to be there before memory is taken for it."""
    nbytes = layout.rows * layout.columns * (1 if layout.separate else layout.samples) * layout.keyframe.dtype.itemsize
    if nbytes > LARGEST_SEGMENT:
        raise ImageTooLargeError(
            f"{path} claims {layout.height:,} x {layout.width:,} pixels in segments of {nbytes / 1e9:,.0f} GB",
            "is the header damaged? if not, store it in tiles")
    if len(page.dataoffsets) < layout.segments:
        raise UnreadableImageError(
            f"{path} claims {layout.height:,} x {layout.width:,} pixels and has {len(page.dataoffsets):,} of "
            f"{layout.segments:,} segments", "is it truncated?")
    ends = np.asarray(page.dataoffsets, np.int64) + np.asarray(page.databytecounts, np.int64)
    if len(ends) and int(ends.max()) > size:
        raise UnreadableImageError(f"{path} is truncated: it ends at byte {size:,}, and its pixels at {int(ends.max()):,}",
                                   "copy it again")


class _TiffImage:
    """First series of a TIFF file."""

    def __init__(
        self, path: Path, file: tifffile.TiffFile, series: Any, leading: str, layouts: Sequence[_Layout], axes: str | None
    ) -> None:
        self._path, self._file, self._layouts = path, file, layouts
        self._descriptor: int | None = os.open(path, os.O_RDONLY)
        self._size = os.fstat(self._descriptor).st_size
        self._lock = threading.Lock()
        self._leading_shape = tuple(series.shape[: len(leading)])
        self._palette = _palette(layouts[0].keyframe)
        self._contiguous = self._memory_map(series)
        self._info = self._describe(series, leading, axes)
        self._page = lru_cache(PAGES)(self._load_page)
        fill = layouts[0].keyframe.nodata
        self._fill = fill if isinstance(fill, (int, float)) else 0

    @property
    def info(self) -> ImageInfo:
        """What the headers say."""
        return self._info

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)
                self._file.close()

    def read(self, region: Region, level: int = 0) -> NDArray[Any]:
        """Decode a region; a single segment is returned as it is."""
        box = dict(zip(self._info.axes, zip(region.start, region.stop, strict=True), strict=True))
        loops = [range(*box[axis]) if axis in box else range(1) for axis in self._leading]
        rows, columns = box["Y"], box["X"]
        samples = box[self._sample_axis] if self._sample_axis else (0, self._layouts[level].samples)
        pages = [self._read_page(level, self._page_number(index), rows, columns, samples)
                 for index in itertools.product(*loops)]
        stacked = pages[0][None] if len(pages) == 1 else np.stack(pages)
        whole = stacked.reshape(*map(len, loops), *pages[0].shape)
        # Now (*leading, Y, X, samples); the file's own order drops what it does not name.
        order = [axis for axis in self._leading] + ["Y", "X", self._sample_axis or "-"]
        whole = whole[tuple(slice(None) if axis in self._info.axes else 0 for axis in order)]
        kept = [axis for axis in order if axis in self._info.axes]
        return whole.transpose([kept.index(axis) for axis in self._info.axes])

    def _describe(self, series: Any, leading: str, axes: str | None) -> ImageInfo:
        keyframe = series.keyframe
        samples = 3 if self._palette is not None else keyframe.samplesperpixel
        names = _names(leading, samples > 1, self._path)
        full = [*self._leading_shape, keyframe.imagelength, keyframe.imagewidth] + ([samples] if samples > 1 else [])
        own = [*names, "Y", "X"] + (["C"] if samples > 1 else [])
        keep = [i for i, (axis, n) in enumerate(zip(own, full, strict=True)) if n > 1 or axis in "YXC"]
        if axes is not None:
            own = self._renamed(own, keep, axes)
        self._leading = [own[i] if i in keep else f"-{i}" for i in range(len(names))]
        self._sample_axis = own[-1] if samples > 1 else ""
        chosen = [own[i] for i in keep]
        planar = samples > 1 and self._layouts[0].separate
        if planar:  # the file's own order
            chosen.insert(len(chosen) - 3, chosen.pop())
        sizes, chunks = [], []
        for layout in self._layouts:
            extent = dict(zip(own, full, strict=True)) | {own[len(names)]: layout.height, own[len(names) + 1]: layout.width}
            chunk = {own[len(names)]: layout.rows, own[len(names) + 1]: layout.columns}
            if samples > 1:
                chunk[self._sample_axis] = 1 if planar else samples
            sizes.append(tuple(extent[axis] for axis in chosen))
            chunks.append(tuple(min(extent[axis], chunk.get(axis, 1)) for axis in chosen))
        spacing, unit = spacing_of(self._file, keyframe)
        crs, pixel_scale, origin = geography(keyframe)
        if pixel_scale:
            spacing, unit = {**spacing, **pixel_scale}, {}
        dtype = np.dtype(np.uint8) if self._palette is not None or keyframe.dtype == bool else keyframe.dtype
        return ImageInfo("".join(chosen), tuple(sizes), np.dtype(dtype).newbyteorder("="), tuple(chunks),
                         {axis: size for axis, size in spacing.items() if axis in chosen}, unit, crs, origin)

    def _renamed(self, own: list[str], keep: list[int], axes: str) -> list[str]:
        try:
            axes = check_axes(axes, [0] * len(keep))
        except ValueError as error:
            raise ImageMismatchError(f"{self._path}: {error}", f"its axes are {''.join(own[i] for i in keep)}") from None
        at = {i: axis for i, axis in zip(keep, axes, strict=True)}
        renamed = [at.get(i, axis) for i, axis in enumerate(own)]
        y = own.index("Y")
        if [renamed[y], renamed[y + 1]] != ["Y", "X"]:
            raise ImageMismatchError(f"{self._path}: axes {axes} would turn its pages round",
                                     f"its axes are {''.join(own[i] for i in keep)}")
        return renamed

    def _memory_map(self, series: Any) -> Any:
        """Stacks of which the file describes one page only (ImageJ) are one block of bytes."""
        number = math.prod(self._leading_shape)
        if number <= len(series.pages):
            return None
        if series.dataoffset is None:
            raise UnreadableImageError(f"{self._path} claims {number} pages and has {len(series.pages)}", "is it truncated?")
        keyframe = series.keyframe
        shape = (number, keyframe.imagelength, keyframe.imagewidth, keyframe.samplesperpixel)
        dtype = keyframe.dtype.newbyteorder(self._file.byteorder)
        if series.dataoffset + math.prod(shape) * dtype.itemsize > self._size:
            raise UnreadableImageError(f"{self._path} is truncated: its pages are not all there", "copy it again")
        return np.memmap(self._path, dtype, "r", series.dataoffset, shape)

    def _page_number(self, index: Sequence[int]) -> int:
        return int(np.ravel_multi_index(tuple(index), self._leading_shape)) if self._leading_shape else 0

    def _load_page(self, level: int, number: int) -> tuple[Sequence[int], Sequence[int], Any, Any]:
        layout = self._layouts[level]
        with self._lock:
            page = layout.pages[number]
            if page is None:
                raise UnreadableImageError(f"{self._path}: page {number} is missing", "is it one file of several?")
            if page is not layout.keyframe:
                _check_segments(self._path, layout, page, self._size)
            return (page.dataoffsets, page.databytecounts, getattr(page, "jpegtables", None) or layout.keyframe.jpegtables,
                    layout.keyframe.jpegheader)

    def _read_page(
        self, level: int, number: int, rows: tuple[int, int], columns: tuple[int, int], samples: tuple[int, int]
    ) -> NDArray[Any]:
        """Pixels of one page: ``(rows, columns, samples)``."""
        layout = self._layouts[level]
        if self._contiguous is not None:
            return np.asarray(self._contiguous[number, slice(*rows), slice(*columns), slice(*samples)], self._info.dtype)
        down = range(rows[0] // layout.rows, -(-rows[1] // layout.rows))
        across = range(columns[0] // layout.columns, -(-columns[1] // layout.columns))
        bands = range(*samples) if layout.separate else range(1)
        inner = slice(None) if layout.separate or self._palette is not None else slice(*samples)
        if len(down) == len(across) == len(bands) == 1:
            segment, top, left = self._segment(level, number, bands[0], down[0], across[0])
            return segment[rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left, inner]
        count = len(bands) if layout.separate else 3 if self._palette is not None else samples[1] - samples[0]
        out = np.empty((rows[1] - rows[0], columns[1] - columns[0], count), self._info.dtype)
        for position, (band, i, j) in enumerate(itertools.product(bands, down, across)):
            segment, top, left = self._segment(level, number, band, i, j)
            a, b = max(rows[0], top), min(rows[1], top + segment.shape[0])
            c, d = max(columns[0], left), min(columns[1], left + segment.shape[1])
            channel = position // (len(down) * len(across))
            target = slice(channel, channel + 1) if layout.separate else slice(None)
            out[a - rows[0] : b - rows[0], c - columns[0] : d - columns[0], target] = segment[
                a - top : b - top, c - left : d - left, inner]
        return out

    def _segment(self, level: int, number: int, band: int, i: int, j: int) -> tuple[NDArray[Any], int, int]:
        """One decoded segment ``(rows, columns, samples)`` clipped to the page, and where it starts."""
        layout = self._layouts[level]
        offsets, counts, tables, header = self._page(level, number)
        index = (band * layout.down + i) * layout.across + j
        top, left = i * layout.rows, j * layout.columns
        height, width = min(layout.rows, layout.height - top), min(layout.columns, layout.width - left)
        pixels = None
        if counts[index]:
            descriptor = self._descriptor
            if descriptor is None:
                raise UnreadableImageError(f"{self._path} was closed", "open it again")
            data = os.pread(descriptor, counts[index], offsets[index])
            try:
                pixels = layout.keyframe.decode(data, index, jpegtables=tables, jpegheader=header)[0]
            except Exception as error:
                raise UnreadableImageError(
                    f"{self._path}: the segment at row {top}, column {left} does not decode: {_line(error)}",
                    "is the file damaged?") from error
        if pixels is None:
            samples = 1 if layout.separate else layout.samples
            pixels = np.full((1, height, width, samples), self._fill, layout.keyframe.dtype)
        if pixels.shape[1] < height or pixels.shape[2] < width:
            raise UnreadableImageError(
                f"{self._path}: the segment at row {top}, column {left} holds {pixels.shape[1]} x {pixels.shape[2]} pixels, "
                f"not {height} x {width}", "is the file damaged?")
        pixels = pixels[0, :height, :width]
        if self._palette is not None:
            pixels = self._palette[pixels[..., 0]]
        return np.asarray(pixels, self._info.dtype), top, left


def _palette(page: Any) -> NDArray[np.uint8] | None:
    """Colours of a palette image, ``(n, 3)``; None for others."""
    if page.photometric != 3 or page.colormap is None:
        return None
    colours: NDArray[np.uint16] = np.asarray(page.colormap).T
    return (colours // 257 if colours.max() > 255 else colours).astype(np.uint8)


def _names(leading: str, has_samples: bool, path: Path) -> list[str]:
    """Our letters for tifffile's: what it does not know (pages without a meaning) becomes Z, T, S, in this order."""
    names = [axis if axis in "TZ" or (axis == "C" and not has_samples) else "" for axis in leading]
    free = [axis for axis in "ZTS" if axis not in names]
    for i, (axis, name) in enumerate(zip(leading, names, strict=True)):
        if not name:
            if not free:
                raise ImageMismatchError(f"{path} has axes {leading}YX, more than patchloom has names for", "split the file")
            names[i] = free.pop(0) if axis != "S" or "S" not in free else free.pop(free.index("S"))
    return names


def _line(error: BaseException) -> str:
    """First line of an error's text, or its class."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
