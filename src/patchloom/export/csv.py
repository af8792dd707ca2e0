"""CSV: one row a patch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from patchloom.export.export import Predictions, atomic, chosen_table
from patchloom.export.texts import list_texts

__all__ = ["CsvExport", "write_rows"]


class CsvExport:
    """Rows of all images or one: image, place, origin and size, then one column a class, or ``prediction``.

    Numbers are as short as they can be without becoming others; a prediction of many numbers is a JSON list. Patches
    that were skipped have rows without predictions.
    """

    suffixes = (".csv",)

    def write(self, run: Predictions, path: Path, *, image: str | None, head: str | None, level: int) -> None:
        """See `Export.write`."""
        table = chosen_table(run, image, head)
        with atomic(path) as partial, partial.open("wb") as file:
            write_rows(table.columns, table.batches(), file)


def write_rows(columns: Sequence[str], batches: Iterable[pa.RecordBatch], file: IO[bytes]) -> None:
    """Write a header and rows."""
    header = io.StringIO()
    csv.writer(header, lineterminator="\n").writerow(columns)
    file.write(header.getvalue().encode())
    for batch in batches:
        plain = _plain(batch)
        rows = pa.BufferOutputStream()
        pyarrow.csv.write_csv(plain, rows, pyarrow.csv.WriteOptions(
            include_header=False, quoting_style="needed" if _needs_quotes(plain) else "none"))
        file.write(rows.getvalue())


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows without types that CSV does not know."""
    return pa.RecordBatch.from_arrays(
        [list_texts(column) if pa.types.is_fixed_size_list(column.type) else _single(column)
         for column in batch.columns],
        names=batch.schema.names)


def _single(column: Any) -> Any:
    return column.cast(pa.float32()) if pa.types.is_float16(column.type) else column


def _needs_quotes(batch: pa.RecordBatch) -> bool:
    """Whether a text holds what means something in CSV; where none does, none is quoted."""
    texts = [column for column in batch.columns if pa.types.is_string(column.type)]
    return any(pc.any(pc.match_substring_regex(column, '[",\r\n]')).as_py() for column in texts)
