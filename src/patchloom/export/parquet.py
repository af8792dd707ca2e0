"""Parquet: one row a patch, in one file."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from patchloom.export.export import Predictions, atomic

__all__ = ["ParquetExport"]


class ParquetExport:
    """Rows of all images or one, streamed."""

    suffixes = (".parquet",)

    def write(self, run: Predictions, path: Path, *, image: str | None, head: str | None, level: int) -> None:
        """See `Export.write`."""
        if image is not None:
            run[image]  # an unknown name is an error, not an empty file
        table = run.patches(head=head, image=image)
        with atomic(path) as partial, pq.ParquetWriter(partial, table.schema, compression="zstd") as writer:
            for batch in table.batches():
                writer.write_batch(batch)
