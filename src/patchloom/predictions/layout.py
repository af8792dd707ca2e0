"""What a run's predictions look like, derived from its configuration: grids, maps, units, and the names of files."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from patchloom.config import CHANGES_PREDICTIONS, Config
from patchloom.errors import UsageError
from patchloom.geometry.axes import spatial_axes
from patchloom.geometry.grid import Edge, Grid, per_axis
from patchloom.geometry.region import Region
from patchloom.geometry.units import UnitLayout, dense_unit, table_unit
from patchloom.models.heads import reduced_heads
from patchloom.models.model import Head
from patchloom.models.steps import parse_reduce
from patchloom.objects import AnyPath
from patchloom.predictions.dense import DenseMap, default_nodata, map_shape
from patchloom.predictions.map_files import FolderFiles, HeldFiles, MapFiles

__all__ = ["FORMAT", "MEMBERS", "PlaneInfo", "RunLayout", "fingerprint"]

FORMAT = 1
"""Version of the run folder."""
PACKED_BYTES = 4 << 20
"""Maps of an image that are no larger, all heads and planes, share files with those of other images."""
MEMBERS = ".zarr.zip"
"""Ending of files that hold the maps of several images."""
LONGEST_NAME = 80
"""Characters of one component of an image's name, at four bytes at most; file systems take 255 bytes."""


@dataclass(frozen=True)
class PlaneInfo:
    """What the journal keeps of an image, enough to look its predictions up without opening it.

    Parameters
    ----------
    plane
        Pixels of one plane at the level that is read, (y, x) or (z, y, x).
    loop_axes, loop_shape
        Axes that the model does not see.
    spacing, unit
        Size of a pixel at that level, and its unit, for each spatial axis where known.
    crs, origin
        Of a georeferenced image.
    original
        Pixels (y, x) of the image where it is predicted as a whole at another size, which is then that of `plane`.
    """

    plane: tuple[int, ...]
    loop_axes: str = ""
    loop_shape: tuple[int, ...] = ()
    spacing: Mapping[str, float] | None = None
    unit: Mapping[str, str] | None = None
    crs: str = ""
    origin: tuple[float, float] | None = None
    original: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """As the journal has it."""
        return {
            "plane": self.plane,
            "loop_axes": self.loop_axes,
            "loop_shape": self.loop_shape,
            "spacing": dict(self.spacing or {}),
            "unit": dict(self.unit or {}),
            "crs": self.crs,
            "origin": self.origin,
            **({"original": self.original} if self.original else {}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PlaneInfo:
        """What `to_json` gave."""
        origin, original = values["origin"], values.get("original")
        return cls(
            tuple(values["plane"]),
            values["loop_axes"],
            tuple(values["loop_shape"]),
            values["spacing"],
            values["unit"],
            values["crs"],
            tuple(origin) if origin else None,
            tuple(original) if original else None,
        )

    @property
    def planes(self) -> int:
        """Number of planes."""
        return math.prod(self.loop_shape)


@dataclass(frozen=True)
class RunLayout:
    """Geometry and files of a run.

    Parameters
    ----------
    folder
        Of the run.
    config
        Its options; `patch` is set.
    ndim
        Spatial axes that the model sees.
    raw_heads
        Heads as the model gives them.
    unit_width
        Pixels across a unit that memory allowed when the run was begun; None where that is no constraint.
    whole
        Size (y, x) at which each image is one patch; None where images are cut into patches.
    """

    folder: AnyPath
    config: Config
    ndim: int
    raw_heads: tuple[Head, ...]
    unit_width: int | None = None
    whole: tuple[int, ...] | None = None

    @cached_property
    def patch(self) -> tuple[int, ...]:
        """Pixels of a patch on each axis."""
        if self.whole is not None:
            return self.whole
        assert isinstance(self.config.patch, tuple)
        return per_axis(_one_or_many(self.config.patch), self.ndim)

    @cached_property
    def stride(self) -> tuple[int, ...]:
        """Pixels from patch to patch on each axis."""
        if self.config.stride is not None:
            return per_axis(_one_or_many(self.config.stride), self.ndim)
        overlap = per_axis(_one_or_many(self.config.overlap or (0,)), self.ndim)
        return tuple(p - o for p, o in zip(self.patch, overlap, strict=True))

    @cached_property
    def heads(self) -> tuple[Head, ...]:
        """Heads as they are stored: after reduction."""
        reduce = parse_reduce(self.config.reduce, [head.name for head in self.raw_heads])
        return reduced_heads(self.raw_heads, reduce)

    @cached_property
    def dense_heads(self) -> tuple[Head, ...]:
        """Heads that are stitched."""
        return tuple(head for head in self.heads if head.kind == "dense")

    @cached_property
    def vector_heads(self) -> tuple[Head, ...]:
        """Heads that go to tables."""
        return tuple(head for head in self.heads if head.kind == "vector")

    def head(self, name: str | None) -> Head:
        """A head by name, or the only one (of the dense ones, the first) for None."""
        if name is None:
            return self.heads[0]
        found = next((head for head in self.heads if head.name == name), None)
        if found is None:
            raise UsageError(f"the run has no head {name!r}", f"its heads: {', '.join(h.name for h in self.heads)}")
        return found

    def check(self) -> None:
        """Raise UsageError where the stride does not fit the heads' scales, or the patch the number of axes."""
        for p, s, multiple in zip(self.patch, self.stride, self._multiples, strict=True):
            if s % multiple and self.whole is not None:
                raise UsageError(
                    f"images of {p} pixels are no multiple of {multiple}, which the output's scale needs",
                    "choose --resize or --centre-crop so that it divides them",
                )
            if s % multiple or p % multiple:
                near = max(multiple, round(s / multiple) * multiple)
                raise UsageError(
                    f"stride {s} and patch {p} are not multiples of {multiple}, which the output's scale needs",
                    f"choose --stride {near}" if not p % multiple else f"choose a patch that {multiple} divides",
                )

    def grid(self, plane: Sequence[int]) -> Grid:
        """Grid of one plane, laid on the image padded to a multiple of what the heads' scales need."""
        padded = tuple(-(-n // m) * m for n, m in zip(plane, self._multiples, strict=True))
        return _grid(padded, self.patch, self.stride, self.config.edge)

    def patches(self, info: PlaneInfo) -> int:
        """Number of patches of an image."""
        return len(self.grid(info.plane)) * info.planes

    def units(self, plane: Sequence[int]) -> UnitLayout:
        """How a plane is cut into units."""
        if self.dense_heads:
            unit = dense_unit(self.ndim, [head.scale for head in self.dense_heads], self.unit_width)
        else:
            unit = table_unit(self.grid(plane))
        return UnitLayout(tuple(plane), unit)

    def maps(self, image: str, info: PlaneInfo, *, in_folders: bool = False) -> dict[str, DenseMap]:
        """Where the dense heads of one image are going to be written, by their names.

        Parameters
        ----------
        in_folders
            Whether an earlier session began them in folders of their own, which they keep.
        """
        heads = self.dense_heads
        if not heads:
            return {}
        packed = self.packs(info) and not in_folders
        return {head.name: self.map(head, image, info, HeldFiles() if packed else None) for head in heads}

    def in_folders(self, image: str, knows_file: Callable[[str], bool]) -> bool:
        """Whether maps of an image were begun in folders of their own.

        Parameters
        ----------
        knows_file
            Says of a file's name, relative to the run, whether it was committed.
        """
        return any(knows_file(self.map_file(head, image)) for head in self.dense_heads)

    def packs(self, info: PlaneInfo) -> bool:
        """Whether the maps of an image are so small that they share files with those of other images."""
        if len(self.units(info.plane)) > 1:
            return False
        pixels = sum(
            math.prod(map_shape(info.plane, head.scale)) * (head.channels or 1) * head.dtype.itemsize
            for head in self.dense_heads
        )
        return 0 < info.planes * pixels <= PACKED_BYTES

    def map(self, head: Head, image: str, info: PlaneInfo, files: MapFiles | None = None) -> DenseMap:
        """Map of a dense head for one image; in a folder of its own unless its `files` are elsewhere."""
        axes = spatial_axes(self.ndim)
        unit = tuple(int(u * s) for u, s in zip(self.units(info.plane).unit, head.scale, strict=True))
        spacing = {
            axis: size / float(head.scale[axes.index(axis)]) if axis in axes else size
            for axis, size in (info.spacing or {}).items()
        }
        nodata = default_nodata(head.dtype) if self.config.nodata is None else self.config.nodata
        quantised = any(text.rpartition("=")[2] == "uint8" for text in self.config.reduce)
        return DenseMap(
            files or FolderFiles(self.folder / self.map_name(head, image)),
            head,
            info.loop_axes,
            info.loop_shape,
            map_shape(info.plane, head.scale),
            unit,
            np.asarray(nodata).astype(head.dtype).item(),
            classes=head.dtype.kind in "iub" and not quantised,
            spacing=spacing,
            units=dict(info.unit or {}),
            name=image,
        )

    @staticmethod
    def map_name(head: Head, image: str) -> str:
        """Folder of a map that has one, relative to the run."""
        return f"dense/{head.name}/{member_name(image)}"

    @classmethod
    def map_file(cls, head: Head, image: str) -> str:
        """File, relative to the run, that is there if a map has a folder of its own."""
        return f"{cls.map_name(head, image)}/zarr.json"

    @staticmethod
    def members_name(head: Head, unit: str) -> str:
        """Maps of a unit's small images, relative to the run."""
        return f"dense/{head.name}/{unit}{MEMBERS}"

    def map_places(self, image: str, unit: str | None = None) -> dict[str, str]:
        """Where the maps of one image are, by heads, for other programs: the whole path, or URL, of a folder.

        Parameters
        ----------
        unit
            In whose files the maps are, as folders in a ZIP file; None: they have folders of their own.
        """
        folder = self.folder.resolve()
        if unit is None:
            return {head.name: f"{folder}/{self.map_name(head, image)}" for head in self.dense_heads}
        member = member_name(image)
        return {head.name: f"{folder}/{self.members_name(head, unit)}/{member}" for head in self.dense_heads}

    @staticmethod
    def table_name(head: Head, unit: str) -> str:
        """Table of a unit, relative to the run."""
        return f"patches/{head.name}/{unit}.parquet"

    def contributors(self, grid: Grid, info: PlaneInfo, region: Region) -> tuple[range, ...]:
        """Patches that a unit needs, as a range on each axis: those that own (`crop`) or cover any of its pixels, and,
        for rows of tables, those that start in it.
        """
        lines = [grid.starting_in(region)] if self.vector_heads or not self.dense_heads else []
        for head in self.dense_heads:
            scaled = grid.scaled(head.scale)
            area = self.map_region(head, info.plane, region)
            lines.append(scaled.owners(area) if self.config.blend == "crop" else scaled.covering(area))
        return tuple(_hull(ranges) for ranges in zip(*lines, strict=True))

    @staticmethod
    def map_region(head: Head, plane: Sequence[int], region: Region) -> Region:
        """The same pixels in a head's map."""
        start = tuple(int(a * s) for a, s in zip(region.start, head.scale, strict=True))
        shape = map_shape(region.shape, head.scale)
        return Region(start, shape).intersect(Region.whole(map_shape(plane, head.scale)))

    @cached_property
    def _multiples(self) -> tuple[int, ...]:
        dense = [head for head in self.raw_heads if head.kind == "dense"]
        return tuple(math.lcm(*(head.scale[axis].denominator for head in dense)) for axis in range(self.ndim))


def fingerprint(config: Config, identity: str | None) -> dict[str, Any]:
    """Everything that changes a prediction, by name; two runs agree where all of it agrees."""
    values = {name: getattr(config, name) for name in CHANGES_PREDICTIONS if name != "overlap"}
    plain = json.loads(json.dumps(values, default=_described))
    return {"format": FORMAT, "model": identity, **plain}


def digest(values: Mapping[str, Any]) -> str:
    """Hash of a JSON document."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def heads_to_json(heads: Sequence[Head]) -> list[dict[str, Any]]:
    """Heads as run.json has them."""
    return [
        {
            "name": head.name,
            "kind": head.kind,
            "dtype": head.dtype.name,
            "shape": head.shape,
            "scale": [str(s) for s in head.scale],
            "classes": head.classes,
        }
        for head in heads
    ]


def heads_from_json(values: Sequence[Mapping[str, Any]]) -> tuple[Head, ...]:
    """What `heads_to_json` gave."""
    return tuple(
        Head(
            value["name"],
            value["kind"],
            np.dtype(value["dtype"]),
            tuple(value["shape"]),
            tuple(Fraction(s) for s in value["scale"]),
            tuple(value["classes"]),
        )
        for value in values
    )


def file_name(image: str) -> str:
    """Relative path for an image's name: readable, different for different names, and never outside the folder."""
    return "/".join(_component(part) for part in image.split("/"))


def member_name(image: str) -> str:
    """Folder of a map, within ``dense/<head>`` or within the file that it shares with others."""
    return f"{file_name(image)}.zarr"


def _component(part: str) -> str:
    safe = "".join(
        letter if letter.isprintable() and letter not in '%\\:*?"<>|' else _escaped(letter) for letter in part
    )
    if safe in ("", ".", ".."):
        safe = safe.replace(".", "%2E") or "%"
    if len(safe) > LONGEST_NAME:
        safe = f"{safe[: LONGEST_NAME - 17]}%{hashlib.sha256(part.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
    return safe


def _escaped(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogateescape"))


@lru_cache(maxsize=256)
def _grid(shape: tuple[int, ...], patch: tuple[int, ...], stride: tuple[int, ...], edge: Edge) -> Grid:
    """Images of a collection often have the same size."""
    return Grid.of(shape, patch, stride, edge=edge)


def _hull(ranges: Sequence[range]) -> range:
    filled = [line for line in ranges if line]
    return range(min(line.start for line in filled), max(line.stop for line in filled)) if filled else range(0)


def _one_or_many(values: Sequence[int]) -> int | Sequence[int]:
    return values[0] if len(values) == 1 else values


def _described(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', type(value).__qualname__)}"


def indices(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Indices on loop axes, in order."""
    return itertools.product(*map(range, shape))
