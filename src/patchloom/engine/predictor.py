"""The model as the pipeline calls it: batches laid out as it likes them, its concurrency, its sanity."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelInputError, ModelOutputError
from patchloom.models.model import Head, Model
from patchloom.models.steps import Preprocess, Reduce

__all__ = ["Predictor"]

FEW = 4096
"""Numbers of a prediction that are looked at one by one, all patches at once."""


class Predictor:
    """Calls a model.

    Parameters
    ----------
    model
        The model.
    heads
        Raw heads, as the trial batch showed them.
    channels, patch
        Of a patch.
    dtype
        Of the batch.
    preprocess
        Applied while patches are copied into the batch; None where the model does it itself.
    hook
        The user's own step on a batch.
    threads
        Workers that may call at once, if the model allows.
    reduce
        By head, for vectors that the model does not reduce itself; maps are reduced where they are stitched.
    """

    def __init__(
        self,
        model: Model,
        heads: tuple[Head, ...],
        channels: int,
        patch: tuple[int, ...],
        dtype: np.dtype[Any],
        preprocess: Preprocess | None,
        hook: Callable[[Any], Any] | None,
        threads: int,
        reduce: Mapping[str, Reduce] | None = None,
    ) -> None:
        self._reduce = reduce or {}
        self.model, self.preprocess = model, preprocess
        self._heads = {head.name: head for head in heads}
        self._shape, self._dtype, self._hook = (channels, *patch), dtype, hook
        concurrent = model.info.concurrent
        # Of a model that is called by one thread at a time, the next batch is made ready meanwhile.
        self.at_once = threads if concurrent else min(2, threads)
        self._turn = nullcontext() if concurrent else threading.Lock()

    @property
    def bytes_a_patch(self) -> int:
        """Memory of one patch in a batch, and of its raw predictions."""
        inputs = int(np.prod(self._shape)) * self._dtype.itemsize
        return inputs + sum(int(np.prod(head.shape)) * head.dtype.itemsize for head in self._heads.values())

    @property
    def channels(self) -> int:
        """Of a patch."""
        return self._shape[0]

    @property
    def patch(self) -> tuple[int, ...]:
        """Pixels of a patch on each spatial axis."""
        return self._shape[1:]

    def batch(self, local: threading.local, n: int) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        """Array of `n` patches (or the model's fixed number) that this thread uses again and again.

        Returns
        -------
        tuple
            The batch as the model takes it, and for each patch its ``(C, [Z,] Y, X)`` part.
        """
        n = max(n, self.model.info.batch or 1)
        array = getattr(local, "batch", None)
        if array is None or len(array) < n:
            array = local.batch = self.empty(n)
        batch = array[:n]
        last = self.model.info.channels_last
        return batch, [np.moveaxis(patch, -1, 0) if last else patch for patch in batch]

    def part(self, batch: NDArray[Any], first: int, n: int) -> NDArray[Any]:
        """Some patches of a batch, filled up where the model wants a fixed number."""
        fixed = self.model.info.batch
        if fixed is None or fixed == n:
            return batch[first : first + n]
        return np.resize(batch[first : first + n], (fixed, *batch.shape[1:]))

    def __call__(self, batch: NDArray[Any], n: int) -> dict[str, NDArray[Any]]:
        """Predict; the first `n` of the batch count.

        Raises
        ------
        ModelInputError, ModelOutputError
            If the user's step, or the model, gives something else than in the trial batch.
        MemoryError
            If the batch is too large for the device.
        """
        size = len(batch)
        outputs = self.raw(batch)
        found = {name: self._checked(head, outputs, size)[:n] for name, head in self._heads.items()}
        for name, reduce in self._reduce.items():
            found[name] = reduce(found[name], channel_axis=1 if found[name].ndim > 1 else None)
        return found

    def raw(self, batch: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """What the model answers, whatever it is; for the trial batch."""
        if self._hook is not None:
            batch = np.asarray(self._hook(batch))
        with self._turn:
            return self.model.predict(batch)

    def bad(self, heads: Mapping[str, NDArray[Any]], n: int) -> list[bool]:
        """For each of `n` patches, whether any of its predictions is NaN or infinite."""
        found = [_finite(head) for head in heads.values() if head.dtype.kind == "f"]
        return [not all(finite) for finite in zip(*found, strict=True)] if found else [False] * n

    def empty(self, n: int) -> NDArray[Any]:
        """Batch of zeros, in the memory order that the model likes."""
        channels, *patch = self._shape
        info = self.model.info
        if info.channels_last:
            return np.zeros((n, *patch, channels), self._dtype)
        if info.memory_format == "channels_last":
            return np.moveaxis(np.zeros((n, *patch, channels), self._dtype), -1, 1)
        return np.zeros((n, channels, *patch), self._dtype)

    def _checked(self, head: Head, outputs: Mapping[str, NDArray[Any]], n: int) -> NDArray[Any]:
        values = outputs.get(head.name)
        if values is None or values.shape != (n, *head.shape):
            found = "nothing" if values is None else f"shape {values.shape}"
            raise ModelOutputError(
                f"{self.model.info.name}: head {head.name!r} gave {found}, and shape {(n, *head.shape)} in the trial",
                "a model gives one prediction a patch, of one shape",
            )
        return values.astype(head.dtype, copy=False)


def _finite(values: NDArray[Any]) -> list[bool]:
    """Of each patch, whether all numbers are finite."""
    if int(np.prod(values.shape[1:])) <= FEW:
        found: list[bool] = np.isfinite(values.reshape(len(values), -1)).all(1).tolist()
        return found
    return [_all_finite(np.ravel(patch)) for patch in values]


def _all_finite(values: NDArray[Any]) -> bool:
    # The sum of squares tells for nearly all patches, at a fraction of the cost of looking at each value.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.dot(values, values))) or bool(np.isfinite(values).all())


def check_channels(model: Model, channels: int, image: str) -> None:
    """Raise ModelInputError if a model takes another number of channels than an image has."""
    wanted = model.info.channels
    if wanted is not None and wanted != channels:
        choose = ",".join(map(str, range(wanted)))
        raise ModelInputError(
            f"{model.info.name} takes {wanted} channels, and {image} has {channels}",
            f"choose channels with --channels {choose}"
            if wanted < channels
            else "choose images with as many channels as the model was trained on",
        )
