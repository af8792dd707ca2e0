"""Images that a table lists: CSV or Parquet, read row by row."""

from __future__ import annotations

import csv
import io
import os
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchloom.connections import is_object_url, shown, took_apart, whole_url
from patchloom.errors import SourceError
from patchloom.images.sources.entry import Entry, file_entries, image_name
from patchloom.images.sources.urls import given, kept
from patchloom.objects import AnyPath, ObjectPath, as_path

__all__ = ["SUFFIXES", "ManifestSource"]

SUFFIXES = (".csv", ".parquet")
PATH_COLUMNS = ("image", "path", "file", "uri")
NAME_COLUMN = "name"
ROWS = 1024
BUFFER = 1 << 20

Row = tuple[str, str | None]


@dataclass(frozen=True)
class ManifestSource:
    """Rows of a table, in its order.

    The path of an image is in the column `image`, `path`, `file` or `uri`, else in the first; it is relative to the
    manifest's folder or absolute. An image is named by the column `name` if there is one, else by its path below the
    manifest's folder (its whole path where it is elsewhere). A file that is not there costs one image, not the run.

    Parameters
    ----------
    path
        Absolute path, or URL, of the table.
    axes
        Names of the axes where the files do not say.
    """

    path: str
    axes: str | None = None

    def __iter__(self) -> Iterator[Entry]:
        """Enumerate; see `Source`."""
        yield from file_entries(self._named(), self.axes)

    def _named(self) -> Iterator[tuple[str, AnyPath]]:
        folder = as_path(given(self.path)).parent
        seen: set[int] = set()  # of hashes: a tenth of the memory of a million names
        for number, (text, name) in enumerate(self._rows(), 1):
            if not text:
                raise SourceError(f"{self.path}: row {number} names no image", "leave the row out")
            path = _path(text, folder)
            name = _checked(name or _name_below(path, folder), f"{self.path}: row {number}")
            if hash(name) in seen:
                raise SourceError(f"{self.path}: row {number}: a second image is called {name!r}",
                                  "give each image once, or a column `name` of different names")
            seen.add(hash(name))
            yield name, path
        if not seen:
            raise SourceError(f"{self.path}: the manifest lists no images",
                              "give one path a row, below a line of headings")

    def _rows(self) -> Iterator[Row]:
        try:
            path = as_path(given(self.path))
            yield from _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"{shown(self.path)}: cannot be read as a table: {error}",
                              "give a CSV (UTF-8) or Parquet file") from error

    def spec(self) -> Mapping[str, Any]:
        """See `Source.spec`."""
        return {"kind": "manifest", "path": kept(self.path), "axes": self.axes}


def _path(text: str, folder: AnyPath) -> AnyPath:
    """What a row names: a URL, an absolute path, or something below (or beside) the manifest."""
    if is_object_url(text):
        return as_path(text)
    if isinstance(folder, ObjectPath) and not os.path.isabs(text):
        root, key = took_apart(folder.url)
        return as_path(whole_url(root, posixpath.normpath(posixpath.join("/", key, text)).strip("/")))
    return Path(os.path.normpath(Path(str(folder)) / os.path.expanduser(text)))


def _name_below(path: AnyPath, folder: AnyPath) -> str:
    if isinstance(path, ObjectPath):
        below = str(path).removeprefix(f"{folder}/")
        return below if below != str(path) else below.partition("://")[2]
    base = folder if isinstance(folder, Path) and path.is_relative_to(folder) else Path(path.anchor)
    return path.relative_to(base).as_posix()


def _checked(name: str, where: str) -> str:
    try:
        return image_name(name)
    except SourceError as error:
        raise SourceError(f"{where}: {error.message}", error.hint) from None


def _columns(names: list[str]) -> tuple[int, int | None]:
    """Places of the columns of paths and of names."""
    lower = [name.strip().lower() for name in names]
    path = next((lower.index(name) for name in PATH_COLUMNS if name in lower), 0)
    name = lower.index(NAME_COLUMN) if NAME_COLUMN in lower else None
    return path, name if name != path else None


def _csv(path: AnyPath) -> Iterator[Row]:
    with path.open("rb", BUFFER) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        heading = next(rows, None)
        if not heading:
            return
        at, named = _columns(heading)
        for row in rows:
            if row:
                name = row[named] if named is not None and named < len(row) else None
                yield row[at].strip() if at < len(row) else "", name


def _parquet(path: AnyPath) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with path.open("rb") as file, parquet.ParquetFile(file) as table:
            names = table.schema_arrow.names
            at, named = _columns(names)
            wanted = [names[at]] if named is None else [names[at], names[named]]
            for batch in table.iter_batches(ROWS, columns=wanted):
                paths = batch.column(names[at]).to_pylist()
                called = batch.column(names[named]).to_pylist() if named is not None else [None] * len(paths)
                for text, name in zip(paths, called, strict=True):
                    yield "" if text is None else str(text), None if name is None else str(name)
    except (pyarrow.ArrowException, IndexError) as error:
        raise SourceError(f"{path}: cannot be read as a table: {error}",
                          "give a Parquet file with a column of paths") from error
