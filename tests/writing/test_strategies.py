"""Our write strategies do what every strategy must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

import patchloom
from patchloom.testing.writing import Pixels, WriteStrategyTests
from patchloom.writing import (
    WriteImage,
    WriteRun,
    WriteStrategy,
    WriteTiles,
    WriteTilesZarr,
    write_npy,
    write_tiff,
    write_zarr,
)


class NpyFiles(WriteStrategyTests):
    def read(self, folder: Path, name: str, source: str) -> Pixels:
        return np.load(folder / f"{name}.npy")


class ZarrFolders(WriteStrategyTests):
    def read(self, folder: Path, name: str, source: str) -> Pixels:
        array: Any = zarr.open_array(folder / f"{name}.zarr" / "0", mode="r")
        return np.asarray(array[...])


class TestWholeImagesAsNpy(NpyFiles):
    def make(self) -> WriteStrategy:
        return WriteImage(write_npy, ".npy")


class TestWholeImagesInTemporaryFiles(NpyFiles):
    def make(self) -> WriteStrategy:
        return WriteImage(write_npy, ".npy", memory=0)


class TestWholeImagesAsZarr(ZarrFolders):
    def make(self) -> WriteStrategy:
        return WriteImage(write_zarr, "zarr")


class TestWholeImagesAsTiff(WriteStrategyTests):
    def make(self) -> WriteStrategy:
        return WriteImage(write_tiff, ".tiff", {"compression": "zlib"})

    def read(self, folder: Path, name: str, source: str) -> Pixels:
        with tifffile.TiffFile(folder / f"{name}.tiff") as file:
            return file.asarray(squeeze=False)

    def check(self, found: Pixels, expected: Pixels) -> None:
        # TIFF has its own order of S, T and axes of one; that is tested with the write function.
        super().check(found.reshape(expected.shape), expected)


class TestTilesOfAGridThatIsFound(NpyFiles):
    patch, overlap, any_order = 16, 0, False

    def make(self) -> WriteStrategy:
        return WriteTiles(write_npy, ".npy")


class TestOverlappingTilesOfAGridThatIsFound(NpyFiles):
    patch, overlap, any_order = 16, 5, False

    def make(self) -> WriteStrategy:
        return WriteTiles(write_npy, ".npy")


class TestOverlappingTiles(NpyFiles):
    patch, overlap = 16, 4

    def make(self) -> WriteStrategy:
        return WriteTiles(write_npy, ".npy", overlap=4)


class TestBlendedTiles(NpyFiles):
    patch, overlap, tolerance = 16, 6, 1e-6

    def make(self) -> WriteStrategy:
        return WriteTiles(write_npy, ".npy", overlap=6, blend="gaussian", memory=0)


class TestTilesIntoZarr(ZarrFolders):
    patch, overlap = 16, 4

    def make(self) -> WriteStrategy:
        return WriteTilesZarr(overlap=4, chunks=12)


class TestTouchingTilesIntoZarr(ZarrFolders):
    patch = 16

    def make(self) -> WriteStrategy:
        return WriteTilesZarr()


class Runs(WriteStrategyTests):
    patch = 16

    def read(self, folder: Path, name: str, source: str) -> Pixels:
        run = patchloom.open(folder)
        assert run.verify() == []
        return np.asarray(run[source].stitched())


class TestTilesIntoARun(Runs):
    overlap = 4

    def make(self) -> WriteStrategy:
        return WriteRun(model_id="m", overlap=4)


class TestBlendedTilesIntoARun(Runs):
    overlap, tolerance = 6, 1e-6

    def make(self) -> WriteStrategy:
        return WriteRun(model_id="m", overlap=6, blend="hann")
