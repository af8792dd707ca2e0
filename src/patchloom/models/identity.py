"""Hashes of everything in a model that changes a prediction."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from patchloom.errors import ModelLoadError

__all__ = ["file_identity", "function_identity", "live_identity"]


def file_identity(path: Path, others: Sequence[Path] = ()) -> str:
    """``sha256:…`` of a file's bytes, as ``sha256sum`` prints it; with `others`, of the digests of all of them.

    Raises
    ------
    ModelLoadError
        If a file cannot be read.
    """
    digests = [_file_digest(file) for file in (path, *others)]
    if len(digests) == 1:
        return f"sha256:{digests[0]}"
    return f"sha256:{hashlib.sha256(' '.join(digests).encode()).hexdigest()}"


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror or error}", "check the file") from error


def function_identity(function: Callable[..., Any]) -> str | None:
    """``sha256:…`` of a function's qualified name, source, defaults and captured values; None where they do not show.

    Captured values count where they are numbers, texts, arrays, functions, or tuples, lists and dicts of these. What a
    function reads from its module's globals does not count. Objects with a state of their own have no identity.
    """
    try:
        return f"sha256:{hashlib.sha256(_described(function, ()).encode()).hexdigest()}"
    except _UnknownError:
        return None


def live_identity(value: Any) -> str | None:
    """Identity of an option that is given as an object; None where it is no object but a text, or nothing.

    That of a function as `function_identity` has it, of a dataclass with the values that it was made with; where these
    do not show, only the name.
    """
    if value is None or isinstance(value, str):
        return None
    kind = value if hasattr(value, "__qualname__") else type(value)
    state = value
    if dataclasses.is_dataclass(value):
        made_with = [getattr(value, item.name) for item in dataclasses.fields(value) if item.init]
        state = [kind.__module__, kind.__qualname__, *made_with]
    try:
        return f"sha256:{hashlib.sha256(_described(state, ()).encode()).hexdigest()}"
    except _UnknownError:
        return f"{kind.__module__}:{kind.__qualname__}"


class _UnknownError(Exception):
    """A value whose influence on a prediction cannot be hashed."""


def _described(value: Any, inside: tuple[int, ...]) -> str:
    """Text that is equal for equal values; `inside` are the functions and containers around it."""
    if id(value) in inside:  # a recursive function captures itself
        return "itself"
    inside = (*inside, id(value))
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
        data = np.ascontiguousarray(value)
        return f"array {data.dtype} {value.shape} {hashlib.sha256(data.tobytes()).hexdigest()}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__}({', '.join(_described(item, inside) for item in value)})"
    if isinstance(value, dict):
        return f"dict({', '.join(_described(pair, inside) for pair in value.items())})"
    if isinstance(value, functools.partial):
        return f"partial{_described((value.func, value.args, value.keywords), inside)}"
    if isinstance(value, types.FunctionType):
        return _described_function(value, inside)
    if isinstance(value, np.ufunc):
        return f"ufunc {value.__name__}"
    raise _UnknownError


def _described_function(function: types.FunctionType, inside: tuple[int, ...]) -> str:
    try:
        source = inspect.getsource(function.__code__)
    except (OSError, TypeError):
        raise _UnknownError from None
    try:
        captured = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:  # a cell that is not filled yet
        raise _UnknownError from None
    parts: list[Any] = [function.__module__, function.__qualname__, source, function.__defaults__]
    parts += [function.__kwdefaults__, captured]
    if function.__name__ == "<lambda>":  # a line may hold several
        constants = [item for item in function.__code__.co_consts if not isinstance(item, types.CodeType)]
        parts += [function.__code__.co_names, function.__code__.co_varnames, constants]
    return f"function{_described(parts, inside)}"
