"""Comparing a batch with what a model takes, in plain words."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from patchloom.errors import ModelInputError
from patchloom.models.model import ModelInfo

__all__ = ["check_batch", "described_batch", "refused_batch"]


def check_batch(info: ModelInfo, batch: NDArray[Any]) -> None:
    """Raise ModelInputError if `batch` has another number of axes or channels, size or dtype than the model states."""
    if info.ndim is not None and batch.ndim != info.ndim + 2:
        raise ModelInputError(
            f"{info.name} takes {info.ndim}-D patches, and these are {batch.ndim - 2}-D",
            "give patch one number an axis: two for 2-D models, three for 3-D ones",
        )
    channels, patch = _channels_and_patch(info, batch)
    if info.channels is not None and channels != info.channels:
        raise ModelInputError(
            f"{info.name} takes {_counted(info.channels)}, and the patches have {channels}",
            "choose channels with channels=",
        )
    if info.patch is not None and patch != info.patch:
        raise ModelInputError(
            f"{info.name} takes patches of {_size(info.patch)} pixels only, and these are {_size(patch)}",
            f"use patch={','.join(map(str, info.patch))}",
        )
    if info.batch is not None and len(batch) != info.batch:
        raise ModelInputError(
            f"{info.name} takes exactly {info.batch} patches a call, and these are {len(batch)}",
            f"use batch={info.batch}",
        )
    if info.dtype is not None and not info.on_device and batch.dtype != info.dtype:
        raise ModelInputError(f"{info.name} takes {info.dtype}, and the patches are {batch.dtype}", "cast them")


def refused_batch(info: ModelInfo, batch: NDArray[Any], reason: str) -> ModelInputError:
    """Error for a batch that the model itself stumbled over."""
    return ModelInputError(
        f"{info.name} fails on {described_batch(info, batch)}: {reason}",
        "check the number of channels and the patch size; many networks want a multiple of 16 or 32",
    )


def described_batch(info: ModelInfo, batch: NDArray[Any]) -> str:
    """``2 patches of 3 channels, 512 x 512 pixels, float32``."""
    channels, patch = _channels_and_patch(info, batch)
    plural = "" if len(batch) == 1 else "es"
    return f"{len(batch)} patch{plural} of {_counted(channels)}, {_size(patch)} pixels, {batch.dtype}"


def _channels_and_patch(info: ModelInfo, batch: NDArray[Any]) -> tuple[int, tuple[int, ...]]:
    shape = batch.shape
    return (shape[-1], shape[1:-1]) if info.channels_last else (shape[1], shape[2:])


def _counted(channels: int) -> str:
    return f"{channels} channel{'' if channels == 1 else 's'}"


def _size(patch: tuple[int, ...]) -> str:
    return " x ".join(map(str, patch))
