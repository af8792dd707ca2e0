"""All patches in order, such that each chunk of an image is decoded once, alone or shared out over processes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from patchloom.engine.reading import BlockStore
from patchloom.errors import ImageError
from patchloom.geometry.grid import Grid
from patchloom.geometry.region import Region
from patchloom.images.filters import Filter, inside
from patchloom.loop.patches import Crop, Cut, Patches

__all__ = ["stream"]

BAND_BYTES = 256 << 20
"""Decoded pixels of one row of patches; wider planes are read in stripes, at whose borders chunks are decoded twice."""


@dataclass(frozen=True)
class _Band:
    """Rows of patches of one plane, read from the first to the last."""

    image: int
    sample: int
    rows: range


def stream(patches: Patches, *, share: int = 0, shares: int = 1, skip: Filter | None = None) -> Iterator[Cut]:
    """Read all patches, image by image, plane by plane, row by row.

    Parameters
    ----------
    patches
        To read.
    share, shares
        Read only this share of so many. All shares together have each patch once. Planes are dealt out whole; where
        there are fewer planes than shares, each is cut into bands of patch rows, and the chunks at the cuts are decoded
        twice.
    skip
        Leaves out patches that are not worth it.

    Yields
    ------
    Cut
        Of images that were given up nothing more is read.

    Raises
    ------
    ImageError
        If an image cannot be read, unless such images are left out.
    """
    for band in itertools.islice(_bands(patches, shares), share, None, shares):
        if patches.unreadable[band.image]:
            continue
        try:
            yield from _read(patches, band, skip)
        except ImageError as error:
            patches.give_up(band.image, error)


def _bands(patches: Patches, shares: int) -> Iterator[_Band]:
    index = patches.index
    planes = int(index.sums(layout.planes if layout.patches else 0 for layout in index.layouts)[-1])
    cuts = -(-shares // planes) if 0 < planes < shares else 1
    for image in np.flatnonzero(np.diff(index.first)):
        layout = index.layout(int(image))
        assert layout is not None
        rows = layout.grid.counts[0]
        for sample in range(layout.planes):
            for cut in range(cuts):
                band = range(rows * cut // cuts, rows * (cut + 1) // cuts)
                yield _Band(int(image), sample, band)


def _read(patches: Patches, band: _Band, skip: Filter | None) -> Iterator[Cut]:
    layout, name = patches.index.layout(band.image), patches.names[band.image]
    assert layout is not None
    store = BlockStore(patches.reader.planes(band.image)[band.sample])
    for columns in _stripes(layout.grid, store) if band.rows else ():
        window = _Window(patches, store, layout.grid, columns, band.rows[-1])
        for row in band.rows:
            window.move(row)
            for place in itertools.product((row,), *columns):
                region = layout.grid[place].region
                if skip is None or not _skips(skip, store, name, region):
                    yield Cut(patches.reader.fill(store, region), name, Crop(band.image, band.sample, region.start))
        window.close()


def _skips(skip: Filter, store: BlockStore, name: str, patch: Region) -> bool:
    seen = inside(patch, store.plane.shape)
    return skip.skips(store.cut(seen), name, seen, store.plane.shape)


class _Window:
    """Decoded blocks of one row of patches after the other; a line of blocks is forgotten when no row needs it."""

    def __init__(
        self, patches: Patches, store: BlockStore, grid: Grid, columns: Sequence[range], last_row: int
    ) -> None:
        self._padding, self._store, self._grid, self._columns = patches.reader.padding, store, grid, columns
        self._sparse = any(axis.stride > axis.patch for axis in grid.axes[1:])
        self._lines: dict[int, list[tuple[int, ...]]] = {}
        # The last row may reflect pixels that lie before those of the row above it.
        self._needed_last = {key[0] for key in self._keys(last_row)}

    def move(self, row: int) -> None:
        """Have the blocks of a row of patches decoded, and those above it forgotten."""
        keys = self._keys(row)
        wanted = {key[0] for key in keys} | self._needed_last
        for line in [line for line in self._lines if line not in wanted]:
            self._store.drop(self._lines.pop(line))
        new = [key for key in keys if key[0] not in self._lines]
        self._store.announce(new)
        for key in new:
            self._store.decode(key)
            self._lines.setdefault(key[0], []).append(key)

    def close(self) -> None:
        """Forget all."""
        self._store.drop(itertools.chain.from_iterable(self._lines.values()))

    def _keys(self, row: int) -> list[tuple[int, ...]]:
        places = itertools.product((row,), *self._columns)
        if self._sparse:  # what lies between the patches is not decoded
            keys = (self._store.keys(self._source(self._grid[place].region)) for place in places)
            return list(dict.fromkeys(itertools.chain.from_iterable(keys)))
        first = self._grid[(row, *(line[0] for line in self._columns))].region
        last = self._grid[(row, *(line[-1] for line in self._columns))].region
        return self._store.keys(self._source(Region.between(first.start, last.stop)))

    def _source(self, region: Region) -> Region:
        return self._store.source(region, self._padding)


def _stripes(grid: Grid, store: BlockStore) -> list[list[range]]:
    """Patches on the axes across a sweep, cut on the last axis where a whole row would take too much memory."""
    across = [range(n) for n in grid.counts[1:]]
    tall = -(-grid.patch[0] // store.extent[0]) + 1
    wide = math.prod(-(-n // extent) for n, extent in zip(grid.shape[1:], store.extent[1:], strict=True))
    n = len(across[-1])
    cuts = min(n, -(-tall * wide * store.block_bytes // BAND_BYTES))
    return [[*across[:-1], range(n * cut // cuts, n * (cut + 1) // cuts)] for cut in range(cuts)]
