"""From the headers of a TIFF file to the table of its segments, checked by arithmetic before any memory is taken."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ImageTooLargeError, UnreadableImageError
from patchloom.images.files import File
from patchloom.images.readers.tiff_axes import SeriesAxes, series_axes
from patchloom.images.readers.tiff_directory import SegmentTable, check_directories
from patchloom.images.readers.tiff_segments import Decode, Level, ListedSegments, Segments, StoredSegments

__all__ = ["Layout", "lay_out"]

BAND_BYTES = 1 << 20
"""Rows that are not compressed are read in bands of about this size."""
MAX_PLANES = 10**7
"""Planes that OME metadata may announce; a file with more would be a terabyte of headers."""
MAX_SEGMENT_BYTES = 16 << 30
JPEG = {6, 7, 34892, 33007}
JPEG2000 = {33003, 33004, 33005, 34712, 34713}
APERIO_YCBCR = 33003
PALETTE = 3

Table = tuple[NDArray[np.uint64], NDArray[np.uint64]]
Tables = Mapping[int, SegmentTable]


@dataclass(frozen=True)
class Layout:
    """Axes and resolution levels of the main image of a file."""

    axes: str
    levels: tuple[Level, ...]
    dtype: np.dtype[Any]


def check_announced(file: File, description: str) -> None:
    """Refuse OME metadata that announce more planes than any file has: a list as long would be made of them."""
    for name, number in re.findall(r'(PlaneCount|NumPlanes|IFD|(?:Size|First)[ZCT])="(\d+)"', description):
        if int(number) > MAX_PLANES:
            raise UnreadableImageError(f"{file.path}: its OME metadata announce {name} {number}",
                                       "the header is damaged")


def lay_out(tif: Any, file: File, axes: str | None, tables: Tables) -> Layout:
    """Lay out the main image: of a pyramid its levels, never a thumbnail, label, macro or mask.

    Parameters
    ----------
    tif
        An open `tifffile.TiffFile`.
    file
        To read segments from.
    axes
        Names that the user gives.
    tables
        By the place of a page, tables of its segments that `tif` has not read.

    Raises
    ------
    UnreadableImageError
        If the header contradicts itself or the size of the file, or pixels are compressed in an unknown way.
    """
    series = main_series(tif.series)
    if series is None:
        raise UnreadableImageError(f"{file.path}: there is no image in it",
                                   "copy the file again from where it came from")
    _check_complete(tif, series, file)
    first = _level(file, 0, series, axes, tables)
    letters, base = first[0].letters, first[1]
    levels = [base]
    for smaller in series.levels[1:]:
        fits = smaller.dtype == series.dtype and smaller.keyframe.shaped[4] == series.keyframe.shaped[4]
        if not fits:
            continue
        found, level = _level(file, len(levels), smaller, axes, tables)
        if found.letters == letters and _reduces(level, levels[-1], letters):
            levels.append(level)
    return Layout(letters, tuple(levels), base.dtype)


def main_series(series: Sequence[Any]) -> Any:
    """The series that holds the image: the first one where the format orders them, else the largest."""
    if not series:
        return None
    if series[0].kind != "generic":
        return series[0]
    images = [one for one in series if not (one.keyframe.is_mask or one.keyframe.is_reduced)] or list(series)
    return max(images, key=lambda one: one.size)


def _reduces(level: Level, larger: Level, letters: str) -> bool:
    """Whether only rows, columns and depth become fewer."""
    same = all(a == b for letter, a, b in zip(letters, level.shape, larger.shape, strict=True) if letter not in "ZYX")
    return same and math.prod(level.shape) < math.prod(larger.shape)


def _check_complete(tif: Any, series: Any, file: File) -> None:
    """A file that lost its end has fewer pages than it should, and would open with what is left."""
    meta = tif.imagej_metadata if tif.is_imagej else None
    if meta and series.kind != "imagej" and len(tif.pages) == 1 and int(meta.get("images", 1)) > 1:
        raise UnreadableImageError(f"{file.path}: truncated: it should hold {meta['images']} images",
                                   "copy the file again from where it came from")
    if not tif.is_ndpi:  # whose directories have a form of their own
        check_directories(file)


def _level(
    file: File, number: int, series: Any, axes: str | None, tables: Tables
) -> tuple[SeriesAxes, Level]:
    keyframe = series.keyframe
    if series.dtype is None or keyframe.dtype is None or 0 in keyframe.shaped:
        bits = keyframe.bitspersample
        raise UnreadableImageError(f"{file.path}: pixels of {bits} bits in sample format {keyframe.sampleformat} "
                                   f"and shape {keyframe.shape} are not supported",
                                   "convert it to another type of pixel")
    palette = _palette(series)
    dtype = np.dtype(np.uint8) if palette is not None else np.dtype(keyframe.dtype).newbyteorder("=")
    samples = 3 if palette is not None else int(keyframe.shaped[4])
    found = series_axes(file.path, series, samples, axes)
    page = (*map(int, keyframe.shaped[:4]), samples)
    if keyframe.is_final and not keyframe.is_tiled and palette is None:
        segment, segments, decode = _bands(file, series, page)
    else:
        segment, segments = _segments(file, series, page, tables)
        decode = _decoder(file, series, segment, palette)
    fill = 0 if palette is not None else keyframe.nodata
    return found, Level(file, number, found.lead, page, segment, segments, decode, dtype, fill, found.places)


def _palette(series: Any) -> NDArray[np.uint8] | None:
    """Colours of a palette image, (n, 3); None for microscopy, where colours are only how the values are shown."""
    keyframe = series.keyframe
    if keyframe.photometric != PALETTE or keyframe.samplesperpixel != 1 or series.kind in {"ome", "imagej"}:
        return None
    table = keyframe.colormap
    if table is None or np.dtype(keyframe.dtype).kind not in "ub":
        return None
    colours = np.asarray(table).T
    return np.ascontiguousarray(colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)


def _bands(file: File, series: Any, page: tuple[int, ...]) -> tuple[tuple[int, int, int], Segments, Decode]:
    """Pages whose rows follow each other as they are: read in bands of rows, however they were cut in strips."""
    keyframe = series.keyframe
    planes, depth, rows, columns, samples = page
    stored = np.dtype(keyframe.parent.byteorder + np.dtype(keyframe.dtype).char)
    row_bytes = columns * samples * stored.itemsize
    band = min(rows, max(1, BAND_BYTES // row_bytes))
    page_bytes = planes * depth * rows * row_bytes
    starts = _page_starts(series, page_bytes)
    if int(starts.max(initial=0)) + page_bytes > file.size:
        raise _truncated(file, int(starts.max()) + page_bytes)
    within = np.arange(0, rows, band, dtype=np.uint64) * np.uint64(row_bytes)
    plane_starts = np.arange(planes * depth, dtype=np.uint64) * np.uint64(rows * row_bytes)
    offsets = (starts[:, None, None] + plane_starts[:, None] + within).ravel()
    lengths = np.minimum(np.uint64(band * row_bytes), np.uint64(rows * row_bytes) - within)
    missing = np.repeat(starts == 0, planes * depth * len(within))
    counts = np.where(missing, np.uint64(0), np.tile(lengths, len(starts) * planes * depth))

    def decode(data: bytes, _page: int, _index: int) -> NDArray[Any]:
        pixels = np.frombuffer(data, stored).reshape(1, -1, columns, samples)
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)

    return (1, band, columns), ListedSegments(offsets, counts), decode


def _page_starts(series: Any, page_bytes: int) -> NDArray[np.uint64]:
    """Where each page begins; 0 for a page that is not stored."""
    offset = series.dataoffset
    if offset is not None:  # one header for many pages, or pages without a gap
        return np.uint64(offset) + np.arange(len(series), dtype=np.uint64) * np.uint64(page_bytes)
    return np.array([0 if page is None else page.dataoffsets[0] for page in series], np.uint64)


def _segments(
    file: File, series: Any, page: tuple[int, ...], tables: Tables
) -> tuple[tuple[int, int, int], Segments]:
    """Strips or tiles as the header lists them."""
    keyframe = series.keyframe
    if keyframe.is_tiled:
        segment = (int(keyframe.tiledepth), int(keyframe.tilelength), int(keyframe.tilewidth))
    else:
        segment = (1, max(1, int(keyframe.rowsperstrip)), page[3])
    if 0 in segment:
        raise UnreadableImageError(f"{file.path}: its header claims tiles of {segment} pixels", "the header is damaged")
    per_page = page[0] * math.prod(-(-n // size) for n, size in zip(page[1:4], segment, strict=True))
    size = math.prod(segment) * page[4] * np.dtype(keyframe.dtype).itemsize
    kind = "tile" if keyframe.is_tiled else "strip"
    if size > MAX_SEGMENT_BYTES:
        raise ImageTooLargeError(
            f"{file.path}: its header claims {page[2]} x {page[3]} pixels in {kind}s of {size / 1e9:,.0f} GB",
            "store it in tiles, or check whether the header is damaged")
    far = [None if one is None else tables.get(int(one.offset)) for one in series]
    stored = [table for table in far if table is not None]
    if len(stored) == len(far):
        for table in stored:
            _check_listed(file, min(table.offsets[2], table.counts[2]), per_page, kind)
        return segment, StoredSegments(file, stored, per_page)
    pages = [_page_table(file, one, table, per_page, kind) for one, table in zip(series, far, strict=True)]
    offsets, counts = (np.concatenate(arrays) for arrays in zip(*pages, strict=True))
    counts[offsets == 0] = 0
    ends = np.where(counts > 0, offsets + counts, 0)
    if int(ends.max(initial=0)) > file.size:
        raise _truncated(file, int(ends.max()))
    return segment, ListedSegments(offsets, counts)


def _page_table(file: File, page: Any, far: SegmentTable | None, per_page: int, kind: str) -> Table:
    if page is None:
        return np.zeros(per_page, np.uint64), np.zeros(per_page, np.uint64)
    lists = (page.dataoffsets, page.databytecounts) if far is None else StoredSegments.read(file, far)
    _check_listed(file, min(map(len, lists)), per_page, kind)
    return np.asarray(lists[0][:per_page], np.uint64), np.asarray(lists[1][:per_page], np.uint64)


def _check_listed(file: File, listed: int, per_page: int, kind: str) -> None:
    if listed < per_page:
        raise UnreadableImageError(
            f"{file.path}: its header claims {per_page} {kind}s and lists {listed}", "the header is damaged")


def _truncated(file: File, needed: int) -> UnreadableImageError:
    return UnreadableImageError(f"{file.path}: truncated: it should have at least {needed} bytes and has {file.size}",
                                "copy the file again from where it came from")


def _decoder(file: File, series: Any, segment: tuple[int, int, int], palette: NDArray[np.uint8] | None) -> Decode:
    """One closure that decodes any segment of a level."""
    keyframe = series.keyframe
    try:
        decode = keyframe.decode
        decode(None, 0)  # tifffile's decoder for what cannot be decoded raises here
    except (ValueError, NotImplementedError) as error:
        code = int(keyframe.compression)
        raise UnreadableImageError(f"{file.path}: its pixels cannot be decoded (compression {code}): {error}",
                                   "convert it, for example to deflate or JPEG") from error
    tables = [None if page is None else page.jpegtables for page in series]
    header = keyframe.jpegheader
    check = _size_check(keyframe, segment)
    after = _afterwards(keyframe, palette)

    def decode_segment(data: bytes, page: int, index: int) -> NDArray[Any]:
        if check is not None:
            check(data)
        pixels: NDArray[Any] = decode(data, index, jpegtables=tables[page], jpegheader=header)[0]
        return pixels if after is None else after(pixels)

    return decode_segment


def _afterwards(keyframe: Any, palette: NDArray[np.uint8] | None) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
    if palette is not None:
        return lambda pixels: palette[pixels[..., 0].astype(np.intp, copy=False)]
    if keyframe.compression == APERIO_YCBCR and keyframe.shaped[4] == 3:
        return rgb_of_ycbcr
    return None


def rgb_of_ycbcr(pixels: NDArray[Any]) -> NDArray[Any]:
    """RGB of YCbCr as JFIF defines it; uint8, channels last."""
    y, cb, cr = (pixels[..., i].astype(np.float32) for i in range(3))
    cb -= 128
    cr -= 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def _size_check(keyframe: Any, segment: tuple[int, int, int]) -> Callable[[bytes], None] | None:
    """Refuses a segment that would decode to more pixels than it may have; None where the decoder does so itself."""
    compression = int(keyframe.compression)
    if compression in JPEG and keyframe.jpegheader is None:
        size_of = jpeg_size
    elif compression in JPEG2000:
        size_of = jpeg2000_size
    else:
        return None
    most = (segment[1] + 16) * (segment[2] + 16)

    def check(data: bytes) -> None:
        rows, columns = size_of(data)
        if rows * columns > most:
            raise ValueError(f"it claims {rows} x {columns} pixels")

    return check


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Rows and columns that a JPEG stream announces; zeros where it does not."""
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            return data[place + 5] << 8 | data[place + 6], data[place + 7] << 8 | data[place + 8]
        place += 2 + (data[place + 2] << 8 | data[place + 3])
    return 0, 0


def jpeg2000_size(data: bytes) -> tuple[int, int]:
    """Rows and columns that a JPEG 2000 code stream announces; zeros where it does not."""
    place = data.find(b"\xff\x4f\xff\x51", 0, 1024)
    if place < 0 or len(data) < place + 16:
        return 0, 0
    columns, rows = struct.unpack(">II", data[place + 8 : place + 16])
    return rows, columns
