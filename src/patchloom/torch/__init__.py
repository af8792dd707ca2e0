"""For people with their own loop: datasets of patches, samplers, transforms, and writers of predictions.

Everything here stands on the geometry, readers and writers of the engine. Names are imported when they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "BalancedSampler": "patchloom.torch.samplers",
    "CentrePatch": "patchloom.torch.transforms",
    "GridSampler": "patchloom.torch.samplers",
    "ImagePrediction": "patchloom.writing.prediction",
    "PatchDataset": "patchloom.torch.dataset",
    "PatchStream": "patchloom.torch.dataset",
    "PredictionWriter": "patchloom.torch.lightning",
    "RandomCropSampler": "patchloom.torch.samplers",
    "RandomPatch": "patchloom.torch.transforms",
    "ShuffledSampler": "patchloom.torch.samplers",
    "WeightedSampler": "patchloom.torch.samplers",
    "WriteImage": "patchloom.writing.images",
    "WriteRun": "patchloom.writing.run",
    "WriteTiles": "patchloom.writing.tiles",
    "WriteTilesZarr": "patchloom.writing.zarr",
    "merge_batch": "patchloom.loop.batches",
    "patches_of": "patchloom.torch.loaders",
    "split_batch": "patchloom.loop.batches",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
