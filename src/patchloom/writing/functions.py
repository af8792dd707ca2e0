"""Write functions: an array into a file of a format. Files appear under their names when they are whole."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tifffile
from numpy.typing import NDArray

from patchloom.errors import OutputError, UsageError
from patchloom.export.export import atomic
from patchloom.predictions.files import PARTIAL, output_error
from patchloom.writing.ome_zarr import create_array, replace_zarr

__all__ = ["write_func_for", "write_npy", "write_png", "write_tiff", "write_zarr"]

TILE = 512
CLASSIC = 2 << 30
"""Bytes up to which a file is no BigTIFF."""
OME_DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
WIDENED = {"bool": "uint8", "float16": "float32"}
"""Types that TIFF does not have."""
PREDICTED = ("zlib", "adobe_deflate", "deflate", "lzw", "zstd", "lzma")
"""Compressions that a predictor helps."""
DEFAULT_AXES = {2: "YX", 3: "CYX", 4: "TCYX", 5: "TCZYX", 6: "STCZYX"}
"""For arrays of so many axes whose names nobody gave."""
ROWS = 512
"""Rows that are copied at a time."""
_numbers = itertools.count()


def write_tiff(
    file_path: Path,
    img: NDArray[Any],
    *,
    compression: str | None = "zlib",
    axes: str | None = None,
    **options: Any,
) -> None:
    """Write an image as tiled OME-TIFF.

    Parameters
    ----------
    file_path
        Replaced if it exists.
    img
        Memory-mapped arrays are read tile by tile. bool becomes uint8 and float16 float32, which TIFF lacks; types that
        OME lacks (int64, say) are written without OME metadata.
    compression
        As tifffile names it; None for none.
    axes
        Letters out of STCZYX. OME has no S: it becomes part of T. Default: ``YX``, ``CYX``, ``TCYX``, ``TCZYX``.
    **options
        Of ``tifffile.TiffWriter.write``.

    Raises
    ------
    UsageError
        If the axes do not fit.
    OutputError
        If the file cannot be written.
    """
    axes = _axes(img, axes)
    if img.dtype.name in WIDENED:
        img = img.astype(WIDENED[img.dtype.name])
    if "S" in axes:
        joined = 2 if "T" in axes else 1
        img = np.moveaxis(img, [axes.index(axis) for axis in "ST"[:joined]], range(joined))
        axes = "T" + "".join(axis for axis in axes if axis not in "ST")
        img = img.reshape(-1, *img.shape[joined:])
    is_ome = img.dtype.name in OME_DTYPES
    defaults = {
        "tile": tuple(min(TILE, -(-n // 16) * 16) for n in img.shape[-2:]),
        "photometric": "minisblack",
        "compression": compression,
        "predictor": compression in PREDICTED and (img.dtype.kind == "f" or img.dtype.itemsize <= 4),
        "metadata": {"axes": axes},
    }
    with atomic(Path(file_path)) as partial:
        with tifffile.TiffWriter(partial, bigtiff=img.nbytes > CLASSIC, ome=is_ome) as file:
            file.write(img, **defaults | options)


def write_zarr(
    file_path: Path,
    img: NDArray[Any],
    *,
    axes: str | None = None,
    chunks: int | Sequence[int] | None = None,
    nodata: float | None = None,
) -> None:
    """Write an image as OME-Zarr 0.5: a group with one array, ``0``.

    Parameters
    ----------
    file_path
        Folder; replaced if it is a Zarr.
    img
        Memory-mapped arrays are read some rows at a time.
    axes
        Letters out of STCZYX. Default: as for `write_tiff`.
    chunks, nodata
        See `create_array`.

    Raises
    ------
    UsageError
        If the axes do not fit.
    OutputError
        If the folder cannot be written, or is something else than a Zarr.
    """
    path = Path(file_path)
    axes = _axes(img, axes)
    partial = path.with_name(f"{path.name}.{os.getpid()}-{next(_numbers)}{PARTIAL}")
    try:
        array = create_array(partial, img.shape, axes, img.dtype, chunks=chunks, nodata=nodata, name=path.stem)
        for place in np.ndindex(*img.shape[:-2]):
            for y in range(0, img.shape[-2], max(ROWS, array.chunks[-2])):
                rows = (*place, slice(y, y + max(ROWS, array.chunks[-2])))
                array[rows] = img[rows]
        replace_zarr(partial, path)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise output_error(error, path) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_npy(file_path: Path, img: NDArray[Any]) -> None:
    """Write an image as NPY; memory-mapped arrays are read some at a time.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    with atomic(Path(file_path)) as partial, partial.open("wb") as file:
        np.save(file, img)


def write_png(file_path: Path, img: NDArray[Any]) -> None:
    """Write an image of one channel (grey), three (RGB) or four (RGBA) as PNG.

    Parameters
    ----------
    file_path
        Replaced if it exists.
    img
        ``(Y, X)`` or ``(C, Y, X)``, with further axes of one. Floating-point numbers are shown from 0 (black) to 1
        (white); whole ones up to 255 are stored as they are, in one channel up to 65,535.

    Raises
    ------
    UsageError
        If it is no such image.
    OutputError
        If the file cannot be written.
    """
    pixels = img.reshape(-1, *img.shape[-2:])
    if len(pixels) not in (1, 3, 4):
        raise UsageError(f"a PNG does not hold an image of shape {img.shape}", "write .tiff, .zarr or .npy")
    pixels = _whole_numbers(pixels)
    picture = PIL.Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))
    with atomic(Path(file_path)) as partial:
        picture.save(partial, "PNG")


FUNCTIONS: Mapping[str, Callable[..., None]] = {
    ".npy": write_npy,
    ".ome.tif": write_tiff,
    ".ome.tiff": write_tiff,
    ".ome.zarr": write_zarr,
    ".png": write_png,
    ".tif": write_tiff,
    ".tiff": write_tiff,
    ".zarr": write_zarr,
}
"""Write function of each extension."""


def write_func_for(extension: str) -> Callable[..., None]:
    """Write function of an extension.

    Raises
    ------
    UsageError
        If there is none; those that there are, are named.

    Examples
    --------
    >>> write_func_for(".tiff").__name__
    'write_tiff'
    """
    found = FUNCTIONS.get(f".{extension.lower().lstrip('.')}")
    if found is None:
        raise UsageError(f"there is no write function for {extension!r}", f"there is one for {', '.join(FUNCTIONS)}")
    return found


def _axes(img: NDArray[Any], axes: str | None) -> str:
    axes = DEFAULT_AXES.get(img.ndim, "") if axes is None else axes.upper()
    if len(axes) != img.ndim or axes[-2:] != "YX" or len(set(axes)) != len(axes) or set(axes) - set("STCZYX"):
        raise UsageError(
            f"axes {axes} do not fit an image of shape {img.shape}", "axes are letters out of STCZYX that end in YX"
        )
    return axes


def _whole_numbers(pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.dtype.kind == "f":
        return np.rint(np.nan_to_num(np.clip(pixels.astype(np.float32), 0, 1)) * 255).astype(np.uint8)
    if pixels.dtype == np.uint8:
        return pixels
    low, high = (int(pixels.min()), int(pixels.max())) if pixels.dtype.kind in "iub" else (-1, -1)
    if low < 0 or high > (65535 if len(pixels) == 1 else 255):
        raise UsageError(f"a PNG does not hold {pixels.dtype} from {low} to {high}", "write .tiff, .zarr or .npy")
    return pixels.astype(np.uint8 if high <= 255 and pixels.dtype != np.uint16 else np.uint16)
