"""Stitched maps as OME-Zarr: where each unit's part is stored, and how it is written and read."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.axes import spatial_axes
from patchloom.geometry.region import Region
from patchloom.geometry.units import chunk_extents
from patchloom.models.model import Head
from patchloom.predictions.files import FileRecord
from patchloom.predictions.map_files import MapFiles
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
    """Map of one head over one image, in OME-Zarr 0.5 with one sharded array a level.

    Parameters
    ----------
    files
        Where its files are.
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

    files: MapFiles
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
        documents = {"zarr.json": self._group()}
        documents |= {f"{level}/zarr.json": self._array(level) for level in range(len(self.levels))}
        records: list[FileRecord] = []
        for name, document in documents.items():
            with self.files.writing(name) as file:
                file.write(json.dumps(document, indent=1).encode())
            records += file.records
        return records

    def finish(self) -> None:
        """Write what is missing of a small map when all its planes are there: metadata, shards without a single
        prediction, upper levels. In the end all files are there, so that one that is missed is damage.
        """
        self.create()
        planes = list(itertools.product(*map(range, self.loop_shape)))
        for level, shape in enumerate(self.levels):
            for loops, index in itertools.product(planes, self.shards(level, Region.whole(shape))):
                if level > 1:
                    self.write_level_shard(level, loops, index)
                elif self.files.reading(self.shard_name(level, loops, index)) is None:
                    self.write_shard(level, loops, index, lambda place: None)

    def shards(self, level: int, region: Region) -> Iterator[tuple[int, ...]]:
        """Indices of the shards that `region` (in pixels of `level`) touches."""
        extents = self.extents(level)
        return itertools.product(
            *(range(a // n, -(-b // n)) for a, b, n in zip(region.start, region.stop, extents, strict=True))
        )

    def shard_name(self, level: int, loops: Sequence[int], index: Sequence[int]) -> str:
        """File of one shard, within the map."""
        by_axis = dict(zip(self.loop_axes, loops, strict=True))
        parts = [by_axis[axis] for axis in self.loop_axes_first]
        parts += [0] if self.head.channels is not None else []
        parts += [by_axis[axis] for axis in self.loop_axes_last] + list(index)
        return "/".join(map(str, (level, "c", *parts)))

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
        with self._writer(level, loops, index) as shard:
            for place in itertools.product(*map(range, counts)):
                pixels = block(place) if self._inside(level, index, place) else None
                if pixels is None:
                    continue
                self._append(shard, place, pixels)
                if makes_next:
                    self._reduce_into(reduced, 0, index, place, pixels)
        records = shard.records
        if makes_next:
            with self._writer(1, loops, index) as shard:
                for place, pixels in reduced.items():
                    self._append(shard, place, pixels)
            records += shard.records
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
            shard = self._reader(below, loops, shard_index)
            if shard is None:
                continue
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

    def read(self, level: int, loops: Sequence[int], channels: range, region: Region) -> NDArray[Any]:
        """Pixels of one plane, ``(C, *region.shape)``; nodata where nothing was predicted.

        Parameters
        ----------
        level, loops
            Which plane.
        channels
            Which channels; ``range(1)`` where the head has no such axis.
        region
            Pixels of that level, all of them inside.

        Raises
        ------
        RunDamagedError
            If what was written is not there any more, or is damaged.
        """
        out = np.full((len(channels), *region.shape), self.nodata, self.head.dtype)
        covered = Region((channels.start, *region.start), (len(channels), *region.shape))
        for index in self.shards(level, region):
            shard = self._reader(level, loops, index)
            if shard is None:
                continue
            extents = self.extents(level)
            first = (0, *(i * n for i, n in zip(index, extents, strict=True)))
            whole = Region(first, (self.channels, *extents))
            inside = covered.intersect(whole)
            area = inside.relative_to(first)
            target = out[inside.relative_to(covered.start).slices]
            pieces = area.pieces((self.channel_chunk, *self.chunk))
            # In the order in which they are stored: object storage is read ahead.
            for place, there, here in sorted(pieces, key=lambda piece: (piece[0][1:], piece[0][0])):
                pixels = shard.read(place if self.head.channels is not None else place[1:])
                if pixels is not None:
                    target[here] = pixels[there if self.head.channels is not None else there[1:]]
        return out

    def array_shape(self, level: int) -> tuple[int, ...]:
        """Extents of the array of `level` along `axes`."""
        return tuple(self._full(self._of_channels(self.channels), self.levels[level], self.loop_shape))

    def array_chunks(self) -> tuple[int, ...]:
        """Extents along `axes` of what is read at once."""
        return tuple(self._full(self._of_channels(self.channel_chunk), self.chunk, (1,) * len(self.loop_axes)))

    def empty_block(self, dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
        """Chunk of all channels filled with nodata."""
        return np.full((self.channels, *self.chunk), self.nodata, dtype or self.head.dtype)

    def _writer(self, level: int, loops: Sequence[int], index: Sequence[int]) -> ShardWriter:
        name = self.shard_name(level, loops, index)
        return ShardWriter(self.files.writing(name), self._file_counts(level), self.codec)

    def _reader(self, level: int, loops: Sequence[int], index: Sequence[int]) -> ShardReader | None:
        """A shard; None where it was never written."""
        name = self.shard_name(level, loops, index)
        file = self.files.reading(name)
        if file is None:
            return None
        return ShardReader(file, self.files.where(name), self._file_counts(level), self._file_chunk(), self.codec)

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
        return (*self._of_channels(self.channel_chunks), *self.shard_counts(level))

    def _file_chunk(self) -> tuple[int, ...]:
        return (*self._of_channels(self.channel_chunk), *self.chunk)

    def _of_channels(self, count: int) -> tuple[int, ...]:
        """Extent of the channel axis, where the head has one."""
        return () if self.head.channels is None else (count,)

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
        nodata: Any = self.nodata
        if self.head.dtype.kind == "f":
            nodata = "NaN" if math.isnan(nodata) else float(nodata)
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": self.array_shape(level),
            "data_type": self.head.dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {
                    "chunk_shape": self._full(
                        self._of_channels(self.channel_chunks * self.channel_chunk), self.extents(level), ones
                    )
                },
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": nodata,
            "codecs": [
                {
                    "name": "sharding_indexed",
                    "configuration": {
                        "chunk_shape": self.array_chunks(),
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
