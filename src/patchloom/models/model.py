"""What a model is to the rest of patchloom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchloom.models.steps import Steps

__all__ = ["Head", "HeadKind", "Loader", "Model", "ModelInfo"]

HeadKind = Literal["dense", "vector"]


@dataclass(frozen=True)
class ModelInfo:
    """What a model says of itself; None stands for "does not say".

    Parameters
    ----------
    name
        For messages: the file's name, or the class or function.
    identity
        Hash (``sha256:…``) of everything in the model that changes a prediction, or None where it cannot be hashed.
    dtype
        Of the input that the model declares; None: whatever it is given.
    channels_last
        The model takes ``(N, [Z,] Y, X, C)`` and answers dense heads in that order.
    channels
        Number of input channels.
    patch
        Fixed input size on the spatial axes, ([z,] y, x).
    batch
        Fixed number of patches a call.
    ndim
        Number of spatial axes, 2 or 3.
    classes
        Names of output channels that the file carries (ONNX metadata `classes`).
    concurrent
        May be called from several threads at once.
    device
        ``cpu``, ``cuda:0``, …
    memory_format
        Memory order of the batch that the model takes fastest; it is always indexed as above.
    on_device
        The model preprocesses and reduces by itself, on its device: it takes batches in the image's own dtype and
        answers with reduced heads. Where False, whoever calls it does both with NumPy (see `steps`).
    """

    name: str
    identity: str | None = None
    dtype: np.dtype[Any] | None = None
    channels_last: bool = False
    channels: int | None = None
    patch: tuple[int, ...] | None = None
    batch: int | None = None
    ndim: int | None = None
    classes: tuple[str, ...] = ()
    concurrent: bool = False
    device: str = "cpu"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    on_device: bool = False


@runtime_checkable
class Model(Protocol):
    """Batch in, heads out."""

    @property
    def info(self) -> ModelInfo:
        """What the model says of itself."""

    def predict(self, batch: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """Predict a batch.

        Parameters
        ----------
        batch
            ``(N, C, [Z,] Y, X)``, or channels last where the model says so; preprocessed and of the model's dtype
            unless the model does that itself (`ModelInfo.on_device`).

        Returns
        -------
        Mapping
            One array a head, N first, channels before space for dense heads whatever the model's own order is; arrays
            belong to the caller.

        Raises
        ------
        ModelInputError
            If the batch has another shape or dtype than the model takes.
        MemoryError
            If the device has too little memory for so large a batch; the caller retries with a smaller one.
        """


@dataclass(frozen=True)
class Head:
    """One named output, as one trial batch showed it (after reduction).

    Parameters
    ----------
    name
        Safe as a folder name.
    kind
        ``dense`` is a map per patch, ``vector`` numbers per patch.
    dtype
        Of the predictions.
    shape
        Of one patch's prediction without the batch axis: ``(C, [Z,] Y, X)`` or ``([Z,] Y, X)`` for dense, ``(K,)`` or
        ``()`` for vectors.
    scale
        Pixels of the map per input pixel on each spatial axis; empty for vectors.
    classes
        Names of the channels or numbers; empty where the prediction has no such axis.
    """

    name: str
    kind: HeadKind
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    scale: tuple[Fraction, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def channels(self) -> int | None:
        """Extent of the channel axis of a dense head, None where it has none."""
        return self.shape[0] if self.kind == "dense" and len(self.shape) > len(self.scale) else None


class Loader(Protocol):
    """A kind of model. Classes are found by the entry points ``patchloom.models``."""

    def recognises(self, model: object) -> bool:
        """Whether this loader understands `model`: a path, a ``module:function``, or a live object."""

    def load(
        self, model: Any, *, device: str, threads: int, arch: str | None, allow_pickle: bool, steps: Steps
    ) -> Model:
        """Load the model.

        Parameters
        ----------
        model
            What `recognises` accepted.
        device
            ``auto``, ``cpu``, ``cuda:0``.
        threads
            Threads that the model may use within one call.
        arch
            ``package.module:builder`` of the module that a state dict is loaded into.
        allow_pickle
            The user trusts the file: code in it may run.
        steps
            Preprocessing and reductions, for models that do them on their device.

        Raises
        ------
        ModelNotFoundError, ModelLoadError, PickleRefusedError, MissingExtraError
        """
