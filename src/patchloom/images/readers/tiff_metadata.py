"""Pixel size, coordinate system and origin out of the many places where TIFF files state them."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

__all__ = ["geography", "spacing_of"]

MICROMETRES = {"µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "\\u00b5m": 1.0,
               "nm": 1e-3, "nanometer": 1e-3, "mm": 1e3, "millimeter": 1e3, "cm": 1e4, "inch": 25400.0, "m": 1e6}
Spacing = dict[str, float]
Unit = dict[str, str]


def spacing_of(file: Any, page: Any) -> tuple[Spacing, Unit]:
    """Size of a pixel in micrometres for each axis that the file states one for, and these units.

    OME-XML, ImageJ's description, Aperio's ``MPP``, then the resolution tags.
    """
    spacing = _ome(file) or _imagej(file, page) or _aperio(page) or _resolution(page)
    return spacing, dict.fromkeys(spacing, "micrometer")


def geography(page: Any) -> tuple[str, Spacing, tuple[float, float] | None]:
    """Coordinate reference system (``EPSG:32618`` or empty), pixel scale in its units, and the upper left corner."""
    tags = getattr(page, "geotiff_tags", None)
    if not tags:
        return "", {}, None
    code = tags.get("ProjectedCSTypeGeoKey") or tags.get("GeographicTypeGeoKey")
    number = int(code) if code is not None else 32767
    crs = f"EPSG:{number}" if 0 < number < 32767 else ""
    scale, tie = tags.get("ModelPixelScale"), tags.get("ModelTiepoint")
    transform = tags.get("ModelTransformation")
    if transform is not None and not scale:
        matrix = [float(value) for row in transform for value in row] if hasattr(transform[0], "__len__") else [
            float(value) for value in transform]
        return crs, {"X": math.hypot(matrix[0], matrix[4]), "Y": math.hypot(matrix[1], matrix[5])}, (matrix[3], matrix[7])
    if not scale or not all(scale[:2]):
        return crs, {}, None
    origin = None
    if tie is not None and len(tie) >= 6:
        origin = (float(tie[3]) - float(tie[0]) * float(scale[0]), float(tie[4]) + float(tie[1]) * float(scale[1]))
    return crs, {"X": float(scale[0]), "Y": float(scale[1])}, origin


def _ome(file: Any) -> Spacing:
    if not file.is_ome or not file.ome_metadata:
        return {}
    try:
        root = ElementTree.fromstring(file.ome_metadata)  # noqa: S314 - expat expands no external entities
    except ElementTree.ParseError:
        return {}
    pixels = next((element for element in root.iter() if element.tag.endswith("}Pixels")), None)
    if pixels is None:
        return {}
    spacing = {}
    for axis in "XYZ":
        size = _number(pixels.get(f"PhysicalSize{axis}"))
        factor = MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if size and factor:
            spacing[axis] = size * factor
    return spacing


def _imagej(file: Any, page: Any) -> Spacing:
    metadata = file.imagej_metadata if file.is_imagej else None
    factor = MICROMETRES.get(str(metadata.get("unit", "")).strip()) if metadata else None
    if not metadata or factor is None:
        return {}
    spacing = {axis: factor / per for axis, per in _per_unit(page).items()}
    depth = _number(metadata.get("spacing"))
    return spacing | ({"Z": depth * factor} if depth else {})


def _aperio(page: Any) -> Spacing:
    found = re.search(r"\bMPP\s*=\s*([0-9.]+)", page.description or "") if page.is_svs else None
    size = _number(found.group(1)) if found else None
    return {"Y": size, "X": size} if size else {}


def _resolution(page: Any) -> Spacing:
    factor = {2: 25400.0, 3: 10000.0}.get(int(getattr(page, "resolutionunit", 0) or 0))
    return {axis: factor / per for axis, per in _per_unit(page).items()} if factor else {}


def _per_unit(page: Any) -> Spacing:
    """Pixels per unit of length, from the resolution tags."""
    found = {}
    for axis, name in (("Y", "YResolution"), ("X", "XResolution")):
        tag = page.tags.get(name)
        value = tag.value if tag is not None else None
        if isinstance(value, tuple) and len(value) == 2 and value[1] and value[0]:
            found[axis] = value[0] / value[1]
    return found


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None
