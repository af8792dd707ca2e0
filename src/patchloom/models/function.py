"""Plain Python functions and objects that can be called."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelError, ModelLoadError, ModelOutputError, PatchloomError, UsageError
from patchloom.models.checks import check_batch, described_batch
from patchloom.models.identity import function_identity
from patchloom.models.model import Model, ModelInfo
from patchloom.models.outputs import channels_first, named, to_numpy
from patchloom.models.steps import Steps
from patchloom.references import is_reference, resolve

__all__ = ["FunctionLoader", "FunctionModel"]

SPACE = {"YX", "HW", "ZYX", "DHW"}


class FunctionLoader:
    """Loader of ``package.module:function`` and of live callables."""

    def recognises(self, model: object) -> bool:
        """Whether it can be called, or is spelled ``module:name``."""
        return callable(model) or is_reference(model)

    def load(
        self, model: Any, *, device: str, threads: int, arch: str | None, allow_pickle: bool, steps: Steps
    ) -> Model:
        """Wrap a callable; a module of a framework or a `Model` found under the name is loaded as what it is.

        Raises
        ------
        ModelNotFoundError
            If there is no such module or name.
        ModelLoadError
            If what is found cannot be called with a batch.
        """
        from patchloom.models.load import loader_of  # which finds this loader, too

        if arch is not None:
            raise UsageError("arch does not apply to a function", "leave out arch")
        name = model if isinstance(model, str) else None
        found = resolve(model) if name else model
        if name and _builds(found):
            found = _built(found, name)
        if isinstance(found, Model) and isinstance(found.info, ModelInfo):
            return found
        if name and (loader := loader_of(found)) is not None and not isinstance(loader, FunctionLoader):
            return loader.load(
                found, device=device, threads=threads, arch=None, allow_pickle=allow_pickle, steps=steps
            )
        if not callable(found) or isinstance(found, type):
            what = "a class" if isinstance(found, type) else f"a {type(found).__name__}"
            raise ModelLoadError(
                f"{name or found!r} is {what}, not a function of a batch",
                "name a function, or an object that can be called",
            )
        return FunctionModel(found, name or _name(found))


class FunctionModel:
    """Callable from a batch array to predictions.

    It may say of itself, in attributes: ``axes`` (``"NYXC"``) or ``channels_last``, ``concurrent`` (or
    ``thread_safe``), ``classes``, ``channels``, ``dtype``, ``patch``, ``batch`` and ``model_id``. Arrays that it
    returns must be new ones each time.
    """

    def __init__(self, function: Callable[[NDArray[Any]], Any], name: str) -> None:
        self._function = function
        self._info = _info(function, name)

    @property
    def info(self) -> ModelInfo:
        """What the attributes of the callable say."""
        return self._info

    def predict(self, batch: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """Predict a batch; see `Model.predict`.

        Raises
        ------
        ModelError
            If the function raises; its message and class are named.
        """
        info = self._info
        check_batch(info, batch)
        try:
            result = self._function(batch)
        except (MemoryError, PatchloomError):
            raise
        except Exception as error:
            if _is_cuda_out_of_memory(error):
                raise MemoryError(str(error)) from error
            message = f"{info.name} raises {type(error).__name__} on {described_batch(info, batch)}: {error}"
            raise ModelError(" ".join(message.split()), "correct the function; --debug shows where") from error
        return {name: self._head(name, value, batch) for name, value in named(result).items()}

    def _head(self, name: str, value: Any, batch: NDArray[Any]) -> NDArray[Any]:
        where = f"head {name!r} of {self._info.name}"
        array = to_numpy(value, where)
        if array.dtype.kind in "OUSV":
            raise ModelOutputError(f"{where} holds {array.dtype} values, not numbers", "answer with real numbers")
        if np.may_share_memory(array, batch):  # the batch is filled again while the answer is still needed
            array = array.copy()
        return channels_first(array, batch.ndim - 2) if self._info.channels_last else array


def _info(function: Any, name: str) -> ModelInfo:
    ndim, channels_last = _axes(function, name)
    patch = _attribute(function, "patch")
    batch, channels = _attribute(function, "batch"), _attribute(function, "channels")
    dtype, model_id = _attribute(function, "dtype"), _attribute(function, "model_id")
    patch = None if patch is None else _patch(patch, ndim or 2)
    return ModelInfo(
        name=name,
        identity=f"id:{model_id}" if model_id is not None else function_identity(function),
        dtype=None if dtype is None else np.dtype(dtype),
        channels_last=channels_last,
        channels=None if channels is None else int(channels),
        patch=patch,
        batch=None if batch is None else int(batch),
        ndim=ndim if ndim is not None or patch is None else len(patch),
        classes=tuple(str(item) for item in _attribute(function, "classes") or ()),
        concurrent=bool(_attribute(function, "concurrent") or _attribute(function, "thread_safe")),
    )


def _attribute(function: Any, name: str) -> Any:
    """Attribute unless it is a method, as e.g. `batch` might be of an object."""
    value = getattr(function, name, None)
    return None if callable(value) and not isinstance(value, type) else value


def _patch(patch: Any, ndim: int) -> tuple[int, ...]:
    return (int(patch),) * ndim if isinstance(patch, (int, np.integer)) else tuple(int(size) for size in patch)


def _axes(function: Any, name: str) -> tuple[int | None, bool]:
    """Number of spatial axes, where it is stated, and whether channels are last."""
    axes = _attribute(function, "axes")
    if axes is None:
        return None, bool(_attribute(function, "channels_last"))
    text = str(axes).upper()
    space = text.removeprefix("N").replace("C", "", 1)
    if space not in SPACE or text not in (f"NC{space}", f"N{space}C"):
        raise ModelLoadError(f"{name} has axes = {axes!r}", "NCYX or NYXC; NCZYX or NZYXC for 3-D models")
    return len(space), text.endswith("C")


def _name(function: Any) -> str:
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name).replace("<locals>.", "")


def _builds(found: Any) -> bool:
    """Whether it takes no batch but makes the model: a function, or a class of callables, without parameters."""
    if isinstance(found, type):
        if _is_torch_class(found) or not any("__call__" in vars(base) for base in found.__mro__):
            return False
    elif not inspect.isfunction(found):
        return False
    try:
        parameters = inspect.signature(found).parameters.values()
    except (ValueError, TypeError):
        return False
    needed = [item for item in parameters if item.default is item.empty]
    return not needed if isinstance(found, type) else not list(parameters)


def _built(builder: Callable[[], Any], name: str) -> Any:
    try:
        return builder()
    except (MemoryError, PatchloomError):
        raise
    except Exception as error:
        raise ModelLoadError(f"{name} raises {type(error).__name__}: {error}", "correct the function") from error


def _is_torch_class(found: type) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and issubclass(found, torch.nn.Module)


def _is_cuda_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)
