"""JSON: one object a patch, in one document or one a line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO

import pyarrow as pa

from patchloom.export.export import Predictions, atomic, chosen_table
from patchloom.export.texts import json_rows

__all__ = ["JsonExport", "JsonLinesExport", "write_document", "write_lines"]


class JsonExport:
    """Rows of all images or one as a list of objects, streamed; columns are those of the table.

    Numbers are as short as they can be without becoming others. Scores of patches that were skipped, and scores that
    are not finite, are null.
    """

    suffixes = (".json",)

    def write(self, run: Predictions, path: Path, *, image: str | None, head: str | None, level: int) -> None:
        """See `Export.write`."""
        table = chosen_table(run, image, head)
        with atomic(path) as partial, partial.open("wb") as file:
            write_document(table.batches(), file)


class JsonLinesExport:
    """The same objects, one a line."""

    suffixes = (".ndjson", ".jsonl")

    def write(self, run: Predictions, path: Path, *, image: str | None, head: str | None, level: int) -> None:
        """See `Export.write`."""
        table = chosen_table(run, image, head)
        with atomic(path) as partial, partial.open("wb") as file:
            write_lines(table.batches(), file)


def write_document(batches: Iterable[pa.RecordBatch], file: IO[bytes]) -> None:
    """Write rows as one JSON document."""
    file.write(b"[")
    before = b"\n"
    for batch in batches:
        if batch.num_rows:
            file.write(before + _joined(batch, ",\n"))
            before = b",\n"
    file.write(b"\n]\n" if before != b"\n" else b"]\n")


def write_lines(batches: Iterable[pa.RecordBatch], file: IO[bytes]) -> None:
    """Write rows as one JSON object a line."""
    for batch in batches:
        if batch.num_rows:
            file.write(_joined(batch, "\n") + b"\n")


def _joined(batch: pa.RecordBatch, separator: str) -> bytes:
    rows: list[str] = json_rows(batch).to_pylist()
    return separator.join(rows).encode()
