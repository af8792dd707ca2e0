"""Whatever a model or function answers with, as named NumPy arrays."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelOutputError
from patchloom.models.heads import safe_names

__all__ = ["channels_first", "named", "to_numpy"]

ONLY_HEAD = "prediction"


def named(result: Any) -> dict[str, Any]:
    """Outputs by head name.

    A dict or named tuple has names, which are made safe; the items of a plain tuple are ``prediction_0``,
    ``prediction_1``, …; anything else, and a tuple of one, is ``prediction``.
    """
    if isinstance(result, Mapping):
        return dict(zip(safe_names(map(str, result)), result.values(), strict=True))
    if isinstance(result, tuple):
        if hasattr(result, "_fields"):
            return dict(zip(safe_names(result._fields), result, strict=True))
        if len(result) != 1:
            return {f"{ONLY_HEAD}_{i}": item for i, item in enumerate(result)}
        return {ONLY_HEAD: result[0]}
    return {ONLY_HEAD: result}


def to_numpy(value: Any, where: str) -> NDArray[Any]:
    """Array of NumPy, PyTorch, TensorFlow or JAX, or a list of numbers, as a NumPy array.

    A framework is looked at only if the user has imported it. bfloat16, which NumPy does not have, becomes float32.

    Raises
    ------
    ModelOutputError
        If it is nothing of the kind; `where` begins the message.
    """
    if isinstance(value, np.ndarray):
        return value
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _from_torch(value.detach(), torch)
    if torch is not None and isinstance(value, list) and any(isinstance(item, torch.Tensor) for item in value):
        return to_numpy([to_numpy(item, where) for item in value], where)
    if value is None or isinstance(value, (Mapping, str, bytes)):
        raise ModelOutputError(f"{where} is a {type(value).__name__}, not an array", "answer with arrays")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getattr(np.exceptions, "VisibleDeprecationWarning", DeprecationWarning))
            array = np.asarray(value.numpy() if _is_tensorflow(value) else value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ModelOutputError(f"{where} cannot be made an array: {error}", "answer with arrays") from error
    if array.dtype.kind == "V" and array.dtype.name == "bfloat16":  # as JAX has it
        array = array.astype(np.float32)
    return array


def _from_torch(tensor: Any, torch: Any) -> NDArray[Any]:
    if tensor.is_sparse:
        tensor = tensor.to_dense()
    tensor = tensor.cpu().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    array: NDArray[Any] = tensor.numpy()
    return array


def _is_tensorflow(value: Any) -> bool:
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(value, tensorflow.Tensor)


def channels_first(array: NDArray[Any], ndim: int) -> NDArray[Any]:
    """View of a dense head ``(N, [Z,] Y, X, C)`` as ``(N, C, [Z,] Y, X)``; anything else as it is."""
    return np.moveaxis(array, -1, 1) if array.ndim == ndim + 2 else array
