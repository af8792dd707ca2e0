"""Copies a run's predictions into another store."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from patchloom.predictions.layout import PlaneInfo
from patchloom.predictions.lookup import Lookup
from patchloom.predictions.patches import UnitRows
from patchloom.predictions.stores.reading import key_axes
from patchloom.predictions.stores.store import StoredRun, open_store

__all__ = ["copy"]

BATCH = 8192
"""Rows that are put together."""


def copy(lookup: Lookup, run: StoredRun, url: str, callback: Callable[[int, int], None] | None = None) -> int:
    """Put everything that is predicted of vector heads into another store; returns the number of patches.

    Parameters
    ----------
    lookup
        Where predictions are.
    run
        Whose they are.
    url
        Of the other store, with its password.
    callback
        Told how many rows are copied, and of how many.
    """
    there = [row for row in lookup.index.images() if row.patches_done]
    total, done = sum(row.patches_done for row in there) * len(run.heads), 0
    target = open_store(url, run)
    try:
        for head in run.heads:
            for axes, rows in _batches(lookup, head.name):
                target.put(axes, {head.name: rows})
                done += sum(len(part.values) for part in rows)
                if callback is not None:
                    callback(done, total)
    finally:
        target.close()
    return done // max(1, len(run.heads))


def _batches(lookup: Lookup, head: str) -> Iterator[tuple[str, list[UnitRows]]]:
    """Rows of images that have the same axes, so many that a store is worth asking."""
    waiting: list[UnitRows] = []
    before = ""
    for row in lookup.index.images():
        if not row.patches_done or row.info is None:
            continue
        axes = key_axes(PlaneInfo.from_json(row.info))
        for rows in lookup.rows(lookup.layout.head(head), row):
            if waiting and (axes != before or sum(len(part.values) for part in waiting) >= BATCH):
                yield before, waiting
                waiting = []
            waiting.append(rows)
            before = axes
    if waiting:
        yield before, waiting
