"""TIFF: the stitched map in tiles, as OME-TIFF, or as GeoTIFF where the image is georeferenced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from patchloom.errors import UsageError
from patchloom.export.export import ImageMaps, Predictions, atomic, only_image

if TYPE_CHECKING:
    from patchloom.predictions.maps import StitchedMap

__all__ = ["TiffExport"]

TILE = 512
OME_AXES = "TZCYX"
DTYPES = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]
Tag = tuple[int, int, int, Any, bool]


class TiffExport:
    """One image; written tile by tile, so that any size takes the same memory."""

    suffixes = (".tif", ".tiff")

    def write(self, run: Predictions, path: Path, *, image: str | None, head: str | None, level: int) -> None:
        """See `Export.write`."""
        predictions = only_image(run, image)
        stitched = predictions.stitched(head, level)
        if stitched.dtype.name not in DTYPES:
            raise UsageError(f"a TIFF does not hold {stitched.dtype}", "export to .npy")
        geography = _geography(predictions, stitched)
        options: dict[str, Any] = {"extratags": geography, "metadata": None} if geography else _ome(stitched)
        dtype = np.dtype(np.uint8) if stitched.dtype == bool else stitched.dtype
        shape = stitched.shape if geography or stitched.ndim == 2 else tuple(stitched.shape)
        planar = {"planarconfig": "separate"} if geography and stitched.ndim == 3 and stitched.shape[0] > 1 else {}
        with atomic(path) as partial:
            tifffile.imwrite(
                partial,
                _tiles(stitched, dtype),
                shape=shape,
                dtype=dtype,
                tile=(TILE, TILE),
                photometric="minisblack",
                compression="zlib",
                predictor=dtype.kind == "f" and dtype.itemsize > 2,
                bigtiff=stitched.size * dtype.itemsize > 3 << 30,
                ome=not geography,
                **planar,
                **options,
            )


def _tiles(stitched: StitchedMap, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """Tiles plane by plane, row by row, all of full size."""
    height, width = stitched.shape[-2:]
    for plane in np.ndindex(*stitched.shape[:-2]):
        for y in range(0, height, TILE):
            band = stitched[(*(int(i) for i in plane), slice(y, min(y + TILE, height)), slice(None))]
            for x in range(0, width, TILE):
                part = band[:, x : x + TILE].astype(dtype, copy=False)
                tile = np.zeros((TILE, TILE), dtype)
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile


def _ome(stitched: StitchedMap) -> dict[str, Any]:
    axes = stitched.axes.replace("S", "Q")
    metadata: dict[str, Any] = {"axes": axes}
    for axis in "XYZ":
        if axis in stitched.spacing and axis in stitched.axes:
            metadata[f"PhysicalSize{axis}"] = stitched.spacing[axis]
            metadata[f"PhysicalSize{axis}Unit"] = "µm"
    if stitched.classes and "C" in stitched.axes:
        metadata["Channel"] = {"Name": list(stitched.classes)}
    return {"metadata": metadata}


def _geography(predictions: ImageMaps, stitched: StitchedMap) -> list[Tag]:
    """GeoTIFF tags; none where the image is not georeferenced, or its planes are more than bands."""
    origin, spacing = predictions.origin, stitched.spacing
    if origin is None or not {"X", "Y"} <= set(spacing) or set(stitched.axes) - set("CYX"):
        return []
    keys = [1, 1, 0, 1, 1025, 0, 1, 1]
    code = predictions.crs.removeprefix("EPSG:")
    if code.isdigit():
        geographic = 4000 <= int(code) < 5000
        keys = [
            1,
            1,
            0,
            3,
            1024,
            0,
            1,
            2 if geographic else 1,
            1025,
            0,
            1,
            1,
            2048 if geographic else 3072,
            0,
            1,
            int(code),
        ]
    tags: list[Tag] = [
        (33550, 12, 3, (spacing["X"], spacing["Y"], 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, origin[0], origin[1], 0.0), True),
        (34735, 3, len(keys), tuple(keys), True),
    ]
    nodata = "nan" if stitched.dtype.kind == "f" and np.isnan(stitched.nodata) else f"{stitched.nodata:g}"
    return [*tags, (42113, 2, 0, nodata, True)]
