"""Tiles straight into a Zarr: nothing is kept but which tiles are there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from patchloom.errors import PatchloomError, UsageError
from patchloom.geometry.grid import Edge
from patchloom.predictions.files import PARTIAL, output_error
from patchloom.writing.collecting import Collecting, Gathering
from patchloom.writing.ome_zarr import create_array, replace_zarr
from patchloom.writing.prediction import ImageShape, Sample
from patchloom.writing.strategy import OnIncomplete
from patchloom.writing.tiling import Pixels, Tiling, TilingOptions, check_tile

__all__ = ["WriteTilesZarr"]


class WriteTilesZarr(Collecting):
    """Writes each tile, as it comes, into ``folder/<source>.zarr`` (OME-Zarr 0.5).

    Of tiles that overlap each pixel is taken from the tile whose middle is nearest, as the blend `crop` does. What is
    not there yet, or covered by no tile, is `nodata`; a Zarr whose image was never completed stays, and `close` says
    so.

    Parameters
    ----------
    stride, overlap, edge, patch
        See `WriteTiles`; without stride and overlap tiles touch.
    blend
        Only ``crop``: others need the neighbours of a tile.
    chunks
        Extent of the chunks: one number for Y and X, one a spatial axis, or one an axis. Default: 256, and 16 along Z.
    nodata
        Fill value. Default: NaN, or the largest integer.
    on_incomplete
        See `WriteImage`.

    Examples
    --------
    >>> import tempfile, zarr
    >>> from patchloom.writing import ImagePrediction
    >>> folder, strategy = Path(tempfile.mkdtemp()), WriteTilesZarr()
    >>> tiles = [
    ...     ImagePrediction(np.full((1, 8, 8), x), "YX", (8, 16), 0, source="a.tif", start=(0, x)) for x in (0, 8)
    ... ]
    >>> strategy.write_batch(folder, tiles)
    >>> strategy.close()
    >>> zarr.open_array(folder / "a.zarr" / "0")[0, 0, 6:10]
    array([0, 0, 8, 8])
    """

    def __init__(
        self,
        *,
        stride: Pixels | None = None,
        overlap: Pixels | None = None,
        edge: Edge = "shift",
        blend: str = "crop",
        patch: Pixels | None = None,
        chunks: int | Sequence[int] | None = None,
        nodata: float | None = None,
        on_incomplete: OnIncomplete = "raise",
    ) -> None:
        super().__init__(".zarr", on_incomplete)
        if blend != "crop":
            raise UsageError(f"tiles are not blended with {blend} as they come", "use WriteTiles, or blend='crop'")
        self._options = TilingOptions(patch, stride, overlap, edge)
        self._chunks, self._nodata = chunks, nodata

    def _gather(self, folder: Path, path: Path, sample: Sample) -> Gathering:
        return _Tiles(sample.shape, path, self._options, self._chunks, self._nodata)


class _Tiles:
    """Tiles of one image."""

    what = "tiles"

    def __init__(
        self,
        shape: ImageShape,
        path: Path,
        options: TilingOptions,
        chunks: int | Sequence[int] | None,
        nodata: float | None,
    ) -> None:
        self._shape, self._path, self._chunks, self._nodata = shape, path, chunks, nodata
        self._tiling = Tiling(shape, options.grid(shape), "crop")
        self._seen = np.zeros((shape.samples, len(self._tiling.grid)), bool)
        self._left = self._seen.size
        self._array: Any = None

    @property
    def expected(self) -> int:
        return self._seen.size

    @property
    def complete(self) -> bool:
        return self._left == 0

    def check(self, sample: Sample) -> bool:
        return bool(self._seen[self._number(sample)])

    def add(self, sample: Sample) -> None:
        assert sample.start is not None
        try:
            if self._array is None:
                self._array = self._create()
            area, values, _ = self._tiling.contribution(sample.start, sample.values)
            values = values if self._shape.channels is not None else values[0]
            if area.size:
                self._array[self._shape.index(sample.sample, area.slices)] = values
        except OSError as error:
            if isinstance(error, PatchloomError):
                raise
            raise output_error(error, self._path) from error
        self._seen[self._number(sample)] = True
        self._left -= 1

    def finish(self, path: Path) -> None:
        """Everything is written already."""

    def discard(self) -> None:
        self._array = None

    def _number(self, sample: Sample) -> tuple[int, int]:
        index = self._tiling.grid.index_of(check_tile(sample, self._shape, self._tiling.grid))
        assert index is not None
        return sample.sample, index

    def _create(self) -> Any:
        """The array; it takes the place of what an earlier loop left, never of anything but a Zarr."""
        shape, axes = self._shape.output_shape(self._tiling.space), self._shape.output_axes
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}{PARTIAL}")
        create_array(
            new, shape, axes, self._shape.dtype, chunks=self._chunks, nodata=self._nodata, name=self._path.stem
        )
        replace_zarr(new, self._path)
        return zarr.open_array(self._path / "0", mode="r+")
