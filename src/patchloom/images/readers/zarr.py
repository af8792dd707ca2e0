"""Zarr v2 and v3 arrays, and OME-Zarr 0.4 and 0.5 images with their levels.

A group without multiscales is read if it holds one array. Chunks are those that are decoded: of a sharded array the
inner ones. Axes of extent 1 stay where the array has them. Chunks that are missing have the array's fill value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ImageError, ImageMismatchError, UnknownFormatError, UnreadableImageError
from patchloom.geometry.region import Region
from patchloom.images.array import check_dtype
from patchloom.images.files import is_folder
from patchloom.images.guess import axes_or_guess, stated_axes
from patchloom.images.image import ImageInfo
from patchloom.images.limits import check_chunks
from patchloom.images.remote import AHEAD, submit
from patchloom.images.units import unit_name
from patchloom.objects import ObjectPath

__all__ = ["ZarrImage", "ZarrReader"]

MARKERS = ("zarr.json", ".zarray", ".zgroup")


class ZarrReader:
    """Reads folders that hold a Zarr array or an OME-Zarr image."""

    suffixes: tuple[str, ...] = (".zarr",)

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether the folder has Zarr metadata."""
        return not head and is_folder(path) and any((path / marker).is_file() for marker in MARKERS)

    def open(self, path: Path, *, axes: str | None = None) -> ZarrImage:
        """Read the metadata; see `Reader.open`."""
        if not is_folder(path):
            raise UnknownFormatError(f"{path}: is a file, and a Zarr image is a folder", "unpack it")
        try:
            return _open_node(path, _opened(path), axes)
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # damaged metadata make zarr raise almost anything
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UnreadableImageError(f"{path}: not readable as Zarr: {reason}",
                                       "check that the folder was copied completely") from error


class ZarrImage:
    """Arrays of one image, finest first. zarr-python reads from several threads."""

    def __init__(self, path: Path, arrays: Sequence[Any], info: ImageInfo) -> None:
        self.info = info
        self._path: Any = path
        self._arrays = tuple(arrays)
        self._ahead: dict[tuple[int, Region], Future[NDArray[Any]]] = {}

    def read(self, region: Region, level: int = 0) -> NDArray[Any]:
        """Decode a region; see `Image.read`."""
        ahead = self._ahead.pop((level, region), None)
        return self._read(region, level) if ahead is None else ahead.result()

    @property
    def is_far(self) -> bool:
        """See `FetchesAhead`."""
        return isinstance(self._path, ObjectPath)

    def fetch(self, regions: Sequence[Region], level: int = 0) -> None:
        """Begin to read regions, as far as memory allows; see `FetchesAhead`."""
        size = sum(math.prod(region.shape) for _, region in self._ahead) * self.info.dtype.itemsize
        for region in regions:
            size += math.prod(region.shape) * self.info.dtype.itemsize
            if size > AHEAD:
                return
            if (level, region) not in self._ahead:
                self._ahead[level, region] = submit(self._read, region, level)

    def _read(self, region: Region, level: int) -> NDArray[Any]:
        shape = self.info.levels[level]
        if any(a < 0 or b > n for a, b, n in zip(region.start, region.stop, shape, strict=True)):
            raise ValueError(f"region {region} reaches beyond level {level} of shape {shape}")
        try:
            pixels = np.asarray(self._arrays[level][region.slices])
        except MemoryError:
            raise
        except Exception as error:  # codecs raise whatever they like
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UnreadableImageError(
                f"{self._path}: level {level} does not decode at {region.start}: {reason}",
                "check that the folder was copied completely") from error
        return pixels.reshape(region.shape).astype(self.info.dtype, copy=False)

    def close(self) -> None:
        """Forget what was read; no file is open."""
        self._ahead.clear()

    def __repr__(self) -> str:
        return f"<ZarrImage {self._path} {self.info.axes} {self.info.shape} {self.info.dtype}>"


def _opened(path: Any) -> Any:
    import zarr

    if not isinstance(path, ObjectPath):
        return zarr.open(store=zarr.storage.LocalStore(path, read_only=True), mode="r")
    from patchloom.images.readers.zarr_objects import ReadObjects

    return zarr.open(store=ReadObjects(path), path=path.opened_store()[1], mode="r")


@dataclass(frozen=True)
class _Described:
    """What the metadata say beside the arrays' own."""

    axes: str
    spacing: Mapping[str, float] = field(default_factory=dict)
    unit: Mapping[str, str] = field(default_factory=dict)
    channels: tuple[str, ...] = ()


def _open_node(path: Path, node: Any, axes: str | None) -> ZarrImage:
    if hasattr(node, "shape"):
        return _image(path, [node], _Described(_array_axes(path, node, axes)))
    attributes = dict(node.attrs)
    attributes = attributes.get("ome", attributes)
    if attributes.get("multiscales"):
        return _multiscale(path, node, attributes, axes)
    if attributes.get("bioformats2raw.layout") is not None and "0" in node:
        return _open_node(path, node["0"], axes)
    if "plate" in attributes or "well" in attributes:
        raise ImageMismatchError(f"{path}: is a plate of many images",
                                 "give the folder of one field, such as PLATE/A/1/0")
    arrays = [array for _, array in node.arrays()]
    if len(arrays) == 1:
        return _image(path, arrays, _Described(_array_axes(path, arrays[0], axes)))
    raise ImageMismatchError(f"{path}: a Zarr group of {len(arrays)} arrays without OME metadata",
                             "give the folder of one of its arrays")


def _array_axes(path: Path, array: Any, axes: str | None) -> str:
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    names = list(names) if isinstance(names, (list, tuple)) else None
    return axes_or_guess(path, array.shape, axes, stated_axes(names, len(array.shape)))


def _multiscale(path: Path, group: Any, attributes: Mapping[str, Any], axes: str | None) -> ZarrImage:
    scales = attributes["multiscales"][0]
    datasets = scales["datasets"]
    arrays = [group[str(dataset["path"])] for dataset in datasets]
    described = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in scales.get("axes") or ()]
    stated = stated_axes([axis.get("name") for axis in described], arrays[0].ndim)
    letters = axes_or_guess(path, arrays[0].shape, axes, stated)
    steps = [*(datasets[0].get("coordinateTransformations") or ()), *(scales.get("coordinateTransformations") or ())]
    factors = [step["scale"] for step in steps if step.get("type") == "scale" and "scale" in step]
    spacing, unit = {}, {}
    for i, letter in enumerate(letters):
        if factors and letter in "ZYX" and all(len(factor) == len(letters) for factor in factors):
            spacing[letter] = float(np.prod([float(factor[i]) for factor in factors]))
            if i < len(described) and described[i].get("unit"):
                unit[letter] = unit_name(str(described[i]["unit"]))
    named = (attributes.get("omero") or {}).get("channels") or ()
    labels = tuple(str(channel.get("label", i)) for i, channel in enumerate(named))
    return _image(path, _alike(arrays, letters), _Described(letters, spacing, unit, labels))


def _alike(arrays: Sequence[Any], letters: str) -> list[Any]:
    """Levels that differ in rows, columns and depth only, each smaller than the one before."""
    kept = [arrays[0]]
    for array in arrays[1:]:
        same = array.dtype == kept[0].dtype and len(array.shape) == len(letters) and all(
            a == b if letter not in "ZYX" else a <= b
            for letter, a, b in zip(letters, array.shape, kept[-1].shape, strict=True))
        if same and array.size < kept[-1].size:
            kept.append(array)
    return kept


def _image(path: Path, arrays: Sequence[Any], described: _Described) -> ZarrImage:
    axes, channels = described.axes, described.channels
    levels = tuple(tuple(map(int, array.shape)) for array in arrays)
    chunks = tuple(tuple(min(int(c), n) for c, n in zip(array.chunks, shape, strict=True))
                   for array, shape in zip(arrays, levels, strict=True))
    count = levels[0][axes.index("C")] if "C" in axes else 1
    dtype = check_dtype(path, np.dtype(arrays[0].dtype))
    info = ImageInfo(axes, levels, dtype, chunks, described.spacing, described.unit,
                     channels=channels if len(channels) == count else ())
    return ZarrImage(path, arrays, check_chunks(path, info))
