"""Rows of an SQL database, in pages in the order of their key.

``… where key > last order by key limit n``: memory does not grow with the number of rows, nothing is open between
pages, and a lost connection costs one page. Pages have keys, paths and sizes, never encoded images.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy
from sqlalchemy.sql import ColumnElement, FromClause, quoted_name

from patchloom.errors import SourceError
from patchloom.images.sources.database import Database, database

__all__ = ["Rows"]

PAGE = 1000
LARGEST_PAGE = 16_000
SLOW = 0.5
"""Seconds; where a page takes longer, the next one is larger: the query may be evaluated anew for each."""
TAIL = 32
"""Bytes at the end of an encoded image that tell it, with its length, from what it is changed to."""
IMAGE_COLUMNS = ("image", "path", "file", "uri", "url")


@dataclass(frozen=True)
class Rows:
    """A table or query with a key and an image.

    Parameters
    ----------
    database
        Where it is.
    what
        Its name, for messages.
    selected
        Table or subquery.
    key, image
        Names of the columns as the database has them.
    unique
        Whether the database itself keeps keys apart.
    kind
        Of the image column: ``text``, ``bytes``, ``either`` (SQLite: each row as it likes) or ``unknown``.
    process
        That opened the database.
    """

    database: Database
    what: str
    selected: FromClause
    key: str
    image: str
    unique: bool
    kind: str
    process: int

    @classmethod
    def settled(cls, url: str, query: str | None, table: str | None, key: str | None, image: str | None) -> Rows:
        """Ask the database about the columns of a query or table; see `SQLSource`.

        Raises
        ------
        SourceError
            If it cannot be reached, or has no such table or column.
        """
        opened = database(url)
        found = _table(opened, table) if table is not None else _query(opened, query or "")
        key = found.column(key, "key") or found.key
        image = found.column(image, "image") or found.image
        if key is None or image is None:
            missing = "key" if key is None else "image"
            raise SourceError(f"{found.what}: which column is the {missing}?",
                              f"--{missing} with one of {', '.join(found.columns)}")
        selected = found.select(tuple(dict.fromkeys((key, image))))
        kind = _kind(opened, selected, selected.c[image])
        return cls(opened, found.what, selected, key, image, [key] in found.uniques, kind, os.getpid())

    @property
    def sized(self) -> bool:
        """Whether pages have the sizes of encoded images, and so tell NULL."""
        return self.kind != "unknown"

    def check_keys(self) -> None:
        """Raise SourceError where a key is NULL or there twice."""
        key = self.selected.c[self.key]
        count = sqlalchemy.func.count()
        statement = sqlalchemy.select(key).where(key.is_(None)).limit(1)
        if not self.unique:
            twice = sqlalchemy.or_(count > 1, key.is_(None))
            statement = sqlalchemy.select(key).group_by(key).having(twice).limit(1)
        found = self.database.read(lambda connection: connection.execute(statement).first())
        if found is not None:
            problem = "is NULL in some row" if found[0] is None else f"{found[0]!r} is there more than once"
            raise SourceError(f"{self.what}: the key {self.key} {problem}",
                              "choose a column of different values as --key")

    def pages(self) -> Iterator[Sequence[Any]]:
        """Rows (key, path or None, size or None, end of the encoded image or None) in order of the key."""
        key = self.selected.c[self.key]
        statement = sqlalchemy.select(key, *self._described()).order_by(key)
        following = statement.where(key > sqlalchemy.bindparam("last", type_=key.type))
        size, last, begin = PAGE, None, True
        while True:
            wanted = statement if begin else following
            values = {} if begin else {"last": last}
            started = time.monotonic()
            page = self._page(wanted.limit(size), values)
            slow = time.monotonic() - started > SLOW
            yield from page
            if len(page) < size:
                return
            last, begin = page[-1][0], False
            if slow:
                size = min(2 * size, LARGEST_PAGE)

    def _page(self, statement: sqlalchemy.Select[Any], values: Mapping[str, Any]) -> Sequence[sqlalchemy.Row[Any]]:
        return self.database.read(lambda connection: connection.execute(statement, values).fetchall())

    def fetch(self, keys: Sequence[Any]) -> dict[Any, Any]:
        """Values of the image column by key."""
        key, image = self.selected.c[self.key], self.selected.c[self.image]
        statement = sqlalchemy.select(key, image).where(key.in_(keys))
        rows = self.database.read(lambda connection: connection.execute(statement).fetchall())
        return {row[0]: row[1] for row in rows}

    def _described(self) -> list[ColumnElement[Any]]:
        """What pages have besides the key; encoded images stay where they are."""
        image, functions, null = self.selected.c[self.image], sqlalchemy.func, sqlalchemy.null()
        if self.kind == "text":
            return [image, null, null]
        if self.kind == "unknown":
            return [null, null, null]
        if self.kind == "either":
            is_text = functions.typeof(image) != "blob"
            length = sqlalchemy.case((is_text, null), else_=functions.length(image))
            tail = sqlalchemy.case((is_text, null), else_=functions.substr(image, -TAIL))
            return [sqlalchemy.case((is_text, image), else_=null), length, tail]
        size = functions.octet_length(image)
        if self.database.dialect == "postgresql":
            return [null, size, functions.substr(image, functions.greatest(size - TAIL + 1, 1))]
        return [null, size, functions.right(image, TAIL)]


def _escaped(query: str) -> str:
    """A query as SQLAlchemy takes it: colons are no parameters; on lines of its own, so that a comment ends."""
    return query.strip().rstrip(";").replace("\\", "\\\\").replace(":", "\\:") + "\n"


@dataclass(frozen=True)
class _Found:
    """What the database says of a table or a query.

    Parameters
    ----------
    what
        Its name, for messages.
    columns
        All of them.
    select
        Makes what can be selected from, out of the columns that are wanted.
    key, image
        Columns that serve where the user names none.
    uniques
        Columns whose values the database keeps apart.
    """

    what: str
    columns: list[str]
    select: Callable[[tuple[str, ...]], FromClause]
    key: str | None
    image: str | None
    uniques: list[list[str]]

    def column(self, name: str | None, role: str) -> str | None:
        """The column that is meant: of this name, else the only one whose name differs by case."""
        if name is None or name in self.columns:
            return name
        alike = [column for column in self.columns if column.lower() == name.lower()]
        if len(alike) != 1:
            raise SourceError(f"{self.what} has no column {name!r}", f"--{role} with one of {', '.join(self.columns)}")
        return alike[0]


def _query(opened: Database, query: str) -> _Found:
    text = _escaped(query)
    asked = sqlalchemy.text(f"SELECT * FROM (\n{text}) AS patchloom_rows WHERE 1 = 0")
    columns = opened.read(lambda connection: list(connection.execute(asked).keys()))

    def select(names: tuple[str, ...]) -> FromClause:
        return sqlalchemy.text(text).columns(*_quoted(names)).subquery("patchloom_rows")

    return _Found("the query", columns, select, columns[0], columns[1] if len(columns) > 1 else None, [])


def _quoted(names: Sequence[str]) -> list[sqlalchemy.ColumnClause[Any]]:
    return [sqlalchemy.column(quoted_name(name, True)) for name in names]


def _table(opened: Database, name: str) -> _Found:
    def look(connection: sqlalchemy.Connection) -> _Found:
        inspector = sqlalchemy.inspect(connection)
        schema, table = None, name
        if not _is_there(inspector, table, None) and "." in name:
            schema, _, table = name.rpartition(".")
        if not _is_there(inspector, table, schema):
            known = sorted([*inspector.get_table_names(), *inspector.get_view_names()])[:20]
            raise SourceError(f"{opened.shown}: there is no table {name!r}", f"there are {', '.join(known) or 'none'}")
        columns = [column["name"] for column in inspector.get_columns(table, schema)]
        primary = inspector.get_pk_constraint(table, schema)["constrained_columns"]
        unique = [list(one["column_names"]) for one in inspector.get_unique_constraints(table, schema)]
        lower = {column.lower(): column for column in columns}
        image = next((lower[one] for one in IMAGE_COLUMNS if one in lower), None)

        def select(names: tuple[str, ...]) -> FromClause:
            within = None if schema is None else quoted_name(schema, True)
            return sqlalchemy.table(quoted_name(table, True), *_quoted(names), schema=within)

        key = primary[0] if len(primary) == 1 else None
        return _Found(f"table {name}", columns, select, key, image, [list(primary), *unique])

    return opened.read(look)


def _is_there(inspector: Any, table: str, schema: str | None) -> bool:
    try:
        return bool(inspector.has_table(table, schema))
    except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.ProgrammingError) as error:
        if error.connection_invalidated:
            raise
        return False  # there is no such schema


def _kind(opened: Database, selected: FromClause, image: ColumnElement[Any]) -> str:
    """Whether a column holds text or bytes, asked without fetching any."""
    if opened.dialect == "sqlite":
        return "either"
    asked: ColumnElement[Any]
    if opened.dialect == "postgresql":
        asked, bytes_ = sqlalchemy.cast(sqlalchemy.func.pg_typeof(image), sqlalchemy.Text), "bytea"
    elif opened.dialect in ("mysql", "mariadb"):
        asked, bytes_ = sqlalchemy.func.charset(image), "binary"
    else:
        return "unknown"
    statement = sqlalchemy.select(asked).select_from(selected).limit(1)
    found = opened.read(lambda connection: connection.execute(statement).scalar())
    return "bytes" if found == bytes_ else "text"
