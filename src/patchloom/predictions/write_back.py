"""Predictions in a table of the database that the images came from.

A row an image: the source's key column under its own name, then one column a class (`prediction` where there are none,
a JSON list where there are too many). A run that cuts images into several patches has a row a patch, and ``y, x`` (3-D:
``z, y, x``) behind the key. Dense heads have a column of their own name: the path of the map, a folder; the maps of
small images share a ZIP file, and their path goes on within it: ``…/4af0….zarr.zip/17.zarr``.

Rows are put before the journal says that they are there, and putting them again replaces them: whatever happens in
between, a resumed run leaves each row once.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from patchloom.errors import OutputError, SourceError
from patchloom.geometry.axes import spatial_axes
from patchloom.images.sources.database import Database
from patchloom.images.sources.sql import SQLSource
from patchloom.models.model import Head
from patchloom.objects import AnyPath
from patchloom.predictions.patches import UnitRows
from patchloom.predictions.stores.rows import has_columns, keys_of, score_names, skipped_of

__all__ = ["WriteBack"]

BATCH = 1000
"""Rows of a statement."""
PARSERS: dict[type, Callable[[str], Any]] = {
    int: int, str: str, bytes: bytes.fromhex, float: float, decimal.Decimal: decimal.Decimal, uuid.UUID: uuid.UUID,
    datetime.datetime: datetime.datetime.fromisoformat, datetime.date: datetime.date.fromisoformat,
}  # fmt: skip
"""From the name of an image back to its key."""
TYPES: dict[type, Any] = {
    int: sa.BigInteger(), str: sa.Text().with_variant(mysql.VARCHAR(255, collation="utf8mb4_bin"), "mysql", "mariadb"),
    bytes: sa.LargeBinary().with_variant(mysql.VARBINARY(255), "mysql", "mariadb"), float: sa.Double(),
    decimal.Decimal: sa.Numeric(38, 10), uuid.UUID: sa.Uuid(),
    datetime.datetime: sa.DateTime(), datetime.date: sa.Date(),
}  # fmt: skip


class WriteBack:
    """The table that predictions are written back to; made where it does not exist.

    Parameters
    ----------
    source
        Of the images.
    name
        Of the table, ``schema.table`` if need be.
    heads
        As they are stored.
    ndim
        Axes that the model sees.
    one_patch
        Whether each image is one patch, and so one row. A table that is there says so itself.
    folder
        Of the run, for the paths of maps.

    Raises
    ------
    OutputError
        If there is such a table, and it lacks a column or has no unique key.
    SourceError
        If the database cannot be reached or does not allow it.
    """

    def __init__(
        self, source: SQLSource, name: str, heads: Sequence[Head], ndim: int, *, one_patch: bool, folder: AnyPath
    ) -> None:
        self._database: Database = source.rows.database
        self._heads = {head.name: head for head in heads}
        self._folder = folder.resolve()
        first = next(iter(source.rows.pages()), None)
        if first is None or type(first[0]) not in PARSERS:
            kind = "nothing" if first is None else type(first[0]).__name__
            raise SourceError(f"keys of type {kind} cannot be written back", "cast the key in the query")
        self._parse, self._key = PARSERS[type(first[0])], source.rows.key
        schema, _, table = name.rpartition(".")
        self._axes = spatial_axes(ndim).lower()
        self._columns = self._scores()
        found = self._database.read(lambda connection: _columns(connection, table, schema or None))
        self._one_patch = one_patch if found is None else self._axes[-1] not in found
        places = [] if self._one_patch else [sa.Column(axis, sa.Integer(), primary_key=True) for axis in self._axes]
        key = sa.Column(_quoted(self._key), TYPES[type(first[0])], primary_key=True, autoincrement=False)
        scores = [sa.Column(_quoted(column), kind) for one in self._columns.values() for column, kind in one.items()]
        self._table = sa.Table(_quoted(table), sa.MetaData(), key, *places, *scores,
                               schema=_quoted(schema) if schema else None)
        if found is None:
            self._database.write(lambda connection: self._table.create(connection, checkfirst=True))
        else:
            self._check(name, found)

    def put(self, axes: str, rows: Mapping[str, Sequence[UnitRows]]) -> None:
        """Put the rows of a unit's vector heads.

        Raises
        ------
        OutputError
            If an image has several patches and the table has one row an image, or an image has other axes.
        SourceError
            If the database stays away.
        """
        if len(axes) > len(self._axes):
            raise OutputError(f"images with the axes {axes} cannot be written back", "choose a --store instead")
        for head, parts in rows.items():
            values: list[dict[str, Any]] = []
            for part in parts:
                values += self._rows(head, part)
            self._upsert(values)

    def link(self, images: Mapping[str, Mapping[str, str]]) -> None:
        """Put the paths or URLs of the maps of images."""
        axes: dict[str, Any] = {} if self._one_patch else dict.fromkeys(self._axes, 0)
        self._upsert([{self._key: self._parse(image), **axes} |
                      {next(iter(self._columns[head])): location for head, location in maps.items()}
                      for image, maps in images.items()])

    def delete(self, image: str) -> None:
        """Forget an image."""
        statement = self._table.delete().where(self._table.c[self._key] == self._parse(image))
        self._database.write(lambda connection: connection.execute(statement))

    def _scores(self) -> dict[str, dict[str, Any]]:
        """Columns of each head, and their types."""
        taken = [self._key, *self._axes]
        columns: dict[str, dict[str, Any]] = {}
        for name, head in self._heads.items():
            if head.kind == "dense":
                names, kind = [name], sa.Text()
            elif has_columns(head):
                names, kind = score_names(head, taken), _kind(head)
            else:
                names, kind = ["prediction"], sa.Text()
            if any(column in taken for column in names):
                names = [f"{name}_{column}" for column in names]
            taken += names
            columns[name] = dict.fromkeys(names, kind)
        return columns

    def _rows(self, name: str, part: UnitRows) -> list[dict[str, Any]]:
        if self._one_patch and len(part.values) > 1:
            raise OutputError(f"{part.image} has {len(part.values)} patches, and {self._table.name} one row an image",
                              "choose another --write-back table, or --patch image")
        key, columns = self._parse(part.image), list(self._columns[name])
        listed = part.values.reshape(len(part.values), -1).tolist()
        rows = []
        for place, values, skipped in zip(keys_of(part).tolist(), listed, skipped_of(part).tolist(), strict=True):
            row = {self._key: key} if self._one_patch else {self._key: key, **dict(zip(self._axes, place, strict=True))}
            if skipped:
                scores: list[Any] = [None] * len(columns)
            elif len(columns) == len(values):
                scores = [_finite(value) for value in values]
            else:
                scores = [json.dumps([_finite(value) for value in values])]
            rows.append(row | dict(zip(columns, scores, strict=True)))
        return rows

    def _upsert(self, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        statement = _upsert(self._database.dialect, self._table, list(rows[0]))

        def write(connection: sa.Connection) -> None:
            for start in range(0, len(rows), BATCH):
                connection.execute(statement, rows[start : start + BATCH])

        self._database.write(write)

    def _check(self, name: str, found: Sequence[str]) -> None:
        missing = [column.name for column in self._table.columns if column.name not in found]
        if missing:
            raise OutputError(f"table {name} is there, and has no column {missing[0]!r}",
                              "choose another table for --write-back")


def _columns(connection: sa.Connection, table: str, schema: str | None) -> list[str] | None:
    """Columns of a table; None where there is none."""
    inspector = sa.inspect(connection)
    if not inspector.has_table(table, schema):
        return None
    return [column["name"] for column in inspector.get_columns(table, schema)]


def _quoted(name: str) -> sa.sql.quoted_name:
    return sa.sql.quoted_name(name, True)


def _kind(head: Head) -> Any:
    if head.dtype.kind == "f":
        return sa.Double()
    return sa.Boolean() if head.dtype.kind == "b" else sa.BigInteger()


def _finite(value: Any) -> Any:
    """A number as every database takes it: NULL for what is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _upsert(dialect: str, table: sa.Table, columns: Sequence[str]) -> Any:
    """Statement that puts rows, in place of those of the same key."""
    keys = [column.name for column in table.primary_key]
    others = [column for column in columns if column not in keys]
    if dialect in ("mysql", "mariadb"):
        statement = mysql.insert(table)
        return statement.on_duplicate_key_update({column: statement.inserted[column] for column in others})
    insert = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    put = {column: insert.excluded[column] for column in others}
    return insert.on_conflict_do_update(index_elements=keys, set_=put)
