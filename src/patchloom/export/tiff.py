"""TIFF: the stitched map in tiles, as OME-TIFF, or as GeoTIFF where the image is georeferenced."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
import tifffile
from numpy.typing import NDArray

from patchloom.errors import UsageError
from patchloom.export.blocks import planes_of
from patchloom.export.export import ImageMaps, Predictions, atomic, only_image

if TYPE_CHECKING:
    from patchloom.predictions.maps import StitchedMap

__all__ = ["TiffExport"]

TILE = 512
ACROSS = 16
"""Tiles that are read at once."""
DTYPES = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]
WIDENED = {"bool": "uint8", "float16": "float32"}
CLASSIC = 2 << 30
"""Bytes up to which a file is no BigTIFF."""
OME_UNITS = {"micrometer": "µm", "nanometer": "nm", "millimeter": "mm", "centimeter": "cm", "meter": "m",
             "kilometer": "km", "angstrom": "Å", "inch": "in", "foot": "ft", "pixel": "pixel"}
CENTIMETRES = {"micrometer": 1e-4, "nanometer": 1e-7, "millimeter": 0.1, "centimeter": 1.0, "meter": 100.0}
Tag = tuple[int, int, int, Any, bool]


class TiffExport:
    """One image with its smaller levels; written tile by tile, so that any size takes the same memory.

    An image with coordinates, and without axes but C, Y and X, becomes a GeoTIFF whose bands are the channels. Any
    other is an OME-TIFF with axes, size of a pixel and names of channels. OME knows no axis S: its planes are on T,
    each with all of its times. Neither format has float16, which becomes float32.
    """

    suffixes = (".tif", ".tiff")

    def write(self, run: Predictions, path: Path, *, image: str | None, head: str | None, level: int) -> None:
        """See `Export.write`."""
        predictions = only_image(run, image)
        levels = _levels(predictions, head, level)
        base = levels[0]
        if base.dtype.name not in DTYPES:
            raise UsageError(f"a TIFF does not hold {base.dtype}", "export to .npy")
        geography = _geography(predictions, base)
        large = 4 / 3 * base.nbytes > CLASSIC
        with atomic(path) as partial, ExitStack() as stack:
            planes = [stack.enter_context(planes_of(one, path.parent)) for one in levels]
            with tifffile.TiffWriter(partial, bigtiff=large, ome=not geography) as file:
                bands = {"planarconfig": "separate"} if geography and base.extent("C") > 1 else {}
                # GDAL expects smaller levels behind the first, what reads OME-TIFF expects them within.
                about = ({"metadata": None, "extratags": geography} if geography
                         else {**_ome(predictions, base), "subifds": len(levels) - 1})
                _write(file, base, planes[0], **bands, **about)
                for one, pixels in zip(levels[1:], planes[1:], strict=True):
                    _write(file, one, pixels, **bands, subfiletype=1, metadata=None)


def _write(file: tifffile.TiffWriter, stitched: StitchedMap, pixels: Any, **options: Any) -> None:
    dtype = np.dtype(WIDENED.get(stitched.dtype.name, stitched.dtype))
    shape = stitched.shape
    if "S" in stitched.axes:
        shape = (stitched.extent("S") * stitched.extent("T"), *shape[2 if "T" in stitched.axes else 1 :])
    file.write(
        _tiles(pixels, dtype), shape=shape, dtype=dtype, tile=(TILE, TILE), photometric="minisblack",
        compression="zlib", compressionargs={"level": 1}, predictor=True, **options)


def _tiles(pixels: Any, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """Tiles plane by plane, row by row, all of full size."""
    height, width = pixels.shape[-2:]
    for place in np.ndindex(*pixels.shape[:-2]):
        plane = tuple(int(i) for i in place)
        for y, x in itertools.product(range(0, height, TILE), range(0, width, TILE * ACROSS)):
            window = (*plane, slice(y, y + TILE), slice(x, x + TILE * ACROSS))
            strip = np.asarray(pixels[window]).astype(dtype, copy=False)
            for first in range(0, strip.shape[1], TILE):
                part = strip[:, first : first + TILE]
                tile = np.zeros((TILE, TILE), dtype)
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile


def _levels(predictions: ImageMaps, head: str | None, level: int) -> list[StitchedMap]:
    """The level that was asked for and all below it."""
    levels = [predictions.stitched(head, level)]
    while max(levels[-1].shape[-2:]) > TILE:
        try:
            levels.append(predictions.stitched(head, level + len(levels)))
        except UsageError:
            break
    return levels


def _ome(predictions: ImageMaps, stitched: StitchedMap) -> dict[str, Any]:
    units = predictions.info.unit or {}
    metadata: dict[str, Any] = {"axes": stitched.axes.replace("ST", "T").replace("S", "T")}
    for axis in "XYZ":
        if axis in stitched.spacing and axis in stitched.axes and units.get(axis, "pixel") in OME_UNITS:
            metadata[f"PhysicalSize{axis}"] = stitched.spacing[axis]
            metadata[f"PhysicalSize{axis}Unit"] = OME_UNITS[units.get(axis, "pixel")]
    if stitched.classes and "C" in stitched.axes:
        metadata["Channel"] = {"Name": list(stitched.classes)}
    options: dict[str, Any] = {"metadata": metadata}
    if all(axis in stitched.spacing and units.get(axis) in CENTIMETRES for axis in "XY"):
        sizes = (stitched.spacing[axis] * CENTIMETRES[units[axis]] for axis in "XY")
        options |= {"resolution": tuple(1 / size for size in sizes), "resolutionunit": "CENTIMETER"}
    return options


def _geography(predictions: ImageMaps, stitched: StitchedMap) -> list[Tag]:
    """GeoTIFF tags; none where the image is not georeferenced, or its planes are more than bands."""
    info, spacing = predictions.info, stitched.spacing
    if info.origin is None or not {"X", "Y"} <= set(spacing) or set(stitched.axes) - set("CYX"):
        return []
    keys = [(1025, 1)]  # coordinates are those of the corners of pixels
    code = info.crs.removeprefix("EPSG:")
    if code.isdigit():
        geographic = (info.unit or {}).get("X") == "degree"
        keys = [(1024, 2 if geographic else 1), *keys, (2048 if geographic else 3072, int(code))]
    directory = [1, 1, 0, len(keys), *(number for key, value in keys for number in (key, 0, 1, value))]
    nodata = "nan" if stitched.dtype.kind == "f" and np.isnan(stitched.nodata) else f"{stitched.nodata:.17g}"
    tags: list[Tag] = [
        (33550, 12, 3, (spacing["X"], spacing["Y"], 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, *info.origin, 0.0), True),
        (34735, 3, len(directory), tuple(directory), True),
        (42113, 2, 0, nodata, True),
    ]
    names = stitched.classes if "C" in stitched.axes else ()
    items = "".join(f'<Item name="DESCRIPTION" sample="{i}" role="description">{escape(name)}</Item>'
                    for i, name in enumerate(names))
    if items.isascii() and items:
        tags.append((42112, 2, 0, f"<GDALMetadata>{items}</GDALMetadata>", True))
    return tags
