"""NPY: the stitched map as one array."""

from __future__ import annotations

from pathlib import Path

from patchloom.export.blocks import write_npy
from patchloom.export.export import Predictions, atomic, only_image

__all__ = ["NpyExport"]


class NpyExport:
    """One image, its axes those of ``run[image].stitched()``; written block by block."""

    suffixes = (".npy",)

    def write(self, run: Predictions, path: Path, *, image: str | None, head: str | None, level: int) -> None:
        """See `Export.write`."""
        stitched = only_image(run, image).stitched(head, level)
        with atomic(path) as partial:
            write_npy(stitched, partial)
