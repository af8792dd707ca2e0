"""ZIP: tables, maps and, if wanted, images in one file that any program opens."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa

from patchloom.errors import UsageError
from patchloom.export.arrays import GrowingArray, head_values, temporary_file, write_map
from patchloom.export.container import Container, MemberNames
from patchloom.export.csv import write_rows as write_csv_rows
from patchloom.export.export import Predictions, atomic
from patchloom.export.json import write_document
from patchloom.export.originals import copy_original, originals, path_of
from patchloom.export.progress import bar
from patchloom.export.readme import readme
from patchloom.export.rows import Rows, chosen_heads, runs_of_images
from patchloom.models.model import Head

__all__ = ["ArchiveExport", "Metadata"]

Metadata = Literal["csv", "json"]
ARRAY_COLUMNS = ("image", "head", "file", "shape", "dtype", "axes")


class ArchiveExport:
    """All predictions in a ZIP file of any size, streamed; equal predictions give equal bytes.

    ``metadata.csv`` has one row a patch: its columns are those of ``patchloom query --json``; those of several heads
    have the name of the head and a dot in front. Of a run of maps it has one row a map and image: where its NPY file is
    in the archive, with shape, dtype and axes; where there are both kinds of heads, that is ``arrays.csv``.
    ``images.csv`` has the images, and their paths where they are files. ``README.txt`` explains all columns.
    """

    suffixes = (".zip",)

    def write(
        self,
        run: Predictions,
        path: Path,
        *,
        image: str | None,
        head: str | None,
        level: int,
        metadata: Metadata = "csv",
        predictions: bool = False,
        with_images: bool = False,
        progress: bool | None = None,
    ) -> None:
        """See `Export.write`.

        Parameters
        ----------
        run, path, image, head, level
            As there.
        metadata
            Format of the tables.
        predictions
            Vector heads as NPY files, too, one an image: ``(patches, K)`` in the order of the rows.
        with_images
            The source's files in the folder ``images``.
        progress
            Show a bar on stderr; None: where that is a terminal.

        Raises
        ------
        UsageError
            If `metadata` is not known, or images are wanted that are not files.
        SourceError
            If the source, or a file of it that is wanted, is not there any more.
        """
        if metadata not in get_args(Metadata):
            raise UsageError(f"metadata: {metadata!r} is not known", "csv or json")
        if image is not None:
            run[image]  # an unknown name is an error, not an empty file
        heads = chosen_heads(run, head)
        vectors = [one for one in heads if one.kind == "vector"]
        rows = Rows(run, vectors, image) if vectors else None
        names = (lambda: iter([image])) if image is not None else run.images
        dense = [one for one in heads if one.kind == "dense"]
        count = 1 if image is not None else len(run)
        total = count * (1 + len(dense)) + (len(rows) * (2 if predictions else 1) if rows is not None else 0)
        with ExitStack() as stack:
            partial = stack.enter_context(atomic(path))
            container = stack.enter_context(Container(partial))
            advance = stack.enter_context(bar(progress, total, "rows and files"))
            archive = _Archive(run, container, metadata, level, path.parent, advance)
            archive.write_readme(heads, rows, predictions=predictions, with_images=with_images)
            if rows is not None:
                archive.write_rows(rows)
            archive.write_arrays(dense, rows if predictions else None, names, alone=rows is None)
            archive.write_images(image, with_images=with_images)


@dataclass(frozen=True)
class _Archive:
    """An archive that is being written."""

    run: Predictions
    container: Container
    metadata: Metadata
    level: int
    folder: Path
    advance: Callable[[int], None]

    def write_readme(self, heads: Sequence[Head], rows: Rows | None, *, predictions: bool, with_images: bool) -> None:
        text = readme(heads, rows, self.metadata, predictions=predictions, with_images=with_images).encode()
        with self.container.member("README.txt", size=len(text)) as file:
            file.write(text)

    def write_rows(self, rows: Rows) -> None:
        with self.container.member(f"metadata.{self.metadata}") as file:
            if self.metadata == "csv":
                write_csv_rows(rows.columns, self._counted(rows), file)
            else:
                write_document(self._counted(rows), file)

    def _counted(self, rows: Rows) -> Iterator[pa.RecordBatch]:
        for batch in rows.batches():
            yield batch
            self.advance(batch.num_rows)

    def write_arrays(
        self, dense: Sequence[Head], rows: Rows | None, names: Callable[[], Iterator[str]], *, alone: bool
    ) -> None:
        """NPY files of maps and, with `rows`, of vectors, then the table of them."""
        heads = [*dense, *(rows.heads if rows is not None else ())]
        if not heads:
            return
        places = {head.name: MemberNames(f"predictions/{head.name}" if len(heads) > 1 else "predictions")
                  for head in heads}
        with _Spool(ARRAY_COLUMNS, self.metadata, self.folder) as table:
            for name in names() if dense else ():
                for head in dense:
                    stitched = self.run[name].stitched(head.name, self.level)
                    file = places[head.name].of(name, ".npy")
                    write_map(stitched, self.container, file, self.folder)
                    table.add(name, head.name, file, list(stitched.shape), stitched.dtype.name, stitched.axes)
                    self.advance(1)
            for name, head, array in _vectors(rows, self.folder) if rows is not None else ():
                file = places[head.name].of(name, ".npy")
                array.write(self.container, file)
                table.add(name, head.name, file, list(array.shape), array.dtype.name, "NC"[: len(array.shape)])
                self.advance(array.rows if head is heads[-1] else 0)
            table.write(self.container, "metadata" if alone else "arrays")

    def write_images(self, image: str | None, *, with_images: bool) -> None:
        """Copies of the images, if wanted, and the table of all."""
        places = MemberNames("images")
        columns = ("image", "path", "file") if with_images else ("image", "path")
        with _Spool(columns, self.metadata, self.folder) as table:
            for name, entry in originals(self.run, image, needed=with_images):
                copied = (copy_original(name, entry, self.container, places),) if with_images else ()
                table.add(name, path_of(entry), *copied)
                self.advance(1)
            table.write(self.container, "images")


def _vectors(rows: Rows, folder: Path) -> Iterator[tuple[str, Head, GrowingArray]]:
    """Predictions of one image after the other, head by head; an array is of use until the next one comes."""
    name, arrays = "", list[GrowingArray]()
    try:
        for batches in rows.by_head():
            for image, first, end in runs_of_images(batches[0]):
                if image != name or not arrays:
                    yield from ((name, head, array) for head, array in zip(rows.heads, arrays, strict=False))
                    _close(arrays)
                    name, arrays = image, [GrowingArray(head.dtype, head.shape, folder) for head in rows.heads]
                for head, array, batch in zip(rows.heads, arrays, batches, strict=True):
                    array.append(head_values(batch.slice(first, end - first), head))
        yield from ((name, head, array) for head, array in zip(rows.heads, arrays, strict=False))
    finally:
        _close(arrays)


def _close(arrays: Iterable[GrowingArray]) -> None:
    for array in arrays:
        array.close()


class _Spool:
    """Small table that grows while other members are written; kept as JSON lines."""

    def __init__(self, columns: Sequence[str], metadata: Metadata, folder: Path) -> None:
        self._columns, self._metadata = columns, metadata
        self._file = temporary_file(folder)

    def add(self, *values: Any) -> None:
        """Add a row."""
        self._file.write(json.dumps(values).encode() + b"\n")

    def write(self, container: Container, name: str) -> None:
        """Write the table as a member."""
        self._file.seek(0)
        rows = map(json.loads, self._file)
        with container.member(f"{name}.{self._metadata}") as file:
            lines = _csv_lines(self._columns, rows) if self._metadata == "csv" else _json_lines(self._columns, rows)
            for line in lines:
                file.write(line.encode())

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _csv_lines(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield _csv_line(columns)
    for row in rows:
        yield _csv_line([json.dumps(value) if isinstance(value, list) else value for value in row])


def _csv_line(values: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def _json_lines(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    before = "[\n"
    for row in rows:
        yield before + json.dumps(dict(zip(columns, row, strict=True)), separators=(",", ":"), ensure_ascii=False)
        before = ",\n"
    yield "\n]\n" if before != "[\n" else "[]\n"
