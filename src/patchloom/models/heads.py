"""Finding out from one trial batch which heads a model has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelOutputError, UsageError
from patchloom.models.model import Head, ModelInfo
from patchloom.models.steps import Reduce

__all__ = ["find_heads", "reduced_heads", "safe_names"]

LONGEST_NAME = 64
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
EXPECTED = "N first, then a map ((N, C, Y, X) or (N, Y, X); in 3-D one axis more) or numbers per patch ((N, K) or (N,))"


def safe_names(names: Iterable[str]) -> list[str]:
    """Names that can be folders on any system, all different (also where case is ignored), in the same order.

    Examples
    --------
    >>> safe_names(["logits", "model/out:0", "model_out_0", ""])
    ['logits', 'model_out_0', 'model_out_0_2', 'prediction']
    """
    taken: set[str] = set()
    safe = []
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_.-]+", "_", str(name)).strip("._-")[:LONGEST_NAME].rstrip("._-") or "prediction"
        if RESERVED.fullmatch(base):
            base += "_"
        candidate, number = base, 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{base}_{number}"
        taken.add(candidate.casefold())
        safe.append(candidate)
    return safe


def find_heads(
    outputs: Mapping[str, NDArray[Any]],
    *,
    batch_size: int,
    patch: Sequence[int],
    ndim: int,
    classes: Sequence[str] | None,
    info: ModelInfo,
) -> tuple[Head, ...]:
    """Heads of a model as it answers them, before any reduction (see `reduced_heads`).

    Parameters
    ----------
    outputs
        What `Model.predict` returned for a trial batch, unreduced, channels before space.
    batch_size
        Number of patches in that batch.
    patch
        Size of a patch in pixels on each spatial axis.
    ndim
        Number of spatial axes.
    classes
        Names that the user gave to the channels; None: those that the model carries, where their number fits, else
        ``0``, ``1``, …
    info
        Of the model.

    Raises
    ------
    ModelOutputError
        If an output is neither a map nor numbers per patch; shapes are named.
    UsageError
        If the number of `classes` is not that of the channels of any head, or of the only head that has channels.
    """
    if not outputs:
        raise ModelOutputError(f"{info.name} answered with nothing", f"answer with {EXPECTED}")
    for name, array in outputs.items():
        _check(name, array, batch_size, ndim, info)
    heads = tuple(_head(name, array, tuple(patch[-ndim:])) for name, array in outputs.items())
    return _with_classes(heads, None if classes is None else tuple(classes), info)


def _head(name: str, array: NDArray[Any], patch: tuple[int, ...]) -> Head:
    ndim = len(patch)
    shape = array.shape[1:]
    if len(shape) < 2:
        return Head(name, "vector", array.dtype, shape, classes=_numbers(shape[0]) if shape else ())
    space = shape[-ndim:]
    scale = tuple(Fraction(out, pixels) for out, pixels in zip(space, patch, strict=True))
    return Head(name, "dense", array.dtype, shape, scale, _numbers(shape[0]) if len(shape) > ndim else ())


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(count))


def _check(name: str, array: NDArray[Any], batch_size: int, ndim: int, info: ModelInfo) -> None:
    where = f"head {name!r} of {info.name}"
    if not isinstance(array, np.ndarray):
        raise ModelOutputError(f"{where} is a {type(array).__name__}, not an array", f"answer with {EXPECTED}")
    if array.dtype.kind not in "fiub":
        what = {"c": "complex numbers", "O": "Python objects", "U": "texts", "S": "texts"}.get(
            array.dtype.kind, str(array.dtype)
        )
        raise ModelOutputError(f"{where} holds {what}, not numbers (dtype {array.dtype})", "answer with real numbers")
    if array.ndim == 0:
        raise ModelOutputError(f"{where} is a single number for {batch_size} patches", f"answer with {EXPECTED}")
    if array.shape[0] != batch_size:
        raise ModelOutputError(
            f"{where} has shape {array.shape} for a batch of {batch_size} patches: its first axis is not the batch",
            f"answer with {EXPECTED}",
        )
    if array.ndim > 2 and array.ndim - 1 not in (ndim, ndim + 1):
        raise ModelOutputError(
            f"{where} has shape {array.shape}, which is neither a {ndim}-D map per patch nor numbers per patch",
            f"answer with {EXPECTED}",
        )
    if 0 in array.shape:
        raise ModelOutputError(f"{where} is empty: shape {array.shape}", f"answer with {EXPECTED}")


def _with_classes(heads: tuple[Head, ...], classes: tuple[str, ...] | None, info: ModelInfo) -> tuple[Head, ...]:
    names = info.classes if classes is None else classes
    if not names:
        return heads
    if len(set(names)) != len(names):
        raise UsageError(f"classes: {', '.join(names)} has a name twice", "give every class another name")
    counts = [len(head.classes) for head in heads if head.classes]
    if classes is not None and len(classes) not in counts:
        found = "no channels" if not counts else " and ".join(f"{count} channels" for count in dict.fromkeys(counts))
        raise UsageError(
            f"classes: {len(classes)} names for a prediction with {found}",
            "give one name a channel" if counts else "leave out classes",
        )
    return tuple(replace(head, classes=names) if len(head.classes) == len(names) else head for head in heads)


def reduced_heads(heads: Iterable[Head], reduce: Mapping[str, Reduce]) -> tuple[Head, ...]:
    """Heads as they are after their reductions; a head that is not in `reduce` stays as it is.

    Raises
    ------
    UsageError
        If a reduction does not fit its head.
    """
    reduced = []
    for head in heads:
        try:
            shape, dtype, classes = reduce.get(head.name, Reduce()).output(head.shape, head.dtype, head.classes)
        except UsageError as error:
            raise UsageError(f"{error.message} (head {head.name!r})", error.hint) from None
        reduced.append(replace(head, shape=shape, dtype=dtype, classes=classes))
    return tuple(reduced)
