"""Whether the configuration in a Keras file names anything that would run code, looked at before Keras sees it.

A configuration is JSON that names classes and functions, and Keras makes objects of what is named. `safe_mode` of Keras
refuses most of what could be misused, and had holes again and again: the legacy HDF5 format ignored it, modules were
imported by name, functions such as ``keras.utils.get_file`` could be named as activations. So all that is let through
here is what is known: layers and their parts, functions of mathematics, and what the user has registered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from patchloom.errors import ModelLoadError, PickleRefusedError

__all__ = ["check_config", "unregistered"]

RUNS_CODE = {
    "Lambda": "a Lambda layer",
    "__lambda__": "a Python lambda",
    "TorchModuleWrapper": "a pickled PyTorch module",
    "TFSMLayer": "a layer that loads a SavedModel from somewhere else",
}
VALUES = {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"}
PARTS = re.compile(
    r"keras(\.src)?(\.(layers|models|activations|initializers|regularizers|constraints|dtype_policies|quantizers|random"
    r"|ops|losses|metrics|optimizers|backend)(\..*)?)?"
)
FUNCTIONS = re.compile(
    r"builtins|keras(\.src)?\.(activations|initializers|regularizers|constraints|ops|losses|metrics)(\..*)?"
)


def check_config(path: Path, config: Any, known: Callable[[str], bool]) -> None:
    """Look at everything that a configuration names.

    Parameters
    ----------
    path
        Of the file, for messages.
    config
        Parsed JSON.
    known
        Whether the user has registered an object of that name.

    Raises
    ------
    PickleRefusedError
        If it holds code.
    ModelLoadError
        If it names objects that are neither Keras's own nor registered.
    """
    for item in _objects(config):
        name = item["class_name"]
        if name in RUNS_CODE:
            raise PickleRefusedError(
                f"{path} holds {RUNS_CODE[name]}{_called(item)}: loading it runs code out of the file",
                "give the weights to a model of your own with --arch; or --allow-pickle, if you trust the file",
            )
        if name not in VALUES and not _allowed(item, known):
            wanted = item["config"] if name == "function" else name
            raise unregistered(path, f"{item.get('module')}.{wanted}")


def unregistered(path: Path, name: str) -> ModelLoadError:
    """Error for an object that Keras does not have and the user has not registered."""
    return ModelLoadError(
        f"{path} needs {name.removeprefix('None.')}, which is neither part of Keras nor registered",
        "import the module that registers it (keras.saving.register_keras_serializable) before; "
        "on the command line give --arch package.module:builder, a function that returns the model",
    )


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """All dicts that name a class, however deep."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(item.values())
            if isinstance(item.get("class_name"), str):
                yield item
        elif isinstance(item, list):
            pending.extend(item)


def _allowed(item: dict[str, Any], known: Callable[[str], bool]) -> bool:
    name, module = item["class_name"], item.get("module")
    if name == "function":
        function = item.get("config")
        registered = any(isinstance(key, str) and known(key) for key in (function, item.get("registered_name")))
        return registered or (isinstance(function, str) and _matches(FUNCTIONS, module))
    if known(str(item.get("registered_name") or name)):
        return True
    if module is None:  # as in HDF5 files, where Keras looks among its own layers only
        return ">" not in name and not item.get("registered_name")
    # Functions, whose names are in small letters, are no layers.
    return _matches(PARTS, module) and name[:1].isupper()


def _matches(pattern: re.Pattern[str], module: object) -> bool:
    return isinstance(module, str) and pattern.fullmatch(module) is not None


def _called(item: dict[str, Any]) -> str:
    config = item.get("config")
    name = config.get("name") if isinstance(config, dict) else None
    return f" ({name})" if isinstance(name, str) else ""
