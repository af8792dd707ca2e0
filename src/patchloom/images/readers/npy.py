"""NumPy's own format, mapped into memory one read at a time, or read by ranges.

Arrays of Python objects are refused: they are pickles.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ImageMismatchError, UnreadableImageError
from patchloom.geometry.region import Region
from patchloom.images.array import ArrayImage, check_dtype
from patchloom.images.files import File, Range, Ranged, in_memory
from patchloom.images.guess import axes_or_guess, blocks
from patchloom.images.image import Image, ImageInfo
from patchloom.images.limits import check_chunks
from patchloom.images.remote import GAP, LARGEST

__all__ = ["NpyImage", "NpyReader", "RangedNpy"]

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
PARSING = threading.Lock()
"""NumPy parses headers as Python source, which raises SystemError now and then where several threads do so at once:
https://github.com/python/cpython/issues/106905.
"""


class NpyReader:
    """Reads ``.npy`` files."""

    suffixes: tuple[str, ...] = (".npy",)

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether the file begins as NumPy's do."""
        return head.startswith(b"\x93NUMPY")

    def open(self, path: Path, *, axes: str | None = None) -> Image:
        """Read the header; see `Reader.open`."""
        data = in_memory(path)
        try:
            with path.open("rb") as file:
                version = np.lib.format.read_magic(file)
                with PARSING:
                    shape, fortran, stored = HEADERS[version](file)
                offset = file.tell()
        except KeyError:
            raise UnreadableImageError(f"{path}: not readable as a NumPy array: of version {version}",
                                       "save it again with numbers only") from None
        except Exception as error:  # a damaged header makes NumPy's parser raise almost anything
            raise UnreadableImageError(f"{path}: not readable as a NumPy array: {error}",
                                       "save it again with numpy.save") from error
        dtype = check_dtype(path, stored)
        letters = axes_or_guess(path, shape, axes)
        needed, size = offset + math.prod(shape) * stored.itemsize, path.stat().st_size
        if needed > size:
            raise UnreadableImageError(f"{path}: truncated: it should have {needed} bytes and has {size}",
                                       "copy the file again from where it came from")
        info = check_chunks(path, ImageInfo(letters, (tuple(shape),), dtype, (blocks(letters, shape),)))
        order: Literal["F", "C"] = "F" if fortran else "C"
        if data is not None:
            return ArrayImage(np.ndarray(shape, stored, data, offset, order=order), letters, str(path))
        if isinstance(path, Ranged):
            return RangedNpy(path.ranges(), info, stored, offset, order)
        return NpyImage(path, info, stored, offset, order)


class NpyImage:
    """One array in a file.

    Each read maps the file, copies its part and lets go, so that resident memory does not grow with what was read.
    """

    def __init__(self, path: Path, info: ImageInfo, stored: np.dtype[Any], offset: int, order: Any) -> None:
        self.info = info
        self._path, self._stored, self._offset, self._order = path, stored, offset, order

    def read(self, region: Region, level: int = 0) -> NDArray[Any]:
        """Copy a region; see `Image.read`."""
        if level != 0:
            raise ImageMismatchError(f"{self._path} has no level {level}", "NumPy files have level 0 only")
        if any(a < 0 or b > n for a, b, n in zip(region.start, region.stop, self.info.shape, strict=True)):
            raise ValueError(f"region {region} reaches beyond the shape {self.info.shape}")
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset + math.prod(self.info.shape) * self._stored.itemsize:
                    raise UnreadableImageError(f"{self._path}: became shorter since it was opened", "copy it again")
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    array = np.ndarray(self.info.shape, self._stored, mapped, self._offset, order=self._order)
                    pixels = array[region.slices].astype(self.info.dtype, order="C", copy=True)
                    del array
                    return pixels
        except OSError as error:
            if isinstance(error, UnreadableImageError):
                raise
            raise UnreadableImageError(f"{self._path}: cannot be read: {error.strerror or error}") from error

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def __repr__(self) -> str:
        return f"<NpyImage {self._path} {self.info.axes} {self.info.shape} {self.info.dtype}>"


class RangedNpy:
    """One array in a file that is far away: of a region the runs of elements that lie near each other are read."""

    def __init__(self, file: File, info: ImageInfo, stored: np.dtype[Any], offset: int, order: str) -> None:
        self.info = info
        self._file, self._stored, self._offset = file, stored, offset
        self._step = -1 if order == "F" else 1
        shape = info.shape[:: self._step]
        self._strides = tuple(math.prod(shape[i + 1 :]) * stored.itemsize for i in range(len(shape)))

    def read(self, region: Region, level: int = 0) -> NDArray[Any]:
        """Read a region; see `Image.read`."""
        if level != 0:
            raise ImageMismatchError(f"{self._file.path} has no level {level}", "NumPy files have level 0 only")
        if any(a < 0 or b > n for a, b, n in zip(region.start, region.stop, self.info.shape, strict=True)):
            raise ValueError(f"region {region} reaches beyond the shape {self.info.shape}")
        if 0 in region.shape:
            return np.empty(region.shape, self.info.dtype)
        runs, inner = self._runs(region)
        self._file.fetch(runs)
        parts = np.stack([self._cut(self._file.read(*run), inner) for run in runs])
        pixels = parts.reshape(region.shape[:: self._step])
        return pixels.transpose(range(pixels.ndim)[:: self._step]).astype(self.info.dtype, copy=False)

    @property
    def is_far(self) -> bool:
        """See `FetchesAhead`."""
        return self._file.is_far

    def fetch(self, regions: Sequence[Region], level: int = 0) -> None:
        """Begin to read what regions need; see `FetchesAhead`."""
        self._file.fetch([run for region in regions if 0 not in region.shape for run in self._runs(region)[0]])

    def close(self) -> None:
        """Forget what was read."""
        self._file.close()

    def _runs(self, region: Region) -> tuple[list[Range], tuple[int, ...]]:
        """Where the elements of a region are, in the order of the file, and the shape of what is cut out of each run.

        A run goes on over little that is not wanted; what is between two runs is more than that.
        """
        start, extent = region.start[:: self._step], region.shape[:: self._step]
        first, length = len(extent), self._stored.itemsize
        while first and self._strides[first - 1] - length <= GAP:
            longer = (extent[first - 1] - 1) * self._strides[first - 1] + length
            if longer > LARGEST:
                break
            first, length = first - 1, longer
        begin = self._offset + sum(a * stride for a, stride in zip(start, self._strides, strict=True))
        steps = itertools.product(*(range(0, n * stride, stride)
                                    for n, stride in zip(extent[:first], self._strides, strict=False)))
        return [(begin + sum(step), length) for step in steps], extent[first:]

    def _cut(self, data: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
        strides = self._strides[len(self._strides) - len(shape) :]
        return np.lib.stride_tricks.as_strided(np.frombuffer(data, self._stored), shape, strides, writeable=False)

    def __repr__(self) -> str:
        return f"<RangedNpy {self._file.path} {self.info.axes} {self.info.shape} {self.info.dtype}>"
