"""Predictions, names and images side by side, one image after the other."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from patchloom.export.progress import bar
from patchloom.images.lazy import LazyImage
from patchloom.images.source import Source
from patchloom.models.model import Head

__all__ = ["batched", "triples"]


class ImagePatches(Protocol):
    """What is needed of one image's predictions."""

    def stitched(self, head: str | None = None, level: int = 0) -> Any:
        """Lazy array of the whole image."""

    def values(self) -> Iterable[Any]:
        """Predictions of the patches."""

    def __len__(self) -> int: ...


def triples(
    names: Iterable[str],
    predictions: Mapping[str, Any],
    heads: Iterable[Head],
    source: Source | None,
    total: int,
    *,
    progress: bool | None,
) -> Iterator[tuple[Any, ...]]:
    """Stream ``(prediction, name, image)``, or ``(prediction, name)`` where there is no source.

    Parameters
    ----------
    names
        Of the images that have predictions.
    predictions
        By name; None for others.
    heads
        Those that are wanted.
    source
        Where images are: they come in its order.
    total
        Number of images, for the bar.
    progress
        Show a bar on stderr; None: where that is a terminal.
    """
    chosen = tuple(heads)
    with bar(progress, total, "images") as advance:
        if source is None:
            for name in names:
                yield _prediction(predictions[name], chosen), name
                advance(1)
            return
        count = 0
        for entry in source:
            found = predictions.get(entry.name)
            if found is not None:
                count += 1
                yield _prediction(found, chosen), entry.name, LazyImage(entry.open, entry.name)
                advance(1)
        if count < total:
            warnings.warn(f"{total - count} predicted images are not in the source any more", stacklevel=3)


def batched(items: Iterable[tuple[Any, ...]], size: int) -> Iterator[tuple[list[Any], ...]]:
    """Tuples of lists of `size` instead of single tuples; the last may be shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield tuple(map(list, zip(*batch, strict=True)))


def _prediction(patches: ImagePatches, heads: tuple[Head, ...]) -> Any:
    """Of a whole image: one head's value, or a dict of them."""
    values = {head.name: _value(patches, head) for head in heads}
    return next(iter(values.values())) if len(values) == 1 else values


def _value(patches: ImagePatches, head: Head) -> Any:
    if head.kind == "dense":
        return patches.stitched(head.name)
    if len(patches) != 1:
        return patches if len(patches) else None  # all of it was skipped
    value = next(iter(patches.values()))
    return value[head.name] if isinstance(value, dict) else value
