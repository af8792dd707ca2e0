"""Parquet: one row a patch, in one file."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from patchloom.export.export import Predictions, atomic, chosen_table

__all__ = ["ParquetExport"]

ROWS = 32_768


class ParquetExport:
    """Rows of all images or one, streamed."""

    suffixes = (".parquet",)

    def write(self, run: Predictions, path: Path, *, image: str | None, head: str | None, level: int) -> None:
        """See `Export.write`."""
        table = chosen_table(run, image, head)
        with atomic(path) as partial, pq.ParquetWriter(
            partial, table.schema, compression="zstd", use_dictionary=["image"], write_page_checksum=True
        ) as writer:
            for batch in table.batches(ROWS):
                writer.write_batch(batch)
