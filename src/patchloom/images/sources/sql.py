"""Images that rows of an SQL database hold, or hold the paths of.

Rows are enumerated by key, path and size; encoded images are fetched when they are needed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from patchloom.errors import SourceError, UsageError
from patchloom.images.sources.database import with_password, without_password
from patchloom.images.sources.entry import Entry
from patchloom.images.sources.paths import path_entry
from patchloom.images.sources.sql_rows import Rows
from patchloom.images.sources.stored import OpenStored, Refused, row_name

__all__ = ["SQLSource"]

_settling = threading.Lock()


@dataclass(frozen=True)
class SQLSource:
    """Rows of a table or a query as images, in the order of their key.

    Parameters
    ----------
    url
        ``sqlite:///lab.db``, ``postgresql://user:password@host/name``, ``mysql://…`` or ``mariadb://…``. The password
        is used and never shown or kept; where the URL has none, that of the same URL in the environment variable
        ``PATCHLOOM_SOURCE`` is taken.
    query
        A ``select`` that gives one row an image; any order.
    table
        A table or view instead of a query, ``schema.table`` if need be.
    key
        Column whose values are unique and not NULL; the image is called ``str(key)``. Without it, the first column of
        the query or the primary key of the table. Quick if it has an index.
    image
        Column of the encoded images (PNG, JPEG, TIFF, NPY …), or of their paths. Without it, the second column of the
        query, or that of the table which is called `image`, `path`, `file`, `uri` or `url`.
    root
        Folder that paths begin in and that none may lead out of. Without it, relative paths begin in the folder of the
        SQLite file, or in the working directory, and no path is refused.
    axes
        Names of the axes where the images do not say.

    Raises
    ------
    UsageError
        If both or neither of `query` and `table` are given.
    SourceError
        If the database cannot be reached, or has no such table or column; when it is enumerated, also if keys are not
        unique or there are no rows. An image that is NULL, damaged or outside of `root` costs that image only.

    Examples
    --------
    >>> SQLSource("postgresql://me:secret@host/lab", "select id, jpeg from photos")
    SQLSource('postgresql+psycopg://me@host/lab', query='select id, jpeg from photos')
    """

    url: str = field(repr=False)
    query: str | None = None
    table: str | None = field(default=None, kw_only=True)
    key: str | None = field(default=None, kw_only=True)
    image: str | None = field(default=None, kw_only=True)
    root: str | None = field(default=None, kw_only=True)
    axes: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if (self.query is None) == (self.table is None):
            raise UsageError("give either a query or a table of the database", "--query 'select id, image from photos'")
        object.__setattr__(self, "url", with_password(self.url))
        if self.root is not None and "://" not in self.root:
            object.__setattr__(self, "root", os.path.abspath(os.path.expanduser(self.root)))

    def __iter__(self) -> Iterator[Entry]:
        """Enumerate; see `Source`."""
        rows = self.rows
        rows.check_keys()
        kind: type | None = None
        for row in rows.pages():
            key = row[0]
            if kind is not None and type(key) is not kind:
                raise SourceError(f"{rows.what}: keys {kind.__name__} and {type(key).__name__} are mixed in {rows.key}",
                                  "choose a column of one type as --key")
            kind = type(key)
            yield self._entry(rows, *row)
        if kind is None:
            raise SourceError(f"{rows.what} gives no rows", "correct the query")

    def spec(self) -> Mapping[str, Any]:
        """All but the password; see `Source.spec`."""
        names = ("query", "table", "key", "image", "root", "axes")
        return {"kind": "sql", "url": without_password(self.url)} | {name: getattr(self, name) for name in names}

    def fetch(self, keys: Sequence[Any]) -> Mapping[Any, Any]:
        """Encoded images of some keys, in one query; see `Blobs`."""
        return self.rows.fetch(keys)

    @property
    def rows(self) -> Rows:
        """The query with its columns settled, which the database is asked about once."""
        with _settling:
            found: Rows | None = self.__dict__.get("_rows")
            if found is None or found.process != os.getpid():
                found = Rows.settled(self.url, self.query, self.table, self.key, self.image)
                self.__dict__["_rows"] = found
            return found

    def _entry(self, rows: Rows, key: Any, text: Any, size: int | None, tail: Any) -> Entry:
        name = row_name(key)
        if isinstance(text, str):
            return path_entry(name, text, self.axes, root=self.root, base=rows.database.folder)
        shown = f"{name} ({rows.key} of {self.table or 'the query'})"
        if size is None and rows.sized:
            return Entry(name, Refused(f"{shown}: holds no image (NULL)", "leave the row out of the query"), "null")
        ending = bytes(tail).hex() if isinstance(tail, (bytes, bytearray, memoryview)) else tail or ""
        return Entry(name, OpenStored(self, key, shown, size, self.axes), f"row:{size}:{ending}")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_rows"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __repr__(self) -> str:
        given = [f"{name}={value!r}" for name, value in self.spec().items() if name not in ("kind", "url") and value]
        return f"SQLSource({', '.join([repr(without_password(self.url)), *given])})"
