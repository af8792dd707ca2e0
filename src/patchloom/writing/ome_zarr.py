"""OME-Zarr arrays that are written piece by piece, in any order."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from patchloom.errors import OutputError, UsageError
from patchloom.images.sources.entry import ZARR_MARKERS
from patchloom.predictions.dense import default_nodata
from patchloom.predictions.files import PARTIAL

__all__ = ["create_array", "replace_zarr"]

CHUNK = {"Y": 256, "X": 256, "Z": 16}
"""Extent of a chunk on spatial axes, at most; 1 on S and T."""
CHUNK_BYTES = 1 << 20
"""Channels share a chunk while it is no larger than this."""
KINDS = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}


def create_array(
    folder: Path,
    shape: Sequence[int],
    axes: str,
    dtype: np.dtype[Any],
    *,
    chunks: int | Sequence[int] | None = None,
    nodata: float | None = None,
    name: str = "",
) -> zarr.Array[Any]:
    """Make an OME-Zarr 0.5 group with one array, ``0``, full of `nodata`.

    There are no shards: each chunk is a file, so that writing a piece touches only the chunks under it.

    Parameters
    ----------
    folder
        Of the group; what is there is discarded.
    shape, axes, dtype
        Of the array; axes in OME order.
    chunks
        One number for Y and X, one for each spatial axis, or one for each axis.
    nodata
        Fill value. Default: NaN, or the largest integer.
    name
        Of the image.
    """
    extents = _chunks(shape, axes, dtype, chunks)
    fill = np.asarray(default_nodata(dtype) if nodata is None else nodata).astype(dtype)
    group = zarr.create_group(folder, overwrite=True, zarr_format=3)
    group.attrs["ome"] = _ome(axes, name)
    return group.create_array(
        "0",
        shape=tuple(shape),
        dtype=dtype,
        chunks=extents,
        fill_value=fill.item(),
        dimension_names=[axis.lower() for axis in axes],
        compressors=zarr.codecs.BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"),
    )


def replace_zarr(new: Path, path: Path) -> None:
    """Put the Zarr `new` in the place of the one at `path`, if there is one.

    Raises
    ------
    OutputError
        If something else is there.
    """
    if not path.exists():
        new.rename(path)
        return
    if not path.is_dir() or not any((path / marker).is_file() for marker in ZARR_MARKERS):
        raise OutputError(f"{path} exists and is no Zarr", "remove it, or choose another folder")
    old = new.with_name(f"{new.name}.old{PARTIAL}")
    path.rename(old)
    new.rename(path)
    shutil.rmtree(old)


def _chunks(
    shape: Sequence[int], axes: str, dtype: np.dtype[Any], chunks: int | Sequence[int] | None
) -> tuple[int, ...]:
    wanted = dict(CHUNK)
    if chunks is not None:
        given = (chunks,) * 2 if isinstance(chunks, int) else tuple(chunks)
        if len(given) > len(axes) or min(given, default=0) < 1:
            raise UsageError(f"chunks {given} do not fit axes {axes}", "give one number an axis, at least 1")
        wanted |= zip(axes[len(axes) - len(given) :], given, strict=True)
    pixels = math.prod(min(n, wanted[axis]) for n, axis in zip(shape, axes, strict=True) if axis in "ZYX")
    wanted.setdefault("C", max(1, CHUNK_BYTES // (pixels * dtype.itemsize)))
    return tuple(min(n, wanted.get(axis, 1)) for n, axis in zip(shape, axes, strict=True))


def _ome(axes: str, name: str) -> dict[str, Any]:
    described = [{"name": axis.lower()} | ({"type": KINDS[axis]} if axis in KINDS else {}) for axis in axes]
    scale = {"type": "scale", "scale": [1.0] * len(axes)}
    datasets = [{"path": "0", "coordinateTransformations": [scale]}]
    return {"version": "0.5", "multiscales": [{"name": name, "axes": described, "datasets": datasets}]}
