"""NPY: the stitched map as one array."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from patchloom.export.export import Predictions, atomic, only_image

__all__ = ["NpyExport", "bands"]

ROWS = 512


class NpyExport:
    """One image, its axes those of ``run[image].stitched()``; written band by band."""

    suffixes = (".npy",)

    def write(self, run: Predictions, path: Path, *, image: str | None, head: str | None, level: int) -> None:
        """See `Export.write`."""
        stitched = only_image(run, image).stitched(head, level)
        with atomic(path) as partial:
            target = np.lib.format.open_memmap(partial, mode="w+", dtype=stitched.dtype, shape=stitched.shape)
            for index in bands(stitched.shape):
                target[index] = stitched[index]
            target.flush()
            del target


def bands(shape: tuple[int, ...]) -> Iterator[tuple[int | slice, ...]]:
    """Indices of bands of rows, plane by plane, that cover an array ``(..., Y, X)``."""
    for plane in np.ndindex(*shape[:-2]):
        for row in range(0, shape[-2], ROWS):
            yield (*(int(i) for i in plane), slice(row, min(row + ROWS, shape[-2])), slice(None))
