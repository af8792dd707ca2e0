"""CSV: one row a patch."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from patchloom.export.export import Predictions, atomic

__all__ = ["CsvExport"]


class CsvExport:
    """Rows of all images or one; lists of numbers are written as JSON."""

    suffixes = (".csv",)

    def write(self, run: Predictions, path: Path, *, image: str | None, head: str | None, level: int) -> None:
        """See `Export.write`."""
        if image is not None:
            run[image]  # an unknown name is an error, not an empty file
        table = run.patches(head=head, image=image)
        with atomic(path) as partial:
            writer = None
            for batch in table.batches():
                flat = _flat(batch)
                writer = writer or pyarrow.csv.CSVWriter(partial, flat.schema)
                writer.write_batch(flat)
            if writer is None:
                partial.write_text(",".join(table.columns) + "\n", encoding="utf-8")
            else:
                writer.close()


def _flat(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = []
    for column in batch.columns:
        if pa.types.is_float16(column.type):
            columns.append(column.cast(pa.float32()))
        elif pa.types.is_fixed_size_list(column.type):
            columns.append(pa.array([json.dumps([float(value) for value in item]) for item in column.to_pylist()]))
        else:
            columns.append(column)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
