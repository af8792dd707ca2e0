"""CSV: one row a patch."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from patchloom.export.export import Predictions, atomic, chosen_table

__all__ = ["CsvExport"]


class CsvExport:
    """Rows of all images or one: image, place, origin and size, then one column a class, or ``prediction``.

    Numbers are as short as they can be without becoming others; a prediction of many numbers is a JSON list.
    """

    suffixes = (".csv",)

    def write(self, run: Predictions, path: Path, *, image: str | None, head: str | None, level: int) -> None:
        """See `Export.write`."""
        table = chosen_table(run, image, head)
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow(table.columns)
        with atomic(path) as partial, partial.open("wb") as file:
            file.write(header.getvalue().encode())
            for batch in table.batches():
                plain = _plain(batch)
                pyarrow.csv.write_csv(plain, file, pyarrow.csv.WriteOptions(
                    include_header=False, quoting_style="needed" if _needs_quotes(plain) else "none"))


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows without types that CSV does not know."""
    return pa.RecordBatch.from_arrays(
        [_text(column) if pa.types.is_fixed_size_list(column.type) else _single(column) for column in batch.columns],
        names=batch.schema.names)


def _single(column: Any) -> Any:
    return column.cast(pa.float32()) if pa.types.is_float16(column.type) else column


def _text(column: Any) -> Any:
    """Lists as JSON, as `json` would write them."""
    numbers = _single(column.flatten()).cast(pa.string())
    for arrow, json in (("nan", "NaN"), ("inf", "Infinity")):
        numbers = pc.replace_substring(numbers, arrow, json)
    offsets = pa.array(range(0, len(numbers) + 1, column.type.list_size), pa.int32())
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, numbers), ", ")
    return pc.binary_join_element_wise("[", joined, "]", "")


def _needs_quotes(batch: pa.RecordBatch) -> bool:
    """Whether a text holds what means something in CSV; where none does, none is quoted."""
    texts = [column for column in batch.columns if pa.types.is_string(column.type)]
    return any(pc.any(pc.match_substring_regex(column, '[",\r\n]')).as_py() for column in texts)
