"""TIFF in all its kinds: strips, tiles, BigTIFF, pyramids, stacks, OME-TIFF, ImageJ, Aperio SVS, GeoTIFF.

tifffile reads the headers; segments are read here, so that threads do not wait for each other.

- The main image is shown: the levels of a pyramid, never a thumbnail, label, macro or mask.
- Samples of a pixel are channels (``C``). Pages are ``C``, ``Z`` or ``T`` where OME or ImageJ say so, and ``S`` where
  they merely follow each other. Of several OME images in a file the first is shown; of an OME set of files, the file
  given. Axes of extent 1 are left out, except Y and X.
- Palette images come as RGB, except OME and ImageJ files, whose values are measurements. JPEG comes as RGB. Where 0 is
  white (`MinIsWhite`) values are as stored. The orientation tag is not applied, as in other software for TIFF.
- One-bit images are boolean. Tiles that are not stored have the file's nodata value, or 0.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ImageError, UnreadableImageError
from patchloom.geometry.region import Region
from patchloom.images.files import File, open_file
from patchloom.images.image import ImageInfo
from patchloom.images.limits import check_chunks
from patchloom.images.readers.tiff_directory import SegmentTable, large_tables
from patchloom.images.readers.tiff_segments import Level

__all__ = ["TiffImage", "TiffReader"]

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# What tifffile has to say is said by our errors, once.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class TiffReader:
    """Reads TIFF files and what is built on TIFF."""

    suffixes: tuple[str, ...] = (
        ".tif", ".tiff", ".btf", ".tf2", ".tf8", ".gtif", ".svs", ".ndpi", ".scn", ".bif", ".qptiff", ".lsm", ".stk",
    )  # fmt: skip

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether the file begins like a TIFF or BigTIFF file."""
        return head[:4] in MAGIC

    def open(self, path: Path, *, axes: str | None = None) -> TiffImage:
        """Read the headers; see `Reader.open`."""
        try:
            file = open_file(path)
        except OSError as error:
            raise UnreadableImageError(f"{path}: cannot be opened: {error.strerror}") from error
        try:
            info, levels = _headers(path, file, axes)
        except BaseException:
            file.close()
            raise
        return TiffImage(file, info, levels)


class TiffImage:
    """One TIFF file. Threads read at the same time, each its own segments."""

    def __init__(self, file: File, info: ImageInfo, levels: tuple[Level, ...]) -> None:
        self.info = info
        self._file = file
        self._levels = levels

    def read(self, region: Region, level: int = 0) -> NDArray[Any]:
        """Decode a region; see `Image.read`."""
        return self._levels[level].read(region)

    @property
    def is_far(self) -> bool:
        """See `FetchesAhead`."""
        return self._file.is_far

    def fetch(self, regions: Sequence[Region], level: int = 0) -> None:
        """Begin to read what regions need; see `FetchesAhead`."""
        self._levels[level].fetch(regions)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def __repr__(self) -> str:
        return f"<TiffImage {self._file.path} {self.info.axes} {self.info.shape} {self.info.dtype}>"


def _tables(file: File) -> dict[int, SegmentTable]:
    """Tables that are left where they are; none where directories have a form of their own, or are damaged."""
    try:
        return large_tables(file)
    except (UnreadableImageError, ValueError, struct.error):
        return {}  # the check of the directories says what is wrong


def _headers(path: Path, file: File, axes: str | None) -> tuple[ImageInfo, tuple[Level, ...]]:
    import tifffile

    from patchloom.images.readers.tiff_layout import check_announced, lay_out, main_series
    from patchloom.images.readers.tiff_metadata import read_metadata

    try:
        tables = _tables(file) if file.is_far else {}
        holes = [one for table in tables.values() for one in table.ranges]
        # Names of other files in OME metadata are not followed: this file is what was asked for.
        with tifffile.TiffFile(file.headers(holes), _multifile=False) as tif:
            if len(tif.pages):
                check_announced(file, tif.pages.first.description)
            layout = lay_out(tif, file, axes, tables)
            meta = read_metadata(tif, main_series(tif.series).keyframe)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # a damaged header makes tifffile raise almost anything
        reason = str(error) or type(error).__name__
        raise UnreadableImageError(f"{path}: not readable as TIFF: {reason}",
                                   "copy the file again from where it came from, or leave it out") from error
    channels = layout.levels[0].shape[layout.axes.index("C")] if "C" in layout.axes else 1
    info = ImageInfo(
        layout.axes, tuple(level.shape for level in layout.levels), np.dtype(layout.dtype),
        tuple(level.chunk for level in layout.levels), meta.spacing, meta.unit, meta.crs, meta.origin,
        meta.channels if len(meta.channels) == channels else ())
    return check_chunks(path, info), layout.levels
