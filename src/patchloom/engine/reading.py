"""Which pixels a patch needs, decoded once and shared by all patches that need them."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.config import Pad
from patchloom.geometry.grid import GridAxis
from patchloom.geometry.region import Piece, Region
from patchloom.images.plane import Plane
from patchloom.models.steps import Preprocess

__all__ = ["BlockStore", "Padding", "block_bytes", "block_extent", "deliver", "needed", "source_pixels"]

SMALL_CHUNK = 128
"""Chunks shorter than this on an axis are decoded several at a time."""
BLOCK = 256
BLOCK_DEPTH = 16


@dataclass(frozen=True)
class Padding:
    """How pixels beyond the edge of an image are made up: from the image (`reflect`, `edge`) or as `fill`."""

    mode: Pad
    fill: float


@lru_cache(maxsize=4096)
def source_pixels(start: int, patch: int, size: int, mode: Pad) -> NDArray[np.intp] | None:
    """For each pixel of a patch that reaches over the edge, the pixel of the image that stands there.

    As `numpy.pad` defines it for the whole image; -1 where the fill value stands. None for a patch inside the image.
    """
    if start >= 0 and start + patch <= size:
        return None
    pixels = np.arange(start, start + patch)
    if mode == "edge":
        return np.clip(pixels, 0, size - 1)
    if mode == "constant":
        return np.where((pixels >= 0) & (pixels < size), pixels, -1)
    period = max(1, 2 * (size - 1))
    pixels = pixels % period
    return np.where(pixels < size, pixels, period - pixels)


def needed(axis: GridAxis, i: int, size: int, mode: Pad) -> tuple[int, int]:
    """Pixels ``[a, b)`` of an image of `size` that patch `i` is made of."""
    start = axis.start(i)
    pixels = source_pixels(start, axis.patch, size, mode)
    if pixels is None:
        return start, start + axis.patch
    inside = pixels[pixels >= 0]
    return int(inside.min()), int(inside.max()) + 1


class BlockStore:
    """Decoded blocks of one plane: each is decoded once, and dropped when no patch row needs it any more.

    A block is a chunk of the file, or several where chunks are small.
    """

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.extent = block_extent(plane)
        self._blocks: dict[tuple[int, ...], NDArray[Any]] = {}
        self._lock = threading.Lock()
        self._announced: list[tuple[int, ...]] = []
        self._fetching = threading.Lock()
        self._abandoned = False

    @property
    def block_bytes(self) -> int:
        """Memory of one block."""
        return block_bytes(self.plane)

    def keys(self, region: Region) -> list[tuple[int, ...]]:
        """Blocks that share pixels with `region`."""
        lines = zip(region.start, region.shape, self.extent, strict=True)
        return list(itertools.product(*(range(a // extent, -(-(a + n) // extent)) for a, n, extent in lines)))

    def region(self, key: Sequence[int]) -> Region:
        """Pixels of one block."""
        return _block(tuple(key), self.extent, self.plane.shape)

    def announce(self, keys: Iterable[tuple[int, ...]]) -> None:
        """Say which blocks are going to be decoded, so that what is far away is fetched together."""
        if self.plane.is_far:
            self._announced.extend(keys)

    def _fetch(self) -> None:
        with self._fetching:
            keys, self._announced = self._announced, []
            if keys:
                self.plane.fetch([self.region(key) for key in keys])

    def decode(self, key: tuple[int, ...]) -> int:
        """Decode one block; returns the bytes that it takes, 0 where nobody wants it any more."""
        if self._announced or self._fetching.locked():
            self._fetch()
        return self.hold(key, self.plane.read(self.region(key)))

    def hold(self, key: tuple[int, ...], pixels: NDArray[Any]) -> int:
        """Take a block that is decoded; see `decode`."""
        with self._lock:
            self._blocks[key] = pixels
            return 0 if self._abandoned else pixels.nbytes

    def drop(self, keys: Iterable[tuple[int, ...]]) -> int:
        """Forget blocks; returns the bytes that this frees."""
        with self._lock:
            return 0 if self._abandoned else sum(self._blocks.pop(key).nbytes for key in keys)

    def abandon(self) -> int:
        """The image is given up: returns the bytes held, which are freed once the last patch under way is copied."""
        with self._lock:
            if self._abandoned:
                return 0
            self._abandoned = True
            return sum(block.nbytes for block in self._blocks.values())

    def fill(self, patch: Region, out: NDArray[Any], padding: Padding, preprocess: Preprocess | None) -> None:
        """Copy a patch out of the blocks, preprocessed, in one pass.

        Parameters
        ----------
        patch
            Pixels of the patch; may reach over the edges of the image.
        out
            ``(C, *patch)``: its place in the batch.
        padding
            For pixels beyond the edges.
        preprocess
            None copies pixels as they are.
        """
        if self._inside(patch):
            self._copy(patch, out, preprocess)
            return
        pixels = [
            source_pixels(a, n, size, padding.mode)
            for a, n, size in zip(patch.start, patch.shape, self.plane.shape, strict=True)
        ]
        source = self.source(patch, padding)
        raw = self.cut(source)
        for axis, (p, origin) in enumerate(zip(pixels, source.start, strict=True), 1):
            if p is not None:
                raw = np.take(raw, np.maximum(p - origin, 0), axis)
        for axis, p in enumerate(pixels, 1):
            if p is not None and padding.mode == "constant":
                outside = (slice(None),) * axis + (p < 0,)
                raw[outside] = np.asarray(padding.fill).astype(raw.dtype)
        deliver(raw, out, preprocess)

    def source(self, patch: Region, padding: Padding) -> Region:
        """Pixels of the plane that a patch is made of; less than the patch where it reaches over an edge."""
        if self._inside(patch):
            return patch
        first, stop = [], []
        for a, n, size in zip(patch.start, patch.shape, self.plane.shape, strict=True):
            pixels = source_pixels(a, n, size, padding.mode)
            first.append(a if pixels is None else int(pixels[pixels >= 0].min()))
            stop.append(a + n if pixels is None else int(pixels.max()) + 1)
        return Region.between(first, stop)

    def _inside(self, patch: Region) -> bool:
        return all(
            a >= 0 and a + n <= size for a, n, size in zip(patch.start, patch.shape, self.plane.shape, strict=True)
        )

    def cut(self, source: Region) -> NDArray[Any]:
        """Pixels of a region inside the plane, whose blocks are decoded: ``(C, *region)`` of the file's dtype."""
        raw = np.empty((self.plane.channels, *source.shape), self.plane.dtype)
        self._copy(source, raw, None)
        return raw

    def _copy(self, source: Region, out: NDArray[Any], preprocess: Preprocess | None) -> None:
        for key, there, here in _pieces(source, self.extent):
            with self._lock:
                pixels = self._blocks[key]
            deliver(pixels[(slice(None), *there)], out[(slice(None), *here)], preprocess)


def block_extent(plane: Plane) -> tuple[int, ...]:
    """Pixels of a block on each axis."""
    return _extent(plane.shape, plane.chunks)


def block_bytes(plane: Plane) -> int:
    """Memory of one block."""
    return plane.channels * math.prod(block_extent(plane)) * plane.dtype.itemsize


@lru_cache(maxsize=1024)
def _extent(shape: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
    least = [BLOCK_DEPTH // 2, SMALL_CHUNK, SMALL_CHUNK][-len(shape) :]
    whole = [BLOCK_DEPTH, BLOCK, BLOCK][-len(shape) :]
    return tuple(
        min(n, c if c >= small else c * -(-large // c))
        for n, c, small, large in zip(shape, chunks, least, whole, strict=True)
    )


@lru_cache(maxsize=1024)
def _block(key: tuple[int, ...], extent: tuple[int, ...], shape: tuple[int, ...]) -> Region:
    start = tuple(k * n for k, n in zip(key, extent, strict=True))
    return Region(start, extent).intersect(Region.whole(shape))


@lru_cache(maxsize=1024)
def _pieces(source: Region, extent: tuple[int, ...]) -> tuple[Piece, ...]:
    return tuple(source.pieces(extent))


def deliver(pixels: NDArray[Any], out: NDArray[Any], preprocess: Preprocess | None) -> None:
    """Copy pixels, ``(C, *region)``, to their place in a batch, preprocessed."""
    if preprocess is None:
        out[...] = pixels
    else:
        preprocess.into(pixels, out)
