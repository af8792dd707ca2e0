"""The part of a dense head's map that one unit makes, filled patch by patch and handed over chunk by chunk."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.placing import Placing
from patchloom.geometry.region import Piece, Region
from patchloom.models.steps import Reduce
from patchloom.predictions.dense import DenseMap

__all__ = ["BufferPool", "UnitMap"]


class BufferPool:
    """Large arrays that are used again instead of being freed: fresh memory costs page faults."""

    def __init__(self) -> None:
        self._free: dict[int, list[NDArray[np.uint8]]] = defaultdict(list)
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Array with arbitrary content."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        with self._lock:
            free = self._free[nbytes]
            flat = free.pop() if free else None
        if flat is None:
            flat = np.empty(nbytes, np.uint8)
        return flat.view(dtype).reshape(shape)

    def give(self, array: NDArray[Any]) -> None:
        """Take back what `take` gave; at most two of a size are kept."""
        with self._lock:
            if len(self._free[array.nbytes]) < 2:
                self._free[array.nbytes].append(array.reshape(-1).view(np.uint8))


class UnitMap:
    """Accumulates predictions of a unit.

    The array is laid out chunk by chunk, ``(*chunks, C, *chunk)``: what a chunk's encoder reads is contiguous, and
    nothing is copied between stitching and encoding.

    Parameters
    ----------
    layout
        The map that this is a part of.
    placing
        Where patches go, in map pixels.
    region
        Pixels of the map.
    channels
        Channels of the head before reduction.
    dtype
        Of the head before reduction.
    reduce
        Applied to each patch under `crop`, to blended chunks otherwise; None where there is nothing to reduce.
    pool
        Where the array comes from.
    gaps
        Whether patches may be missing because they are skipped: what none of the others covers is then nodata, and
        weighted sums are divided by the weights that were added.
    """

    def __init__(
        self,
        layout: DenseMap,
        placing: Placing,
        region: Region,
        channels: int,
        dtype: np.dtype[Any],
        reduce: Reduce | None,
        pool: BufferPool,
        *,
        gaps: bool = False,
    ) -> None:
        self.layout, self.region = layout, region
        self._placing, self._reduce, self._pool = placing, reduce, pool
        self._counts = tuple(-(-n // c) for n, c in zip(region.shape, layout.chunk, strict=True))
        self._lock = threading.Lock()
        self._touched = np.zeros(self._counts, bool) if gaps else None
        self._weights: NDArray[Any] | None = None
        if not placing.adds:
            self._array = pool.take((*self._counts, layout.channels, *layout.chunk), layout.head.dtype)
            if gaps:
                self._array[...] = layout.nodata
            else:
                self._fill_what_stays_empty()
        else:
            sums = np.dtype(np.float64 if dtype == np.float64 else np.float32)
            self._array = pool.take((*self._counts, channels, *layout.chunk), sums)
            self._array[...] = 0
            if gaps:
                self._weights = pool.take((*self._counts, 1, *layout.chunk), sums)
                self._weights[...] = 0

    def place(self, place: Sequence[int], values: NDArray[Any]) -> None:
        """Add the prediction of the patch at `place`: ``(C, *patch)`` or ``(*patch)``."""
        area, weights = self._placing(place, self.region)
        if not area.size:
            return
        values = self._placing.part(place, area, values)
        if weights is None:
            self._copy(area, values)
        else:
            self._add(self._array, area, values * weights)
            if self._weights is not None:
                self._add(self._weights, area, weights[None])

    def block(self, index: tuple[int, ...]) -> NDArray[Any] | None:
        """Final pixels of the chunk at `index` within this unit, all channels; None where nothing was predicted.

        ``(C, *chunk)``, C-contiguous, of the stored dtype, nodata beyond the image and where no patch reaches.
        """
        if self._touched is not None:
            predicted = bool(self._touched[index])
        else:
            predicted = all(covered[i].any() for covered, i in zip(self._covered, index, strict=True))
        if not predicted:
            return None
        pixels: NDArray[Any] = self._array[index]
        if not self._placing.adds:
            return pixels
        if self._weights is not None:
            weights = self._weights[index]
            pixels = np.divide(pixels, weights, out=np.zeros_like(pixels), where=weights > 0)
        if self._reduce is not None:
            pixels = self._reduce(pixels, channel_axis=0)
        if pixels.ndim == len(index):
            pixels = pixels[None]
        dtype = self.layout.head.dtype
        if dtype.kind in "iu" and pixels.dtype.kind == "f":
            pixels = np.rint(pixels)
        final = pixels.astype(dtype)
        mask = self._mask(index)
        if not mask.all():
            final[:, ~mask] = self.layout.nodata
        return final

    def release(self) -> None:
        """Give the array back."""
        self._pool.give(self._array)
        if self._weights is not None:
            self._pool.give(self._weights)
        del self._array, self._weights

    def _mask(self, index: tuple[int, ...]) -> NDArray[np.bool_]:
        """Pixels of a chunk to which any patch was added."""
        if self._weights is not None:
            reached: NDArray[np.bool_] = self._weights[index][0] > 0
            return reached
        mask = np.ones((), bool)
        for covered, i in zip(self._covered, index, strict=True):
            mask = mask[..., None] & covered[i]
        return mask

    def _copy(self, area: Region, values: NDArray[Any]) -> None:
        if self._reduce is not None:
            values = self._reduce(values, channel_axis=0)
            if values.ndim == len(area.shape):
                values = values[None]
        for index, inside, part in self._pieces(area):
            self._array[index][(slice(None), *inside)] = values[(slice(None), *part)]
            if self._touched is not None:
                self._touched[index] = True

    def _add(self, array: NDArray[Any], area: Region, values: NDArray[Any]) -> None:
        with self._lock:
            for index, inside, part in self._pieces(area):
                array[index][(slice(None), *inside)] += values[(slice(None), *part)]
                if self._touched is not None:
                    self._touched[index] = True

    def _pieces(self, area: Region) -> Iterator[Piece]:
        """For each chunk that `area` touches: its index, the part of it, and the same part of `area`."""
        return area.relative_to(self.region.start).pieces(self.layout.chunk)

    @cached_property
    def _covered(self) -> list[list[NDArray[np.bool_]]]:
        """For each axis and chunk, which of its pixels any patch covers."""
        lines = []
        for axis, a, b, chunk in zip(
            self._placing.grid.axes, self.region.start, self.region.stop, self.layout.chunk, strict=True
        ):
            covered = np.zeros(-(-(b - a) // chunk) * chunk, bool)
            for i in axis.covering(a, b):
                start = axis.start(i)
                covered[max(0, start - a) : max(0, min(b, start + axis.patch) - a)] = True
            lines.append([covered[i : i + chunk] for i in range(0, len(covered), chunk)])
        return lines

    def _fill_what_stays_empty(self) -> None:
        for index in itertools.product(*map(range, self._counts)):
            if not all(covered[i].all() for covered, i in zip(self._covered, index, strict=True)):
                self._array[index] = self.layout.nodata
