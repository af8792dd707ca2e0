"""From what a user gives as a model to something that predicts."""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from patchloom.errors import ModelLoadError, ModelNotFoundError
from patchloom.models.model import Loader, Model, ModelInfo
from patchloom.models.steps import Steps
from patchloom.references import is_reference

__all__ = ["load_model", "loader_of", "with_steps"]

GROUP = "patchloom.models"
CATCH_ALL = "function"
"""Entry point that is asked last: it understands everything that can be called."""


def load_model(
    model: object,
    *,
    device: str = "auto",
    threads: int = 1,
    arch: str | None = None,
    allow_pickle: bool = False,
    steps: Steps = Steps(),  # noqa: B008 - a frozen value
) -> Model:
    """Load a model.

    Parameters
    ----------
    model
        Path of a model file, ``package.module:function``, a live module, any callable, or a `Model`, which is returned
        as it is.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:0``.
    threads
        Threads that the model may use within one call.
    arch
        ``package.module:builder`` of the module that a state dict is loaded into.
    allow_pickle
        Code in the file may run.
    steps
        Preprocessing and reductions, for models that do them on their device. Reductions by head name need the heads,
        which a trial batch shows; see `with_steps`.

    Raises
    ------
    ModelNotFoundError
        If there is no such file, module or function.
    ModelLoadError
        If no loader understands it, or the file is damaged.
    PickleRefusedError
        If loading would run code out of the file.
    MissingExtraError
        If the framework is not installed.
    """
    if _is_model(model):
        return model  # type: ignore[return-value]
    target = _existing(model)
    loader = loader_of(target)
    if loader is None:
        raise ModelLoadError(f"{_described(model)} is no model that patchloom understands", _understood())
    return loader.load(target, device=device, threads=threads, arch=arch, allow_pickle=allow_pickle, steps=steps)


def loader_of(model: object) -> Loader | None:
    """Loader that understands a path that exists, a ``module:function`` or a live object; None where none does."""
    return next((loader for loader in _loaders() if loader.recognises(model)), None)


def with_steps(model: Model, steps: Steps) -> Model:
    """Same model, weights shared, doing other steps on its device; other models are returned as they are."""
    change = getattr(model, "with_steps", None)
    return change(steps) if model.info.on_device and change is not None else model


def _is_model(model: object) -> bool:
    return isinstance(model, Model) and isinstance(model.info, ModelInfo)


def _existing(model: object) -> object:
    """Path where `model` is one (it exists), else `model` itself."""
    if not isinstance(model, (str, os.PathLike)):
        return model
    path = Path(os.fsdecode(model))
    if path.exists():
        return path
    if isinstance(model, str) and is_reference(model):
        return model
    raise ModelNotFoundError(
        f"there is no model {os.fsdecode(model)!r}",
        "give the path of a model file, or package.module:function for a Python function",
    )


@cache
def _loaders() -> tuple[Loader, ...]:
    found = sorted(entry_points(group=GROUP), key=lambda entry: (entry.name == CATCH_ALL, entry.name))
    loaders = []
    for entry in found:
        try:
            loader: Loader = entry.load()()
        except (ImportError, AttributeError, TypeError) as error:
            raise ModelLoadError(
                f"the model loader {entry.name!r} ({entry.value}) cannot be loaded: {error}", "repair that package"
            ) from error
        loaders.append(loader)
    return tuple(loaders)


def _understood() -> str:
    suffixes = [suffix for loader in _loaders() for suffix in getattr(loader, "suffixes", ())]
    return f"files: {', '.join(dict.fromkeys(suffixes))}; also package.module:function, torch modules and callables"


def _described(model: Any) -> str:
    return str(model) if isinstance(model, (str, os.PathLike)) else f"a {type(model).__name__}"
