"""Zarr v2 and v3 arrays, and OME-Zarr groups with their levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from patchloom.errors import ImageMismatchError, UnreadableImageError
from patchloom.geometry.axes import AXES, check_axes
from patchloom.geometry.region import Region
from patchloom.images.array import guess_axes
from patchloom.images.image import Image, ImageInfo

__all__ = ["ZarrReader"]

MARKERS = ("zarr.json", ".zarray", ".zgroup")


class ZarrReader:
    """Folders with Zarr metadata."""

    suffixes = (".zarr",)

    def recognises(self, path: Path, head: bytes) -> bool:
        """A folder that holds ``zarr.json``, ``.zarray`` or ``.zgroup``."""
        return not head and path.is_dir() and any((path / marker).is_file() for marker in MARKERS)

    def open(self, path: Path, *, axes: str | None = None) -> Image:
        """Read the metadata."""
        try:
            node = zarr.open(path, mode="r")
            if isinstance(node, zarr.Array):
                return _ZarrImage(path, [node], _named_axes(node, axes, path), {}, {}, ())
            multiscale = _multiscale(node)
            if multiscale is not None:
                return _ome_image(path, node, multiscale, axes)
            arrays = [array for _, array in node.arrays()]
        except (ImageMismatchError, UnreadableImageError):
            raise
        except Exception as error:
            raise UnreadableImageError(f"{path} is no readable Zarr: {_line(error)}", "is it complete?") from error
        if len(arrays) != 1:
            raise UnreadableImageError(f"{path} is a group of {len(arrays)} arrays and no OME-Zarr image",
                                       "give the path of one array in it")
        return _ZarrImage(path, arrays, _named_axes(arrays[0], axes, path), {}, {}, ())


class _ZarrImage:
    """Arrays of falling resolution."""

    def __init__(
        self, path: Path, arrays: Sequence[Any], axes: str, spacing: Mapping[str, float], unit: Mapping[str, str],
        channels: tuple[str, ...],
    ) -> None:
        dtype = np.dtype(arrays[0].dtype)
        if dtype.kind not in "biuf":
            raise ImageMismatchError(f"{path} holds {dtype}, not numbers", "give an array of numbers")
        self._path, self._arrays = path, arrays
        self._info = ImageInfo(
            axes, tuple(tuple(array.shape) for array in arrays), dtype.newbyteorder("="),
            tuple(tuple(min(c, n) for c, n in zip(array.chunks, array.shape, strict=True)) for array in arrays),
            spacing, unit, channels=channels)

    @property
    def info(self) -> ImageInfo:
        """What the metadata says."""
        return self._info

    def read(self, region: Region, level: int = 0) -> NDArray[Any]:
        """Decode a region."""
        try:
            return np.asarray(self._arrays[level][region.slices], self._info.dtype)
        except Exception as error:
            raise UnreadableImageError(f"{self._path}: level {level} does not decode at {region.start}: {_line(error)}",
                                       "is it damaged?") from error

    def close(self) -> None:
        """Nothing is held open."""


def _multiscale(group: Any) -> Mapping[str, Any] | None:
    attributes = dict(group.attrs)
    scales = attributes.get("ome", attributes).get("multiscales") or []
    return scales[0] if scales else None


def _ome_image(path: Path, group: Any, multiscale: Mapping[str, Any], axes: str | None) -> Image:
    datasets = multiscale["datasets"]
    arrays = [group[dataset["path"]] for dataset in datasets]
    entries = multiscale.get("axes") or list("tczyx")[-arrays[0].ndim :]
    described = [entry if isinstance(entry, Mapping) else {"name": entry} for entry in entries]
    letters = "".join(str(entry["name"]).upper()[:1] for entry in described)
    letters = guess_axes(arrays[0].shape, axes or letters, str(path))
    scale = _scale(datasets[0].get("coordinateTransformations"), len(letters))
    outer = _scale(multiscale.get("coordinateTransformations"), len(letters))
    spatial = [i for i, axis in enumerate(letters) if axis in "ZYX"]
    spacing = {letters[i]: scale[i] * outer[i] for i in spatial} if datasets[0].get("coordinateTransformations") else {}
    unit = {letters[i]: described[i]["unit"] for i in spatial if described[i].get("unit")}
    attributes = dict(group.attrs)
    omero = attributes.get("ome", attributes).get("omero") or {}
    labels = tuple(str(channel.get("label", "")) for channel in omero.get("channels", ()))
    return _ZarrImage(path, arrays, letters, spacing, unit, labels if all(labels) else ())


def _scale(transformations: Sequence[Mapping[str, Any]] | None, ndim: int) -> list[float]:
    for step in transformations or ():
        if step.get("type") == "scale":
            return [float(value) for value in step["scale"]]
    return [1.0] * ndim


def _named_axes(array: Any, axes: str | None, path: Path) -> str:
    """Axes of a plain array: what the user says, its own names where they are ours, else a guess."""
    if axes is None:
        names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
        letters = "".join(str(name).upper() for name in names) if names and all(names) else ""
        if len(letters) == array.ndim and set(letters) <= set(AXES):
            try:
                return check_axes(letters, array.shape)
            except ValueError:
                pass  # names such as X, X: the guess below serves as well as any
    return guess_axes(array.shape, axes, str(path))


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
