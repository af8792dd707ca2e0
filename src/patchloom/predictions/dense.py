"""Stitched maps as OME-Zarr: where each unit's part is stored, and how it is written and read."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.axes import spatial_axes
from patchloom.geometry.region import Region
from patchloom.geometry.units import chunk_extents
from patchloom.models.model import Head
from patchloom.predictions.files import FileRecord, write_file
from patchloom.predictions.pyramid import halve, level_shapes
from patchloom.predictions.shards import Codec, ShardReader, ShardWriter

__all__ = ["DenseMap", "default_nodata", "map_shape"]

SHARD_CHUNKS = 8
"""Chunks of a shard across the sweep: wide rather than tall, so that a band is a few files."""
CHUNK_BYTES = 256 << 10
"""Channels share a chunk while it is no larger than this."""


def map_shape(shape: Sequence[int], scale: Sequence[Fraction]) -> tuple[int, ...]:
    """Pixels of a head's map of an image of `shape`: n times the scale, rounded up."""
    return tuple(math.ceil(n * s) for n, s in zip(shape, scale, strict=True))


def default_nodata(dtype: np.dtype[Any]) -> float | int:
    """NaN for floats, the largest value of an integer type."""
    return float("nan") if dtype.kind == "f" else int(np.iinfo(dtype).max) if dtype.kind in "iu" else 0


@dataclass(frozen=True)
class DenseMap:
    """Map of one head over one image, a folder in OME-Zarr 0.5 with one sharded array a level.

    Parameters
    ----------
    folder
        ``dense/<head>/<image>.zarr``.
    head
        Final head, after reduction.
    loop_axes, loop_shape
        Axes that the model does not see, e.g. ``"T"`` and ``(7,)``.
    shape
        Spatial extents of level 0 of the map.
    unit
        Pixels of the map that one unit makes.
    nodata
        Fill value.
    classes
        Levels take the nearest pixel instead of the mean.
    spacing, units
        Size of a map pixel for each spatial axis, where known, and its unit.
    name
        Of the image.
    """

    folder: Path
    head: Head
    loop_axes: str
    loop_shape: tuple[int, ...]
    shape: tuple[int, ...]
    unit: tuple[int, ...]
    nodata: float | int
    classes: bool
    spacing: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    name: str = ""

    @cached_property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        """Spatial shape of each level."""
        return level_shapes(self.shape)

    @cached_property
    def chunk(self) -> tuple[int, ...]:
        """Spatial extent of a chunk, the same on all levels."""
        return chunk_extents(self.shape, self.unit)

    @property
    def channels(self) -> int:
        """Number of channels; 1 where the head has no such axis."""
        return self.head.channels or 1

    @cached_property
    def channel_chunk(self) -> int:
        """Channels of a chunk."""
        pixels = math.prod(self.chunk) * self.head.dtype.itemsize
        return max(1, min(self.channels, CHUNK_BYTES // max(1, pixels)))

    @property
    def channel_chunks(self) -> int:
        """Chunks along the channel axis."""
        return -(-self.channels // self.channel_chunk)

    @cached_property
    def codec(self) -> Codec:
        """How chunks become bytes."""
        return Codec(self.head.dtype)

    @property
    def axes(self) -> str:
        """Axes of the arrays, in OME order."""
        return (
            self.loop_axes_first
            + ("C" if self.head.channels is not None else "")
            + self.loop_axes_last
            + spatial_axes(len(self.shape))
        )

    @property
    def loop_axes_first(self) -> str:
        """Loop axes before the channels: S and T."""
        return self.loop_axes.replace("Z", "")

    @property
    def loop_axes_last(self) -> str:
        """Loop axes after the channels: Z, where the model is 2-D."""
        return "Z" if "Z" in self.loop_axes else ""

    def shard_counts(self, level: int) -> tuple[int, ...]:
        """Chunks of a shard on the spatial axes of `level`; level 1 halves level 0, so that a unit fills both."""
        chunks = [-(-n // c) for n, c in zip(self.shape, self.chunk, strict=True)]
        in_unit = [max(1, u // c) for u, c in zip(self.unit, self.chunk, strict=True)]
        most = [2] + [SHARD_CHUNKS if len(chunks) == 2 else 2] * (len(chunks) - 1)
        counts = [min(m, u, n + n % 2 if n > 1 else 1) for m, u, n in zip(most, in_unit, chunks, strict=True)]
        counts = [
            next(c for c in range(count, 0, -1) if u % c == 0 or u >= n)
            for count, u, n in zip(counts, in_unit, chunks, strict=True)
        ]
        if level == 1:
            counts[-2:] = [max(1, count // 2) for count in counts[-2:]]
        return tuple(counts)

    def extents(self, level: int) -> tuple[int, ...]:
        """Spatial extent of a shard in pixels of `level`."""
        return tuple(c * n for c, n in zip(self.chunk, self.shard_counts(level), strict=True))

    def create(self) -> list[FileRecord]:
        """Write the metadata of the group and of its arrays; what is there already is replaced by the same."""
        records = [write_file(self.folder / "zarr.json", _json(self._group()))]
        levels = range(len(self.levels))
        return records + [write_file(self.folder / f"{i}/zarr.json", _json(self._array(i))) for i in levels]

    def shards(self, level: int, region: Region) -> Iterator[tuple[int, ...]]:
        """Indices of the shards that `region` (in pixels of `level`) touches."""
        extents = self.extents(level)
        return itertools.product(
            *(range(a // n, -(-b // n)) for a, b, n in zip(region.start, region.stop, extents, strict=True))
        )

    def path(self, level: int, loops: Sequence[int], index: Sequence[int]) -> Path:
        """File of one shard."""
        by_axis = dict(zip(self.loop_axes, loops, strict=True))
        parts = [by_axis[axis] for axis in self.loop_axes_first]
        parts += [0] if self.head.channels is not None else []
        parts += [by_axis[axis] for axis in self.loop_axes_last] + list(index)
        return self.folder.joinpath(str(level), "c", *map(str, parts))

    def write_shard(
        self,
        level: int,
        loops: Sequence[int],
        index: tuple[int, ...],
        block: Callable[[tuple[int, ...]], NDArray[Any] | None],
    ) -> list[FileRecord]:
        """Write one shard, and from level 0 the shard of level 1 that lies over it.

        Parameters
        ----------
        level, loops, index
            Which shard.
        block
            Gives the pixels of the chunk at a place within the shard, all channels: ``(C, *chunk)`` of the head's
            dtype, C-contiguous, nodata beyond the image; None where nothing was predicted.
        """
        counts = self.shard_counts(level)
        reduced: dict[tuple[int, ...], NDArray[Any]] = {}
        makes_next = level == 0 and len(self.levels) > 1
        with ShardWriter(self.path(level, loops, index), self._file_counts(level), self.codec) as shard:
            for place in itertools.product(*map(range, counts)):
                pixels = block(place) if self._inside(level, index, place) else None
                if pixels is None:
                    continue
                self._append(shard, place, pixels)
                if makes_next:
                    self._reduce_into(reduced, 0, index, place, pixels)
        records = [shard.record]
        if makes_next:
            with ShardWriter(self.path(1, loops, index), self._file_counts(1), self.codec) as shard:
                for place, pixels in reduced.items():
                    self._append(shard, place, pixels)
            records.append(shard.record)
        return records

    def write_level_shard(self, level: int, loops: Sequence[int], index: tuple[int, ...]) -> list[FileRecord]:
        """Write one shard of level 2 or higher from the stored shards of the level below."""
        below = level - 1
        blocks: dict[tuple[int, ...], NDArray[Any]] = {}
        extents = self.extents(level)
        start = tuple(i * n for i, n in zip(index, extents, strict=True))
        factor = (1,) * (len(start) - 2) + (2, 2)
        covered = Region(
            tuple(a * f for a, f in zip(start, factor, strict=True)),
            tuple(n * f for n, f in zip(extents, factor, strict=True)),
        )
        covered = covered.intersect(Region.whole(self.levels[below]))
        for shard_index in self.shards(below, covered):
            path = self.path(below, loops, shard_index)
            if not path.exists():
                continue
            with ShardReader(path, self._file_counts(below), self._file_chunk(), self.codec) as shard:
                for place in itertools.product(*map(range, self.shard_counts(below))):
                    pixels = self._chunk_of(shard, place)
                    if pixels is not None:
                        absolute = tuple(
                            i * n + p for i, n, p in zip(shard_index, self.shard_counts(below), place, strict=True)
                        )
                        self._reduce_into(blocks, below, (0,) * len(absolute), absolute, pixels)
        first = tuple(a // c for a, c in zip(start, self.chunk, strict=True))
        return self.write_shard(
            level, loops, index, lambda place: blocks.get(tuple(f + p for f, p in zip(first, place, strict=True)))
        )

    def empty_block(self, dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
        """Chunk of all channels filled with nodata."""
        return np.full((self.channels, *self.chunk), self.nodata, dtype or self.head.dtype)

    def _append(self, shard: ShardWriter, place: tuple[int, ...], pixels: NDArray[Any]) -> None:
        if self.head.channels is None:
            shard.append(place, np.ascontiguousarray(pixels[0]))
            return
        for k in range(self.channel_chunks):
            channels = pixels[k * self.channel_chunk : (k + 1) * self.channel_chunk]
            if len(channels) < self.channel_chunk:
                missing = np.full((self.channel_chunk - len(channels), *self.chunk), self.nodata, self.head.dtype)
                channels = np.concatenate([channels, missing])
            shard.append((k, *place), np.ascontiguousarray(channels))

    def _chunk_of(self, shard: ShardReader, place: tuple[int, ...]) -> NDArray[Any] | None:
        if self.head.channels is None:
            pixels = shard.read(place)
            return None if pixels is None else pixels[None]
        chunks = [shard.read((k, *place)) for k in range(self.channel_chunks)]
        present = [chunk for chunk in chunks if chunk is not None]
        return np.concatenate(present)[: self.channels] if present else None

    def _reduce_into(
        self,
        blocks: dict[tuple[int, ...], NDArray[Any]],
        level: int,
        index: tuple[int, ...],
        place: tuple[int, ...],
        pixels: NDArray[Any],
    ) -> None:
        counts = self.shard_counts(level)
        absolute = tuple(i * n + p for i, n, p in zip(index, counts, place, strict=True))
        inside = tuple(min(c, n - a * c) for c, n, a in zip(self.chunk, self.levels[level], absolute, strict=True))
        half = halve(pixels[(slice(None), *map(slice, inside))], classes=self.classes)
        above = (*place[:-2], place[-2] // 2, place[-1] // 2)
        target = blocks.get(above)
        if target is None:
            target = blocks[above] = self.empty_block()
        at: list[slice] = [slice(0, half.shape[i + 1]) for i in range(len(place) - 2)]
        for axis in (-2, -1):
            first = absolute[axis] % 2 * self.chunk[axis] // 2
            at.append(slice(first, first + half.shape[axis]))
        target[(slice(None), *at)] = half

    def _inside(self, level: int, index: tuple[int, ...], place: tuple[int, ...]) -> bool:
        counts = self.shard_counts(level)
        return all(
            (i * n + p) * c < size
            for i, n, p, c, size in zip(index, counts, place, self.chunk, self.levels[level], strict=True)
        )

    def _file_counts(self, level: int) -> tuple[int, ...]:
        channels = () if self.head.channels is None else (self.channel_chunks,)
        return (*channels, *self.shard_counts(level))

    def _file_chunk(self) -> tuple[int, ...]:
        channels = () if self.head.channels is None else (self.channel_chunk,)
        return (*channels, *self.chunk)

    def _full(self, channels: tuple[int, ...], spatial: tuple[int, ...], loops: Sequence[int]) -> list[int]:
        by_axis = dict(zip(self.loop_axes, loops, strict=True))
        return (
            [by_axis[axis] for axis in self.loop_axes_first]
            + list(channels)
            + [by_axis[axis] for axis in self.loop_axes_last]
            + list(spatial)
        )

    def _array(self, level: int) -> Mapping[str, Any]:
        ones = (1,) * len(self.loop_axes)
        has = self.head.channels is not None
        nodata: Any = self.nodata
        if self.head.dtype.kind == "f":
            nodata = "NaN" if math.isnan(nodata) else float(nodata)
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": self._full((self.channels,) if has else (), self.levels[level], self.loop_shape),
            "data_type": self.head.dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {
                    "chunk_shape": self._full(
                        (self.channel_chunks * self.channel_chunk,) if has else (), self.extents(level), ones
                    )
                },
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": nodata,
            "codecs": [
                {
                    "name": "sharding_indexed",
                    "configuration": {
                        "chunk_shape": self._full((self.channel_chunk,) if has else (), self.chunk, ones),
                        "codecs": self.codec.metadata(),
                        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
                        "index_location": "end",
                    },
                }
            ],
            "attributes": {},
            "dimension_names": [axis.lower() for axis in self.axes],
        }

    def _group(self) -> Mapping[str, Any]:
        kinds = {"S": None, "T": "time", "C": "channel"}
        axes = []
        for axis in self.axes:
            kind = kinds.get(axis, "space")
            entry = {"name": axis.lower()} | ({"type": kind} if kind else {})
            axes.append(entry | ({"unit": self.units[axis]} if axis in self.units else {}))
        datasets = []
        for level in range(len(self.levels)):
            scale = [self.spacing.get(axis, 1.0) * (2**level if axis in "YX" else 1) for axis in self.axes]
            datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
        multiscale = {
            "name": self.name,
            "axes": axes,
            "datasets": datasets,
            "type": "nearest" if self.classes else "mean",
        }
        ome: dict[str, Any] = {"version": "0.5", "multiscales": [multiscale]}
        if self.head.classes and self.head.channels is not None:
            ome["omero"] = {"channels": [{"label": label} for label in self.head.classes]}
        return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode()
