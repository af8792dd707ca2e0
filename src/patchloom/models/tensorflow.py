"""TensorFlow without Keras: SavedModel folders, live modules and functions."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from patchloom.errors import ModelInputError, ModelLoadError, PatchloomError, UsageError
from patchloom.models.checks import check_batch
from patchloom.models.identity import function_identity
from patchloom.models.keras_identity import update_with_array
from patchloom.models.model import ModelInfo
from patchloom.models.outputs import channels_first, named, to_numpy
from patchloom.models.steps import Steps
from patchloom.models.tensor_input import TensorInput
from patchloom.models.tensorflow_runtime import Traced, chosen_device, import_tensorflow, on_device, understood
from patchloom.models.tensorflow_saved import folder_identity, is_saved_model, load_saved_model, signature_of

__all__ = ["TensorflowLoader", "TensorflowModel"]

PLAIN = (bool, int, float, str, tuple)


class TensorflowLoader:
    """Loader of SavedModel folders, and of live ``tf.Module`` and ``tf.function``."""

    suffixes = ("SavedModel folders",)

    def recognises(self, model: object) -> bool:
        """Whether it is one of these; TensorFlow is not imported to find out."""
        if isinstance(model, Path):
            return is_saved_model(model)
        tensorflow = sys.modules.get("tensorflow")
        if tensorflow is None or not hasattr(tensorflow, "saved_model"):
            return False
        live = (tensorflow.Module, tensorflow.types.experimental.Callable, type(tensorflow.function(abs)))
        return isinstance(model, live) or _is_loaded(model)

    def load(
        self, model: Any, *, device: str, threads: int, arch: str | None, allow_pickle: bool, steps: Steps
    ) -> TensorflowModel:
        """Load a model; a live one is not changed.

        Raises
        ------
        ModelLoadError
            If the folder is damaged, or there is nothing in it, or in a live module, to call.
        PickleRefusedError
            If a graph touches files or calls Python.
        ModelInputError
            If it has several inputs, or one that is no batch of patches.
        MissingExtraError
            If TensorFlow is not installed.
        """
        if arch is not None:
            raise UsageError("arch does not apply to TensorFlow models, which hold their own graph", "leave out arch")
        tensorflow = import_tensorflow(str(model), threads)
        device = chosen_device(tensorflow, device)
        with on_device(tensorflow, device):
            if isinstance(model, Path):
                loaded = load_saved_model(tensorflow, model, allow_pickle)
                signature = signature_of(model, loaded, allow_pickle)
                found = _from_signature(model.name, loaded, signature) if signature else _live(tensorflow, loaded)
                found = replace(found, name=model.name, identity=folder_identity(model))
            elif _is_loaded(model) and model.signatures:
                found = _from_signature("SavedModel", model, signature_of(Path("SavedModel"), model, allow_pickle))
            else:
                found = _live(tensorflow, model)
        return TensorflowModel(tensorflow, found, device)


@dataclass(frozen=True)
class Found:
    """Something to call with a batch.

    Parameters
    ----------
    owner
        Object that the function belongs to, which keeps its variables alive.
    name
        For messages.
    call
        From a tensor to whatever it returns.
    input
        What it declares.
    channels_last
        What it says of itself; None: nothing.
    identity
        Hash, or None.
    """

    owner: Any
    name: str
    call: Callable[[Any], Any]
    input: TensorInput
    channels_last: bool | None = None
    identity: str | None = None


class TensorflowModel:
    """Function that TensorFlow runs as a graph; it is called by one thread at a time."""

    def __init__(self, tensorflow: Any, found: Found, device: str) -> None:
        last = found.input.channels_last if found.channels_last is None else found.channels_last
        says = found.input.says(found.name, last)
        self._info = ModelInfo(name=found.name, identity=found.identity, device=device, **says)
        self._tensorflow = tensorflow
        self._owner = found.owner
        self._call = Traced(found.call, self._info.batch)

    @property
    def info(self) -> ModelInfo:
        """What the signature says."""
        return self._info

    def predict(self, batch: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """Predict a batch; see `Model.predict`."""
        info = self._info
        check_batch(info, batch)
        try:
            with on_device(self._tensorflow, info.device):
                outputs = self._call(batch)
            arrays = {name: to_numpy(value, f"head {name!r} of {info.name}") for name, value in named(outputs).items()}
        except (MemoryError, PatchloomError):
            raise
        except Exception as error:  # whatever the graph or the user's own code raises
            raise understood(error, info, batch) from error
        ndim = batch.ndim - 2
        return {name: channels_first(array, ndim) if info.channels_last else array for name, array in arrays.items()}


def _from_signature(name: str, loaded: Any, signature: Any) -> Found:
    specs = signature.structured_input_signature[1]
    key = next(iter(specs), "")

    def predicts(pixels: Any) -> Any:
        outputs = signature(**{key: pixels})
        return {head: outputs[head] for head in sorted(outputs)}  # they come in no certain order

    return Found(loaded, name, predicts, _only(name, list(specs.values())))


def _live(tensorflow: Any, model: Any) -> Found:
    """Module or function that the user has at hand, or a SavedModel without signatures."""
    name = _name(model)
    if not callable(model):
        raise ModelLoadError(f"{name} has no __call__ to predict with",
                             "define __call__, or save it with signatures={'serving_default': …}")
    function = model if not isinstance(model, tensorflow.Module) and not _is_loaded(model) else type(model).__call__
    in_training = _takes_training(function)

    def predicts(pixels: Any) -> Any:
        return model(pixels, training=False) if in_training else model(pixels)

    last = getattr(model, "channels_last", None)
    return Found(model, name, predicts, _only(name, _specs(model)), None if last is None else bool(last),
                 _live_identity(tensorflow, model))


def _specs(model: Any) -> list[Any]:
    """What the function declares to take; empty where it declares nothing."""
    for function in (model, getattr(model, "__call__", None)):  # noqa: B004 - its attributes are wanted
        specs = getattr(function, "input_signature", None)
        if specs:
            return [spec for spec in specs if hasattr(spec, "shape")]
        concrete = getattr(function, "concrete_functions", None) or [function]
        structured = getattr(concrete[0], "structured_input_signature", None)
        if structured:
            return [spec for spec in (*structured[0], *structured[1].values()) if hasattr(spec, "shape")]
    return []


def _only(name: str, specs: list[Any]) -> TensorInput:
    if len(specs) > 1:
        described = ", ".join(f"{spec.name} {spec.shape}" for spec in specs)
        raise ModelInputError(f"{name} has {len(specs)} inputs: {described}", "give a model with one input")
    if not specs:
        return TensorInput()
    shape = specs[0].shape
    return TensorInput.of(None if shape.rank is None else shape.as_list(), specs[0].dtype.name)


def _takes_training(function: Any) -> bool:
    try:
        return "training" in inspect.signature(getattr(function, "python_function", function)).parameters
    except (TypeError, ValueError):
        return False


def _name(model: Any) -> str:
    return str(getattr(model, "__name__", None) or type(model).__qualname__).replace("<locals>.", "")


def _is_loaded(model: object) -> bool:
    """Whether it is what ``tf.saved_model.load`` returns, a class that has no public name."""
    kind = type(model)
    return kind.__module__.startswith("tensorflow.") and kind.__name__ == "_UserObject"


def _live_identity(tensorflow: Any, model: Any) -> str | None:
    """Hash of the classes, plain attributes and variables of a module and those in it, or of a function's source."""
    if not isinstance(model, tensorflow.Module):
        function = getattr(model, "python_function", None)
        return function_identity(function) if inspect.isfunction(function) else None
    if not model.variables:  # it may not have been called yet
        return None
    digest = hashlib.sha256()
    for part in (model, *model.submodules):
        options = sorted((name, repr(value)) for name, value in vars(part).items() if isinstance(value, PLAIN))
        digest.update(f"{type(part).__module__}.{type(part).__qualname__} {options}\n".encode())
    for variable in model.variables:
        digest.update(f"{variable.name}\n".encode())
        update_with_array(digest, variable.numpy())
    return f"sha256:{digest.hexdigest()}"
