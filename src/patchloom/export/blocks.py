"""Reading a stitched map block by block, such that each chunk is decoded once and memory does not grow with the map."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from patchloom.predictions.maps import StitchedMap

__all__ = ["blocks", "planes_of", "write_npy"]

BLOCK = (512, 8192)
"""Rows and columns of a block, about."""
PLANES_A_CHUNK = 4
"""Planes that may share a chunk where planes are read one after the other: each chunk is decoded that often."""

Index = tuple[slice, ...]


def blocks(stitched: StitchedMap) -> Iterator[Index]:
    """Boxes of whole chunks that cover a map ``(..., Y, X)``, plane by plane, then row by row."""
    extents = [*stitched.chunks[:-2], *(max(1, size // chunk) * chunk
                                        for size, chunk in zip(BLOCK, stitched.chunks[-2:], strict=True))]
    steps = [[slice(a, min(a + step, n)) for a in range(0, n, step)]
             for n, step in zip(stitched.shape, extents, strict=True)]
    return itertools.product(*steps)


def write_npy(stitched: StitchedMap, path: Path) -> None:
    """Write a map as an NPY file.

    The file is written, not mapped: on a full disk that is an error and not the end of the process.
    """
    header = {"descr": np.lib.format.dtype_to_descr(stitched.dtype), "fortran_order": False, "shape": stitched.shape}
    strides = [math.prod(stitched.shape[axis + 1 :]) * stitched.dtype.itemsize for axis in range(stitched.ndim)]
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        origin = file.tell()
        file.truncate(origin + stitched.nbytes)
        for index in blocks(stitched):
            pixels = np.ascontiguousarray(stitched[index])
            # Rows that are as wide as the map follow one another in the file.
            axes = pixels.ndim - (2 if pixels.shape[-1] == stitched.shape[-1] else 1)
            for place in np.ndindex(*pixels.shape[:axes]):
                start = [part.start for part in index]
                start[:axes] = [first + i for first, i in zip(start, place, strict=False)]
                file.seek(origin + sum(a * stride for a, stride in zip(start, strides, strict=True)))
                file.write(pixels[place].data)


@contextmanager
def planes_of(stitched: StitchedMap, folder: Path) -> Iterator[StitchedMap | NDArray[Any]]:
    """The map for reading plane by plane; where many planes share a chunk, through a temporary file in `folder`."""
    if math.prod(stitched.chunks[:-2]) <= PLANES_A_CHUNK:
        yield stitched
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix=".patchloom-") as temporary:
        path = Path(temporary) / "planes.npy"
        write_npy(stitched, path)
        yield np.load(path, mmap_mode="r")
