"""Keras 3: files and live models, on any backend."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelInputError, PatchloomError, UsageError
from patchloom.models import keras_backends
from patchloom.models.checks import check_batch
from patchloom.models.identity import file_identity
from patchloom.models.keras_file import SUFFIXES, import_keras, is_keras_file, load_file
from patchloom.models.keras_identity import model_identity
from patchloom.models.model import ModelInfo
from patchloom.models.outputs import channels_first, named, to_numpy
from patchloom.models.steps import Steps
from patchloom.models.tensor_input import TensorInput
from patchloom.models.tensorflow_runtime import understood

__all__ = ["KerasLoader", "KerasModel"]


class KerasLoader:
    """Loader of ``.keras`` files, legacy ``.h5`` and ``.hdf5`` files, and live models of Keras 3."""

    suffixes = SUFFIXES

    def recognises(self, model: object) -> bool:
        """Whether it is such a file, or a ``keras.Layer``; Keras is not imported to find out."""
        if isinstance(model, Path):
            return is_keras_file(model)
        layer = getattr(sys.modules.get("keras"), "Layer", None)
        return isinstance(layer, type) and isinstance(model, layer)

    def load(
        self, model: Any, *, device: str, threads: int, arch: str | None, allow_pickle: bool, steps: Steps
    ) -> KerasModel:
        """Load a model; a live one is not changed.

        With `arch`, the weights of a file are loaded into the model that `arch` builds, and nothing else of the file
        is used.

        Raises
        ------
        ModelLoadError
            If the file is damaged, holds weights only and there is no `arch`, or names objects that are not registered.
        PickleRefusedError
            If loading would run code out of the file, such as that of a Lambda layer.
        ModelInputError
            If the model has several inputs, or one that is no batch of patches.
        MissingExtraError
            If Keras or a backend for it is not installed.
        """
        path = model if isinstance(model, Path) else None
        if path is None and arch is not None:
            raise UsageError("arch does not apply to a live model", "leave out arch")
        keras = import_keras(str(path or model.name), threads)
        device = keras_backends.chosen_device(keras, device)
        if path is not None:
            identity: str | None = file_identity(path)
            with keras_backends.on_device(keras, device):
                model = load_file(keras, path, arch, allow_pickle)
        else:
            identity = model_identity(keras, model)
        info = describe(keras, model, path.name if path else model.name)
        return KerasModel(keras, model, replace(info, identity=identity, device=device), threads)


class KerasModel:
    """Model that Keras runs with its backend; it is called by one thread at a time."""

    def __init__(self, keras: Any, model: Any, info: ModelInfo, threads: int) -> None:
        self._keras = keras
        self._info = info
        self._call = keras_backends.call_of(keras, model, info, threads)
        names = getattr(model, "output_names", None) or ()
        self._names = tuple(names) if len(set(names)) == len(names) > 1 else ()

    @property
    def info(self) -> ModelInfo:
        """What the model's layers say."""
        return self._info

    def predict(self, batch: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """Predict a batch; see `Model.predict`."""
        check_batch(self._info, batch)
        try:
            with keras_backends.on_device(self._keras, self._info.device):
                outputs = self._call(np.ascontiguousarray(batch))
            return {name: self._head(name, value, batch) for name, value in self._named(outputs).items()}
        except (MemoryError, PatchloomError):
            raise
        except Exception as error:  # whatever the backend or the model's own code raises
            raise understood(error, self._info, batch) from error

    def _named(self, outputs: Any) -> dict[str, Any]:
        if isinstance(outputs, list):
            outputs = tuple(outputs)
        if isinstance(outputs, tuple) and len(outputs) == len(self._names):
            outputs = dict(zip(self._names, outputs, strict=True))
        return named(outputs)

    def _head(self, name: str, value: Any, batch: NDArray[Any]) -> NDArray[Any]:
        array = to_numpy(value, f"head {name!r} of {self._info.name}")
        if not array.flags.writeable or np.may_share_memory(array, batch):
            array = array.copy()
        return channels_first(array, batch.ndim - 2) if self._info.channels_last else array


def describe(keras: Any, model: Any, name: str) -> ModelInfo:
    """What a model says of itself: its inputs, or where it has none yet, what it was built for; its layers' axes.

    Raises
    ------
    ModelInputError
        If it has several inputs, or one that is no batch of patches.
    """
    declared = _input(model, name)
    stated = _data_format(model)
    if stated is not None:
        channels_last = stated == "channels_last"
    elif declared.shape is not None:
        channels_last = declared.channels_last
    else:
        channels_last = keras.config.image_data_format() == "channels_last"
    return ModelInfo(name=name, **declared.says(name, channels_last))


def _input(model: Any, name: str) -> TensorInput:
    inputs = getattr(model, "inputs", None)
    if inputs:
        if len(inputs) > 1:
            names = ", ".join(f"{item.name} {tuple(item.shape)}" for item in inputs)
            raise ModelInputError(f"{name} has {len(inputs)} inputs: {names}", "give a model with one input")
        return TensorInput.of(inputs[0].shape, inputs[0].dtype)
    built = (model.get_build_config() or {}).get("input_shape") if model.built else None
    if not isinstance(built, (tuple, list)) or len(built) < 4 or not all(isinstance(n, int | None) for n in built):
        return TensorInput()
    # It was called with some batch; others may have another length and size, but as many channels.
    last = _data_format(model) != "channels_first"
    space = (None,) * (len(built) - 2)
    return TensorInput.of((None, *space, built[-1]) if last else (None, built[1], *space), None)


def _data_format(model: Any) -> str | None:
    """Where the first layer that minds wants the channels, ``channels_last`` or ``channels_first``."""
    for layer in model._flatten_layers():
        stated = getattr(layer, "data_format", None)
        if stated in ("channels_last", "channels_first"):
            return str(stated)
    return None
