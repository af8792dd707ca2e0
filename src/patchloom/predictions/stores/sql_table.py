"""Tables of stores in SQL: their columns, and how predictions become columns and come back from rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects import mysql

from patchloom.models.model import Head
from patchloom.predictions.patches import UnitRows
from patchloom.predictions.stores.rows import (
    AXES,
    WORDS,
    digest,
    has_columns,
    key_of,
    keys_of,
    printable,
    score_names,
    skipped_of,
)
from patchloom.predictions.stores.store import StoredRows

__all__ = ["Column", "HeadTable", "heads_table", "maps_table"]

PLACES = ("slab", "row", "col", "depth", "height", "width")
OWN = ("run", "image", "image_key", "loops", *AXES.lower(), *PLACES, "skipped", "exact", "dtype", "shape")
OF_MYSQL: dict[str, Any] = {"mysql_charset": "utf8mb4", "mariadb_charset": "utf8mb4", "mysql_engine": "InnoDB",
                            "mariadb_engine": "InnoDB"}


@dataclass(frozen=True)
class Column:
    """A column of some rows.

    Parameters
    ----------
    name
        Key of the column in its table.
    values
        ``(n,)`` of bool, int32, int64, float64 or raw bytes; or what all rows have: a text, 0 or None.
    nulls
        ``(n,)``: rows that have no value; None: all have one.
    """

    name: str
    values: NDArray[Any] | str | int | None
    nulls: NDArray[np.bool_] | None = None

    @property
    def is_constant(self) -> bool:
        """Whether all rows have the same."""
        return not isinstance(self.values, np.ndarray)

    def listed(self) -> Iterable[Any]:
        """Python's objects, as drivers take them; without end where all are the same."""
        if not isinstance(self.values, np.ndarray):
            return itertools.repeat(self.values)
        values: list[Any] = self.values.tolist()
        if self.nulls is not None:
            for i in np.flatnonzero(self.nulls).tolist():
                values[i] = None
        return values


class HeadTable:
    """The table of a head, and how predictions are put into it and got out.

    Parameters
    ----------
    head
        Vector head.
    metadata
        Of SQLAlchemy, which the table is added to.
    is_mysql
        Scores come as one text: its drivers are slow with columns.
    """

    def __init__(self, head: Head, metadata: Any, *, is_mysql: bool = False) -> None:
        self.head, self._is_columns = head, has_columns(head)
        names = score_names(head, OWN) if self._is_columns else ["prediction"]
        kind = {"f": "real", "i": "int", "u": "int", "b": "bool"}[head.dtype.kind] if self._is_columns else "bytes"
        self._scores = [f"c{i}" for i in range(len(names))]
        self._type = np.dtype({"real": "f8", "int": "i8", "bool": "?"}.get(kind, "V"))
        self._joined = is_mysql and self._is_columns
        self._exact = 1 if not self._is_columns else 2 if self._joined else 1 + len(self._scores)
        safe = "".join(c for c in head.name.lower() if c.isascii() and (c.isalnum() or c == "_"))[:24]
        self.table = sa.Table(
            f"patchloom_{safe}_{digest(repr((names, kind)), 4)}",
            metadata,
            sa.Column("run", sa.String(32), primary_key=True),
            sa.Column("image_key", sa.String(32), primary_key=True),
            *(sa.Column(axis, sa.Integer, primary_key=True, autoincrement=False) for axis in AXES.lower()),
            sa.Column("image", sa.Text, nullable=False),
            sa.Column("loops", sa.String(8), nullable=False),
            *(sa.Column(name, sa.Integer) for name in PLACES),
            sa.Column("skipped", sa.Boolean, nullable=False),
            *(sa.Column(name, _type(kind), key=key) for name, key in zip(names, self._scores, strict=True)),
            *([sa.Column("exact", _type("bytes"))] if self._is_columns else
              [sa.Column("dtype", sa.String(16)), sa.Column("shape", sa.String(64))]),
            **OF_MYSQL)
        self.one = self._query().where(*(self.table.c[axis] == sa.bindparam(axis) for axis in AXES.lower()))
        """Asks for one patch."""
        places = [self.table.c[axis] for axis in AXES.lower()]
        self.some = self._query().add_columns(*places).order_by(*places).limit(sa.bindparam("limit"))
        """Asks for an image's rows, in their order."""
        self.more = self.some.where(_after(places, [sa.bindparam(axis) for axis in AXES.lower()]))
        """Asks for those behind one."""

    def columns(self, run: str, axes: str, rows: UnitRows) -> list[Column]:
        """Rows as the table has them, all its columns in order."""
        skipped, spatial = skipped_of(rows), axes[len(rows.loops) :]
        keys = keys_of(rows).astype(np.int32)
        places: dict[str, Any] = dict.fromkeys(AXES.lower(), 0) | dict.fromkeys(PLACES)
        places |= {axis: keys[:, i] for i, axis in enumerate(axes.lower())}
        for i, axis in enumerate(spatial):
            place, size = WORDS[axis]
            places[place], places[size] = rows.places[:, i].astype(np.int32), rows.shapes[:, i].astype(np.int32)
        known: dict[str, Any] = {"run": run, "image_key": digest(rows.image), "image": printable(rows.image),
                                 "loops": axes[: len(rows.loops)].lower(), "skipped": skipped, **places}
        scores = {column.name: column for column in self._values(rows.values, skipped)}
        return [scores[column.key] if column.key in scores else Column(column.key, known[column.key])
                for column in self.table.columns]

    def values(self, rows: Sequence[Any]) -> NDArray[Any]:
        """Predictions out of rows that `one` or `some` gave, ``(n, …)``; nothing where they were skipped."""
        head, little = self.head, self.head.dtype.newbyteorder("<")
        found = np.zeros((len(rows), *head.shape), head.dtype)
        flat = found.reshape(len(rows), math.prod(head.shape))
        plain = []
        for i, row in enumerate(rows):
            packed = row[self._exact]
            if packed is not None and not row[0]:
                flat[i] = np.frombuffer(packed, little)
            elif not row[0]:
                plain.append(i)
        if plain:
            taken = rows if len(plain) == len(rows) else [rows[i] for i in plain]
            flat[plain] = self._numbers(taken)
        return found

    def _numbers(self, rows: Sequence[Any]) -> NDArray[Any]:
        if not self._joined:
            return np.asarray([tuple(row[1 : self._exact]) for row in rows], self._type)
        texts: Iterable[str] = " ".join(row[1] for row in rows).split()
        return np.asarray(list(map(float if self._type == np.float64 else int, texts)), self._type).reshape(
            len(rows), len(self._scores))

    def stored(self, rows: Sequence[Any], axes: str) -> StoredRows:
        """What `some` gave, as stores give it."""
        places = np.asarray([tuple(row[-len(AXES) :]) for row in rows], np.int64)
        keys = np.stack([places[:, i] for i in key_of(axes, range(len(AXES)))], 1)
        return StoredRows(keys, self.values(rows), np.asarray([row[0] for row in rows], np.bool_))

    def _query(self) -> Any:
        table = self.table
        scores: list[Any] = [table.c[name] for name in self._scores]
        if self._joined:
            scores = [sa.func.concat_ws(" ", *scores)]
        asked = [table.c.skipped, *scores, *([table.c.exact] if self._is_columns else [])]
        return sa.select(*asked).where(
            table.c.run == sa.bindparam("run"), table.c.image_key == sa.bindparam("image_key"))

    def _values(self, values: NDArray[Any], skipped: NDArray[np.bool_]) -> Iterator[Column]:
        gaps = skipped if skipped.any() else None
        if not self._is_columns:
            yield Column("c0", _packed(values), gaps)
            yield Column("dtype", self.head.dtype.name)
            yield Column("shape", ",".join(map(str, self.head.shape)))
            return
        flat = values.reshape(len(values), math.prod(self.head.shape))
        fits: NDArray[np.bool_] = np.ones(flat.shape, np.bool_)
        if flat.dtype.kind == "f":
            fits = np.isfinite(flat)
        elif flat.dtype == np.uint64:
            fits = flat <= np.uint64(np.iinfo(np.int64).max)
        whole = fits.all(axis=1) | skipped
        if flat.dtype.kind == "f":  # some databases know no zero with a sign
            whole &= ~((flat == 0) & np.signbit(flat)).any(axis=1) | skipped
        numbers = np.where(fits, flat, flat.dtype.type(0)).astype(self._type)
        gapped = not fits.all() or gaps is not None
        for name, column, fit in zip(self._scores, numbers.T, fits.T, strict=True):
            yield Column(name, column, ~fit | skipped if gapped else None)
        yield Column("exact", None) if whole.all() else Column("exact", _packed(values), whole)


def _packed(values: NDArray[Any]) -> NDArray[Any]:
    """Each prediction as raw bytes, little-endian, in C order."""
    size = values.dtype.itemsize * math.prod(values.shape[1:])
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return np.frombuffer(little.tobytes(), f"V{size}", len(values)) if len(values) else np.zeros(0, f"V{size or 1}")


def _after(columns: Sequence[Any], last: Sequence[Any]) -> Any:
    """Rows behind `last`, spelled out: not every database uses an index for a comparison of tuples."""
    return sa.or_(*(sa.and_(*(c == n for c, n in zip(columns[:i], last[:i], strict=True)), columns[i] > last[i])
                    for i in range(len(columns))))


def _type(kind: str) -> Any:
    if kind == "bytes":
        return sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
    return {"real": sa.Double, "int": sa.BigInteger, "bool": sa.Boolean}[kind]()


def heads_table(metadata: Any) -> Any:
    """Which run's heads are in which table."""
    return sa.Table(
        "patchloom_heads", metadata, sa.Column("run", sa.String(32), primary_key=True),
        sa.Column("head", sa.String(32), primary_key=True), sa.Column("name", sa.Text, nullable=False),
        sa.Column("table_name", sa.String(64), nullable=False), **OF_MYSQL)


def maps_table(metadata: Any) -> Any:
    """Where the maps of images are."""
    return sa.Table(
        "patchloom_maps", metadata, sa.Column("run", sa.String(32), primary_key=True),
        sa.Column("image_key", sa.String(32), primary_key=True), sa.Column("head_key", sa.String(32), primary_key=True),
        sa.Column("image", sa.Text, nullable=False), sa.Column("head", sa.Text, nullable=False),
        sa.Column("location", sa.Text, nullable=False), **OF_MYSQL)
