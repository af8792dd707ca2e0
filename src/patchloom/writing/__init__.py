"""Write strategies: predictions that a caller's own loop makes become images in files."""

from __future__ import annotations

from patchloom.writing.functions import write_func_for, write_npy, write_png, write_tiff, write_zarr
from patchloom.writing.images import WriteImage
from patchloom.writing.prediction import ImagePrediction
from patchloom.writing.run import WriteRun
from patchloom.writing.strategy import WriteFunc, WriteStrategy
from patchloom.writing.tiles import WriteTiles
from patchloom.writing.zarr import WriteTilesZarr

__all__ = [
    "ImagePrediction",
    "WriteFunc",
    "WriteImage",
    "WriteRun",
    "WriteStrategy",
    "WriteTiles",
    "WriteTilesZarr",
    "write_func_for",
    "write_npy",
    "write_png",
    "write_tiff",
    "write_zarr",
]
