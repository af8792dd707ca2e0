"""What a store says of an image, held against the journal: rows that were never acknowledged do not count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.axes import spatial_axes
from patchloom.geometry.grid import Grid
from patchloom.models.model import Head
from patchloom.predictions.index import ImageRow, Index, Part
from patchloom.predictions.layout import PlaneInfo, RunLayout
from patchloom.predictions.patches import UnitRows
from patchloom.predictions.stores.store import PredictionStore
from patchloom.predictions.verify import Damage

__all__ = ["committed_rows", "key_axes", "lost"]


def key_axes(info: PlaneInfo) -> str:
    """Axes of an image's keys, as stores are told them."""
    return info.loop_axes + spatial_axes(len(info.plane))


def committed_rows(
    store: PredictionStore, layout: RunLayout, head: Head, row: ImageRow, parts: Sequence[Part]
) -> Iterator[UnitRows]:
    """Rows of one image as they are in tables, some thousands at a time, in the order of their keys.

    Parameters
    ----------
    store, layout
        Of the run.
    head
        Vector head.
    row, parts
        What the index knows of the image.
    """
    assert row.info is not None
    info = PlaneInfo.from_json(row.info)
    grid, loops = layout.grid(info.plane), len(info.loop_axes)
    for found in store.rows(head.name, row.name, key_axes(info)):
        starts = found.keys[:, loops:]
        places, known = _places(grid, starts)
        shapes = np.minimum(starts + grid.patch, info.plane) - starts
        if info.original is not None:
            shapes[:] = info.original
        known &= _acknowledged(found.keys, loops, parts)
        for plane in np.unique(found.keys[known, :loops], axis=0) if loops else [()]:
            here = known & (found.keys[:, :loops] == plane).all(axis=1) if loops else known
            index = tuple(int(i) for i in plane)
            skipped = found.skipped[here]
            yield UnitRows(row.name, index, places[here], starts[here], shapes[here], found.values[here],
                           skipped if skipped.any() else None)


def _places(grid: Grid, starts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Places of patches by where they start, and which of them are patches of the grid at all."""
    places, known = np.zeros_like(starts), np.ones(len(starts), np.bool_)
    for i, axis in enumerate(grid.axes):
        lines = np.asarray([axis.start(n) for n in range(axis.count)], np.int64)
        if not len(lines):
            return places, np.zeros(len(starts), np.bool_)
        places[:, i] = np.minimum(np.searchsorted(lines, starts[:, i]), len(lines) - 1)
        known &= lines[places[:, i]] == starts[:, i]
    return places, known


def _acknowledged(keys: NDArray[np.int64], loops: int, parts: Sequence[Part]) -> NDArray[np.bool_]:
    """Which rows start in a part that is committed."""
    found = np.zeros(len(keys), np.bool_)
    for part in parts:
        low, high = (*part.loops, *part.region.start), (*(i + 1 for i in part.loops), *part.region.stop)
        found |= ((keys >= low) & (keys < high)).all(axis=1)
    return found


def lost(store: PredictionStore, shown: str, layout: RunLayout, index: Index) -> Iterator[Damage]:
    """What the journal acknowledged and a store does not have."""
    for row in index.images():
        if not row.patches_done:
            continue
        parts = index.parts(row.name)
        for head in layout.vector_heads:
            there = sum(len(rows.values) for rows in committed_rows(store, layout, head, row, parts))
            if there != row.patches_done:
                missing = f"missing: {row.patches_done - there:,} of {row.patches_done:,} patches"
                yield Damage(shown, row.name, missing)
