"""Stores that hold the predictions of vector heads, chosen by URL: what they do, and which one a URL means.

A store is a class found by the entry points ``patchloom.stores``, whose names are the schemes of URLs. Every store
holds any number of runs, told apart by their ids. What is put is put again after an interruption: doing it twice is
doing it once, and rows that nothing was journalled of are overwritten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import StoreError
from patchloom.models.model import Head
from patchloom.predictions.stores.url import scheme_of

if TYPE_CHECKING:
    from patchloom.predictions.patches import UnitRows

__all__ = ["PredictionStore", "StoredRows", "StoredRun", "open_store"]

GROUP = "patchloom.stores"


@dataclass(frozen=True)
class StoredRun:
    """Which run's predictions a store is opened for.

    Parameters
    ----------
    id
        Of the run: letters and digits, 32 at most.
    heads
        Its vector heads; none where the model gives maps only.
    ndim
        Spatial axes that the model sees.
    """

    id: str
    heads: tuple[Head, ...]
    ndim: int

    def head(self, name: str) -> Head:
        """One of the heads by its name."""
        return next(head for head in self.heads if head.name == name)


@dataclass(frozen=True)
class StoredRows:
    """Rows of one head of one image, in the order of their keys.

    Parameters
    ----------
    keys
        ``(n, d)`` integers: index on each loop axis, then the first pixel.
    values
        ``(n, …)`` of the head's dtype and shape.
    skipped
        ``(n,)``: patches that were not predicted, whose values mean nothing.
    """

    keys: NDArray[np.int64]
    values: NDArray[Any]
    skipped: NDArray[np.bool_]


@runtime_checkable
class PredictionStore(Protocol):
    """Predictions of one run. Any number of threads call its methods, and other processes may write the same rows.

    All methods raise StoreUnreachableError where the server stays away for a minute, and StoreError for whatever else
    it refuses; neither shows a password. `axes` are those of keys: loop axes of the image, then spatial ones: ``TYX``.
    """

    def put(self, axes: str, rows: Mapping[str, Sequence[UnitRows]]) -> None:
        """Keep the rows of a unit, of each head, as durably as the store does; those that are there are replaced."""

    def get(self, head: str, image: str, axes: str, key: tuple[int, ...]) -> Any | None:
        """Prediction of one patch, of the head's dtype; None where there is none or where it was skipped."""

    def rows(self, head: str, image: str, axes: str) -> Iterator[StoredRows]:
        """Everything that there is of an image, some thousands of rows at a time."""

    def count(self, head: str, image: str | None = None) -> int:
        """Number of rows of the run, or of one image; those that were skipped are rows, too."""

    def link(self, images: Mapping[str, Mapping[str, str]]) -> None:
        """Keep where the maps of images are: for each image a path or a URL of each dense head.

        What was said of an image before is replaced.
        """

    def maps(self, image: str) -> dict[str, str]:
        """What `link` was told of an image; nothing where it was told nothing."""

    def delete(self, image: str | None = None) -> None:
        """Remove everything of one image, or of the whole run; of maps that is where they are, not what they are."""

    def close(self) -> None:
        """Give connections back; whatever was put stays."""


class StoreKind(Protocol):
    """Class of a store: called with a URL (with its password) and a run, it connects."""

    def __call__(self, url: str, run: StoredRun) -> PredictionStore:
        """Open the store."""


def open_store(url: str, run: StoredRun) -> PredictionStore:
    """Store of a URL.

    Parameters
    ----------
    url
        ``json:folder``, ``redis://…``, ``postgresql://…``, ``mysql://…``, ``sqlite:///file``, ``mongodb://…``, or one
        that another package brings.
    run
        Whose predictions.

    Raises
    ------
    StoreError
        If the scheme is unknown, or the server refuses.
    StoreUnreachableError
        If it cannot be reached.
    MissingExtraError
        If its driver is not installed.
    """
    from importlib.metadata import entry_points

    scheme = scheme_of(url)
    points = {point.name: point for point in entry_points(group=GROUP)}
    if scheme not in points:
        known = ", ".join(sorted(points))
        raise StoreError(f"{scheme}: no such kind of store is known", f"there are {known}")
    kind: StoreKind = points[scheme].load()
    return kind(url, run)
