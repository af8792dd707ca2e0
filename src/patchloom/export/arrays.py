"""Arrays as NPY files that are written front to back: stitched maps, and arrays that grow row by row."""

from __future__ import annotations

import io
import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import DTypeLike, NDArray

from patchloom.export.blocks import PLANES_A_CHUNK, write_npy
from patchloom.export.container import Container
from patchloom.models.model import Head
from patchloom.predictions.dense import default_nodata
from patchloom.predictions.patches import list_values, score_columns

if TYPE_CHECKING:
    from patchloom.predictions.maps import StitchedMap

__all__ = ["GrowingArray", "GrowingTexts", "head_values", "temporary_file", "write_map"]

BAND_BYTES = 64 << 20
"""Rows of a map that are read at once; where one row of chunks is more, the map goes through a temporary file."""
HELD_BYTES = 8 << 20
"""Bytes of a growing array that are kept in memory."""
COPIED = 1 << 20


class GrowingArray:
    """Array whose number of rows shows at the end; beyond a few megabytes it is kept in a temporary file.

    Parameters
    ----------
    dtype, row
        Type of the numbers, and shape of one row.
    folder
        Where the temporary file may be.
    """

    def __init__(self, dtype: DTypeLike, row: Sequence[int], folder: Path) -> None:
        self.dtype, self._row, self.rows = np.dtype(dtype), tuple(row), 0
        self._file = temporary_file(folder)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what was appended so far."""
        return (self.rows, *self._row)

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows ``(n, *row)``."""
        self._file.write(np.ascontiguousarray(rows, self.dtype).reshape(-1).view(np.uint8).data)
        self.rows += len(rows)

    def write(self, container: Container, name: str) -> None:
        """Write the array as a member that is an NPY file."""
        header = _header(self.dtype, self.shape)
        size = len(header) + math.prod(self.shape) * self.dtype.itemsize
        self._file.seek(0)
        with container.member(name, size=size, compress=self.dtype.kind != "f") as file:
            file.write(header)
            shutil.copyfileobj(self._file, file, COPIED)

    def close(self) -> None:
        """Forget it, with its temporary file."""
        self._file.close()


class GrowingTexts:
    """One-dimensional array of texts that grows; kept as `GrowingArray` is.

    Parameters
    ----------
    folder
        Where the temporary file may be.
    """

    def __init__(self, folder: Path) -> None:
        self._file = temporary_file(folder)
        self.count, self._longest = 0, 1

    def append(self, text: str) -> None:
        """Add a text."""
        self._file.write(json.dumps(text).encode() + b"\n")
        self.count, self._longest = self.count + 1, max(self._longest, len(text))

    def write(self, container: Container, name: str) -> None:
        """Write the array as a member that is an NPY file, of a type that needs no pickle."""
        dtype = np.dtype(f"<U{self._longest}")
        header = _header(dtype, (self.count,))
        self._file.seek(0)
        with container.member(name, size=len(header) + self.count * dtype.itemsize) as file:
            file.write(header)
            for line in self._file:
                file.write(np.array([json.loads(line)], dtype).tobytes())

    def close(self) -> None:
        """Forget it, with its temporary file."""
        self._file.close()


def write_map(stitched: StitchedMap, container: Container, name: str, folder: Path) -> None:
    """Write a map as a member that is an NPY file, some rows at a time.

    Maps of class numbers are compressed, scores are stored: of floats little would be gained.
    """
    header = _header(stitched.dtype, stitched.shape)
    with container.member(name, size=len(header) + stitched.nbytes, compress=stitched.dtype.kind != "f") as file:
        rows = stitched.chunks[-2]
        band = rows * stitched.shape[-1] * stitched.dtype.itemsize * math.prod(stitched.chunks[:-2])
        if band > BAND_BYTES or math.prod(stitched.chunks[:-2]) > PLANES_A_CHUNK:
            _through_a_file(stitched, file, folder)
            return
        file.write(header)
        for plane in np.ndindex(*stitched.shape[:-2]):
            for first in range(0, stitched.shape[-2], rows):
                pixels = stitched[(*plane, slice(first, first + rows))]
                file.write(np.ascontiguousarray(pixels).data)


def head_values(batch: pa.RecordBatch, head: Head) -> NDArray[Any]:
    """Predictions ``(n, *head.shape)`` out of rows of a table; NaN, or the largest integer, for skipped patches."""
    names = score_columns(head)
    first = batch.column(names[0])
    if pa.types.is_fixed_size_list(first.type):
        values = _numbers(list_values(first), head).reshape(-1, *head.shape)
    elif head.shape:
        values = np.stack([_numbers(batch.column(name), head) for name in names], 1)
    else:
        values = _numbers(first, head)
    if first.null_count:
        values = values.copy()
        values[first.is_null().to_numpy(zero_copy_only=False)] = default_nodata(head.dtype)
    return values


def _numbers(column: Any, head: Head) -> NDArray[Any]:
    if column.null_count:  # replaced afterwards
        column = pc.if_else(column.is_null(), pa.scalar(head.dtype.type(0), column.type), column)
    numbers: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return numbers.astype(head.dtype, copy=False)


def temporary_file(folder: Path) -> tempfile.SpooledTemporaryFile[bytes]:
    """File in memory, on disk once it is large, and nowhere once it is closed."""
    return tempfile.SpooledTemporaryFile(HELD_BYTES, dir=str(folder), prefix=".patchloom-")


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def _through_a_file(stitched: StitchedMap, file: IO[bytes], folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".patchloom-") as temporary:
        path = Path(temporary) / "map.npy"
        write_npy(stitched, path)
        with path.open("rb") as whole:
            shutil.copyfileobj(whole, file, COPIED)
