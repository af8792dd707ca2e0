"""Python objects named on the command line as ``package.module:name``."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from patchloom.errors import ModelLoadError, ModelNotFoundError

__all__ = ["is_reference", "resolve"]

REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_reference(text: object) -> bool:
    """Whether `text` is spelled ``package.module:name``."""
    return isinstance(text, str) and REFERENCE.fullmatch(text) is not None


def resolve(text: str) -> Any:
    """Object that `text` names; its module is looked for on ``sys.path`` and in the current directory.

    Parameters
    ----------
    text
        ``package.module:name`` or ``package.module:name.attribute``.

    Raises
    ------
    ModelNotFoundError
        If there is no such module, or nothing of that name in it.
    ModelLoadError
        If the module raises while it is imported.
    """
    if not is_reference(text):
        raise ModelNotFoundError(f"{text!r} is not spelled module:name", "write package.module:function")
    module_name, _, path = text.partition(":")
    found = _imported(module_name)
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ModelNotFoundError(
                f"module {module_name} has no {path!r}", f"it has: {_names(found)}" if _names(found) else ""
            ) from None
    return found


def _imported(name: str) -> Any:
    with _current_directory_on_path():
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
                raise ModelNotFoundError(
                    f"there is no module {name!r}", "it is looked for in installed packages and the current directory"
                ) from None
            raise ModelLoadError(f"module {name} cannot be imported: {error}", "install what it needs") from error
        except MemoryError:
            raise
        except Exception as error:
            raise ModelLoadError(
                f"module {name} cannot be imported: {type(error).__name__}: {error}", "correct the module"
            ) from error


@contextmanager
def _current_directory_on_path() -> Iterator[None]:
    """Current directory behind everything else, so that no file in it hides an installed package."""
    here = str(Path.cwd())
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _names(found: Any) -> str:
    return ", ".join([name for name in dir(found) if not name.startswith("_") and callable(getattr(found, name))][:8])
