"""Tiles: kept in a temporary file until an image is covered, then stitched band by band and written."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.blend import Blend
from patchloom.geometry.grid import Edge, Grid
from patchloom.geometry.region import Region
from patchloom.predictions.dense import default_nodata
from patchloom.predictions.files import output_error
from patchloom.writing.collecting import Collecting, Gathering
from patchloom.writing.images import Output
from patchloom.writing.prediction import ImageShape, Sample
from patchloom.writing.scratch import MEMORY, Scratch
from patchloom.writing.strategy import OnIncomplete, WriteFunc
from patchloom.writing.tiling import Pixels, Tiling, TilingOptions, check_tile

__all__ = ["WriteTiles"]

SPOOLED = 16 << 20
"""Bytes of the tiles of one image that stay in memory."""
BAND = {2: (4, 16), 3: (2, 4, 4)}
"""Tiles of a band on each axis: memory does not grow with the image, and few tiles are on a border and read twice."""


class WriteTiles(Collecting):
    """Writes images that are predicted tile by tile.

    Tiles may come in any order and in any batches. With `stride` or `overlap` an image is complete when all tiles of
    that grid are there; without, when the starts of the tiles form a grid that covers the image, for which tiles have
    to come row by row. What no tile covers is NaN, or the largest integer.

    Parameters
    ----------
    write_func, extension, kwargs
        See `WriteImage`.
    stride, overlap
        Pixels from tile to tile, or that neighbours share; one number or one an axis.
    edge
        ``shift``, ``pad`` or ``drop``; used with `stride` or `overlap`.
    blend
        ``crop``, ``constant``, ``gaussian`` or ``hann``: how overlapping tiles become one.
    patch
        Pixels of the source that a tile is the prediction of, where it has more or fewer itself.
    on_incomplete, memory
        See `WriteImage`.

    Examples
    --------
    >>> from patchloom.writing import ImagePrediction, write_npy
    >>> folder, strategy = Path(tempfile.mkdtemp()), WriteTiles(write_npy, ".npy", overlap=4)
    >>> for start in [(0, 0), (0, 4), (4, 0), (4, 4)]:
    ...     tile = ImagePrediction(np.ones((1, 8, 8)), "YX", (12, 12), 0, source="a.tif", start=start)
    ...     strategy.write_batch(folder, [tile])
    >>> strategy.close()
    >>> np.load(folder / "a.npy").shape
    (1, 12, 12)
    """

    def __init__(
        self,
        write_func: WriteFunc,
        extension: str,
        kwargs: Mapping[str, Any] | None = None,
        *,
        stride: Pixels | None = None,
        overlap: Pixels | None = None,
        edge: Edge = "shift",
        blend: Blend = "crop",
        patch: Pixels | None = None,
        on_incomplete: OnIncomplete = "raise",
        memory: int = MEMORY,
    ) -> None:
        super().__init__(extension, on_incomplete)
        self._output = Output(write_func, kwargs or {})
        self._options = TilingOptions(patch, stride, overlap, edge, blend)
        self._scratch = Scratch(memory)

    def _gather(self, folder: Path, path: Path, sample: Sample) -> Gathering:
        return _Tiles(sample.shape, folder, self._output, self._options, self._scratch)


class _Tiles:
    """Tiles of one image."""

    what = "tiles"

    def __init__(
        self, shape: ImageShape, folder: Path, output: Output, options: TilingOptions, scratch: Scratch
    ) -> None:
        self._shape, self._folder, self._output, self._options, self._scratch = shape, folder, output, options, scratch
        self._grid = options.grid(shape) if options.known else None
        self._cache = _TileCache(shape, folder)
        self._starts: tuple[set[int], ...] = tuple(set() for _ in shape.plane)

    @property
    def expected(self) -> int | None:
        return None if self._grid is None else len(self._grid) * self._shape.samples

    @property
    def complete(self) -> bool:
        if self._grid is None:
            self._grid = self._found_grid()
        return self._grid is not None and len(self._cache) == self.expected

    def check(self, sample: Sample) -> bool:
        return (sample.sample, check_tile(sample, self._shape, self._grid)) in self._cache

    def add(self, sample: Sample) -> None:
        assert sample.start is not None
        self._cache.put((sample.sample, sample.start), sample.values)
        for known, first in zip(self._starts, sample.start, strict=True):
            known.add(first)

    def finish(self, path: Path) -> None:
        assert self._grid is not None
        tiling = Tiling(self._shape, self._grid, self._options.blend)
        image = self._scratch.take(self._shape.output_shape(tiling.space), self._shape.dtype, self._folder)
        try:
            for sample in range(self._shape.samples):
                for band in _bands(tiling):
                    image[self._shape.index(sample, band.slices)] = self._stitched(tiling, sample, band)
            self._output.write(path, image, self._shape.output_axes)
        finally:
            self._scratch.give(image)

    def discard(self) -> None:
        self._cache.close()

    def _found_grid(self) -> Grid | None:
        """The grid that the starts form, once they are a full product that covers the image."""
        if not len(self._cache) or len(self._cache) != math.prod(map(len, self._starts)) * self._shape.samples:
            return None
        for starts, n, extent in zip(self._starts, self._shape.plane, self._options.patch_of(self._shape), strict=True):
            ordered = sorted(starts)
            if ordered[0] or ordered[-1] + extent < n:
                return None
            if any(b - a > extent for a, b in itertools.pairwise(ordered)):
                return None
        try:
            return self._options.grid_through(self._starts, self._shape)
        except ValueError:
            return None

    def _stitched(self, tiling: Tiling, sample: int, band: Region) -> NDArray[Any]:
        """Pixels of a band, ``(C, *band)`` or ``(*band)``."""
        dtype, adds = self._shape.dtype, tiling.placing.adds
        wide = np.promote_types(dtype, np.float32) if dtype.kind in "fc" else np.dtype(np.float32)
        pixels = np.zeros((self._shape.channels or 1, *band.shape), wide if adds else dtype)
        grid = tiling.placing.grid
        ranges = grid.covering(band) if adds else grid.owners(band)
        for place in itertools.product(*ranges):
            start = tiling.grid.start(place)
            area, values, weights = tiling.contribution(start, self._cache.get((sample, start)), band)
            at = (slice(None), *area.relative_to(band.start).slices)
            if weights is None:
                pixels[at] = values
            else:
                pixels[at] += values * weights
        if dtype.kind in "iub" and adds:
            pixels = np.rint(pixels)
        gaps = tiling.gaps(band)
        pixels = pixels.astype(dtype, copy=False)
        if gaps is not None:
            pixels[:, gaps] = default_nodata(dtype)
        return pixels if self._shape.channels is not None else pixels[0]


class _TileCache:
    """Tiles of one size, one behind the other in a temporary file."""

    def __init__(self, shape: ImageShape, folder: Path) -> None:
        self._shape = ((shape.channels,) if shape.channels is not None else ()) + shape.extent
        self._dtype, self._folder = shape.dtype, folder
        self._nbytes = math.prod(self._shape) * self._dtype.itemsize
        self._places: dict[tuple[int, tuple[int, ...]], int] = {}
        self._file: tempfile.SpooledTemporaryFile[bytes] | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: tuple[int, tuple[int, ...]]) -> bool:
        return key in self._places

    def put(self, key: tuple[int, tuple[int, ...]], values: NDArray[Any]) -> None:
        """Keep a copy of a tile."""
        number = len(self._places)
        try:
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.SpooledTemporaryFile(SPOOLED, dir=str(self._folder))  # noqa: SIM115
            self._file.seek(number * self._nbytes)
            self._file.write(np.ascontiguousarray(values).data.cast("B"))
        except OSError as error:
            raise output_error(error, self._folder / "scratch") from error
        self._places[key] = number

    def get(self, key: tuple[int, tuple[int, ...]]) -> NDArray[Any]:
        """A tile."""
        assert self._file is not None
        self._file.seek(self._places[key] * self._nbytes)
        return np.frombuffer(self._file.read(self._nbytes), self._dtype).reshape(self._shape)

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _bands(tiling: Tiling) -> Iterator[Region]:
    """The image in bands, from the first row (or plane) to the last."""
    patch = tiling.placing.grid.patch
    steps = [count * p for count, p in zip(BAND[len(patch)], patch, strict=True)]
    for start in itertools.product(*(range(0, n, step) for n, step in zip(tiling.space, steps, strict=True))):
        yield Region(start, tuple(steps)).intersect(Region.whole(tiling.space))
