"""Size of a pixel, place on Earth and names of channels, from whichever metadata a TIFF file has."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from patchloom.images.units import unit_name

__all__ = ["Metadata", "read_metadata"]

PIXEL_SCALE, TIEPOINT, TRANSFORMATION, GEO_KEYS = 33550, 33922, 34264, 34735
RASTER_TYPE, GEOGRAPHIC_CRS, PROJECTED_CRS, LINEAR_UNIT = 1025, 2048, 3072, 3076
PIXEL_IS_POINT = 2
USER_DEFINED = 32767
LINEAR_UNITS = {9001: "meter", 9002: "foot", 9003: "foot"}
RESOLUTION_UNITS = {2: 25400.0, 3: 10000.0}
"""Micrometres in the unit of the resolution tags: inch, centimetre."""


@dataclass(frozen=True)
class Metadata:
    """What the metadata say; see `ImageInfo` for the meaning."""

    spacing: Mapping[str, float] = field(default_factory=dict)
    unit: Mapping[str, str] = field(default_factory=dict)
    crs: str = ""
    origin: tuple[float, float] | None = None
    channels: tuple[str, ...] = ()


def read_metadata(tif: Any, keyframe: Any) -> Metadata:
    """Metadata of the main image.

    The most specific statement wins: GeoTIFF, OME, ImageJ, Aperio, then the resolution tags.

    Parameters
    ----------
    tif
        An open `tifffile.TiffFile`.
    keyframe
        First page of the main image.
    """
    tags = {code: keyframe.tags.valueof(code) for code in (PIXEL_SCALE, TIEPOINT, TRANSFORMATION, GEO_KEYS)}
    if tags[PIXEL_SCALE] is not None or tags[TRANSFORMATION] is not None:
        return geotiff(tags)
    if tif.is_ome:
        return ome(tif.ome_metadata or "")
    if tif.is_imagej:
        return imagej(tif.imagej_metadata or {}, keyframe)
    match = re.search(r"\bMPP\s*=\s*([\d.]+)", keyframe.description) if tif.is_svs else None
    if match and (size := _positive(match[1])):
        return _micrometres(size, size)
    return resolution(keyframe)


def geotiff(tags: Mapping[int, Sequence[float] | None]) -> Metadata:
    """From the values of the GeoTIFF tags."""
    keys = geo_keys(tags[GEO_KEYS] or ())
    scale, tie, matrix = (tags[code] for code in (PIXEL_SCALE, TIEPOINT, TRANSFORMATION))
    if matrix is not None and len(matrix) >= 16:
        sizes = math.hypot(matrix[0], matrix[4]), math.hypot(matrix[1], matrix[5])
        shift = (matrix[0] + matrix[1]) / 2, (matrix[4] + matrix[5]) / 2
        origin: tuple[float, float] | None = (matrix[3], matrix[7])
    else:
        sizes = (float(scale[0]), float(scale[1])) if scale is not None and len(scale) >= 2 else (0.0, 0.0)
        shift = sizes[0] / 2, -sizes[1] / 2
        origin = None
        if tie is not None and len(tie) >= 6:
            origin = (tie[3] - tie[0] * sizes[0], tie[4] + tie[1] * sizes[1])
    if origin is not None:
        if keys.get(RASTER_TYPE) == PIXEL_IS_POINT:  # the point is the middle of the pixel
            origin = origin[0] - shift[0], origin[1] - shift[1]
        origin = (float(origin[0]), float(origin[1]))
    code = keys.get(PROJECTED_CRS) or keys.get(GEOGRAPHIC_CRS)
    crs = f"EPSG:{code}" if code and code != USER_DEFINED else ""
    unit = "degree" if GEOGRAPHIC_CRS in keys else ""
    if PROJECTED_CRS in keys:
        unit = LINEAR_UNITS.get(keys.get(LINEAR_UNIT, 9001), "")
    spacing = {axis: float(size) for axis, size in zip("XY", sizes, strict=True) if _positive(size)}
    return Metadata(spacing, dict.fromkeys(spacing, unit) if unit else {}, crs, origin)


def geo_keys(directory: Sequence[float]) -> dict[int, int]:
    """Keys of a GeoKeyDirectory whose values stand in it."""
    rows = [directory[i : i + 4] for i in range(4, len(directory) - 3, 4)]
    return {int(key): int(value) for key, where, _, value in rows if where == 0}


def ome(xml: str) -> Metadata:
    """From the first image of OME-XML."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return Metadata()
    pixels = next((element for element in root.iter() if _local(element) == "Pixels"), None)
    if pixels is None:
        return Metadata()
    spacing, unit = {}, {}
    for axis in "XYZ":
        if size := _positive(pixels.get(f"PhysicalSize{axis}")):
            spacing[axis] = size
            unit[axis] = unit_name(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    channels = [element for element in pixels if _local(element) == "Channel"]
    samples = [int(_positive(channel.get("SamplesPerPixel", "1")) or 1) for channel in channels]
    names = tuple(channel.get("Name") or f"{i}" for i, channel in enumerate(channels))
    return Metadata(spacing, unit, channels=names if set(samples) == {1} and _any_name(channels) else ())


def _any_name(channels: Sequence[ElementTree.Element]) -> bool:
    return any(channel.get("Name") for channel in channels)


def imagej(meta: Mapping[str, Any], keyframe: Any) -> Metadata:
    """From what ImageJ writes: pixels a unit in the resolution tags, the unit and the distance of slices as text."""
    unit = unit_name(str(meta.get("unit", "")))
    labels = meta.get("Labels")
    channels = int(meta.get("channels", 1))
    slices_and_frames = int(meta.get("slices", 1)) * int(meta.get("frames", 1))
    names = tuple(map(str, labels)) if labels and len(labels) == channels > 1 and slices_and_frames == 1 else ()
    if not unit or unit in {"pixel", "pixels", "inch"}:
        return Metadata(channels=names)
    spacing = {}
    for axis, code in (("X", 282), ("Y", 283)):
        if per_unit := _ratio(keyframe.tags.valueof(code)):
            spacing[axis] = 1 / per_unit
    if size := _positive(meta.get("spacing")):
        spacing["Z"] = size
    return Metadata(spacing, dict.fromkeys(spacing, unit), channels=names)


def resolution(keyframe: Any) -> Metadata:
    """From the resolution tags, where they say inch or centimetre."""
    micrometres = RESOLUTION_UNITS.get(int(keyframe.tags.valueof(296, 2)))
    x, y = _ratio(keyframe.tags.valueof(282)), _ratio(keyframe.tags.valueof(283))
    if micrometres is None or not x or not y:
        return Metadata()
    return _micrometres(micrometres / x, micrometres / y)


def _micrometres(x: float, y: float) -> Metadata:
    return Metadata({"X": x, "Y": y}, {"X": "micrometer", "Y": "micrometer"})


def _ratio(value: Any) -> float | None:
    """A rational tag as a positive number."""
    if not isinstance(value, Sequence) or len(value) < 2 or not value[1]:
        return None
    return _positive(value[0] / value[1])


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
