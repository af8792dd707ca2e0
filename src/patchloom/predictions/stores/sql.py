"""Predictions in an SQL database: SQLite, PostgreSQL, MySQL or MariaDB; one row a patch.

Each head has a table, ``patchloom_<head>_<digest of its columns>``; ``patchloom_heads`` says which runs are in which.
Columns: ``run``; ``image`` (readable: what is no text is escaped) and ``image_key`` (a digest of the name, exact);
``loops`` (axes of the key that are no pixels), ``s``, ``t``, ``z``, ``y``, ``x``; ``slab``, ``row``, ``col``,
``depth``, ``height``, ``width``; ``skipped``; then the scores, as numbers that SQL can filter on: NULL where the patch
was skipped, and where a score is no finite number. What a column cannot hold exactly (NaN, infinities, integers of 64
bits without a sign) is in ``exact``, the whole prediction as bytes. An embedding is one binary column, ``prediction``,
with ``dtype`` and ``shape`` beside it; bytes are little-endian, in C order.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import MissingExtraError, StoreError
from patchloom.models.model import Head
from patchloom.predictions.patches import UnitRows
from patchloom.predictions.stores.rows import (
    AXES,
    digest,
    has_columns,
    key_of,
    keys_of,
    printable,
    score_names,
    skipped_of,
)
from patchloom.predictions.stores.server import Server, Trouble
from patchloom.predictions.stores.store import StoredRows, StoredRun
from patchloom.predictions.stores.url import scheme_of, with_password

try:
    import sqlalchemy as sa
    from sqlalchemy.dialects import mysql, postgresql, sqlite
    from sqlalchemy.exc import (
        ArgumentError,
        DBAPIError,
        IntegrityError,
        InterfaceError,
        NoSuchModuleError,
        OperationalError,
        ProgrammingError,
    )
except ImportError as error:
    raise MissingExtraError.of("sqlalchemy", "sql", "a store in an SQL database") from error

__all__ = ["SqlStore"]

DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "mysql": "mysql+pymysql",
           "mariadb": "mariadb+pymysql", "sqlite": "sqlite"}
EXTRAS = {"psycopg": "postgresql", "pymysql": "mysql"}
PLACES = ("slab", "row", "col", "depth", "height", "width")
OWN = ("run", "image", "image_key", "loops", *AXES.lower(), *PLACES, "skipped", "exact", "dtype", "shape")
KEY = ("run", "image_key", *AXES.lower())
BATCH = 2000
"""Rows of a statement."""
AWAY = (
    "connection refused", "connection reset", "broken pipe", "server closed the connection", "terminating connection",
    "starting up", "shutting down", "recovery mode", "not yet accepting", "too many", "lost connection", "gone away",
    "can't connect", "timed out", "timeout expired", "connection is closed", "connection is lost", "no route to host",
    "server shutdown", "failed to resolve", "name or service not known", "shutdown is in progress",
)  # fmt: skip
BUSY = ("deadlock", "lock wait timeout", "is locked", "could not serialize", "tuple concurrently updated",
        "record has changed since last read", "already exists", "duplicate key value")  # fmt: skip
DENIED = ("password authentication failed", "access denied", "no password supplied", "authentication")


class SqlStore:
    """A run's predictions in an SQL database.

    Parameters
    ----------
    url
        As SQLAlchemy has it, with its password; without a driver it is psycopg or PyMySQL.
    run
        Whose predictions.
    """

    def __init__(self, url: str, run: StoredRun) -> None:
        self._run = run
        url = with_password(url)
        self._server = Server(url, _trouble)
        self._engine = _engine(url, self._server.shown)
        self._metadata = sa.MetaData()
        self._heads = _heads_table(self._metadata)
        self._tables = {head.name: _HeadTable(head, self._metadata) for head in run.heads}
        self._made = False
        self._server(lambda: self._engine.connect().close())

    def put(self, axes: str, rows: Mapping[str, Sequence[UnitRows]]) -> None:
        """As `PredictionStore.put`: one transaction."""
        records = {name: [record for part in parts for record in self._tables[name].records(self._run.id, axes, part)]
                   for name, parts in rows.items()}
        for found in records.values():
            found.sort(key=lambda record: tuple(record[column] for column in KEY))

        def write() -> None:
            self._make_tables()
            with self._engine.begin() as connection:
                for name, found in records.items():
                    upsert = _upsert(self._tables[name].table, self._engine.dialect.name)
                    for first in range(0, len(found), BATCH):
                        connection.execute(upsert, found[first : first + BATCH])

        self._server(write)

    def get(self, head: str, image: str, axes: str, key: tuple[int, ...]) -> Any | None:
        """As `PredictionStore.get`."""
        found = self._tables[head]
        values = dict(zip(axes.lower(), key, strict=True))
        query = found.query(self._run.id, image).where(
            *(found.table.c[axis] == int(values.get(axis, 0)) for axis in AXES.lower()))
        rows = self._read(query)
        if not rows or rows[0][0]:
            return None
        return found.values(rows)[0]

    def rows(self, head: str, image: str, axes: str) -> Iterator[StoredRows]:
        """As `PredictionStore.rows`: pages of the primary key."""
        found = self._tables[head]
        columns = [found.table.c[axis] for axis in AXES.lower()]
        query = found.query(self._run.id, image).add_columns(*columns).order_by(*columns).limit(BATCH)
        last: tuple[int, ...] | None = None
        while True:
            after = [] if last is None else [_after(columns, last)]
            rows = self._read(query.where(*after))
            if rows:
                places = [tuple(row[-len(AXES) :]) for row in rows]
                keys = np.asarray([key_of(axes, place) for place in places], np.int64).reshape(len(rows), len(axes))
                yield StoredRows(keys, found.values(rows), np.asarray([bool(row[0]) for row in rows]))
                last = places[-1]
            if len(rows) < BATCH:
                return

    def count(self, head: str, image: str | None = None) -> int:
        """As `PredictionStore.count`."""
        table = self._tables[head].table
        query = sa.select(sa.func.count()).select_from(table).where(*_of(table, self._run.id, image))
        return int(self._read(query)[0][0])

    def delete(self, image: str | None = None) -> None:
        """As `PredictionStore.delete`."""

        def remove() -> None:
            self._make_tables()
            with self._engine.begin() as connection:
                for found in self._tables.values():
                    connection.execute(sa.delete(found.table).where(*_of(found.table, self._run.id, image)))
                if image is None:
                    connection.execute(sa.delete(self._heads).where(self._heads.c.run == self._run.id))

        self._server(remove)

    def close(self) -> None:
        """As `PredictionStore.close`."""
        self._engine.dispose()

    def _read(self, query: Any) -> list[Any]:
        def read() -> list[Any]:
            self._make_tables()
            with self._engine.connect() as connection:
                return list(connection.execute(query).all())

        return self._server(read)

    def _make_tables(self) -> None:
        """Tables that are not there yet; another process may make them at the same time."""
        if self._made:
            return
        self._metadata.create_all(self._engine, checkfirst=True)
        rows = [{"run": self._run.id, "head": digest(name), "name": printable(name), "table_name": found.table.name}
                for name, found in self._tables.items()]
        if rows:
            with self._engine.begin() as connection:
                connection.execute(_upsert(self._heads, self._engine.dialect.name), rows)
        self._made = True


class _HeadTable:
    """The table of a head, and how predictions are put into it and got out."""

    def __init__(self, head: Head, metadata: Any) -> None:
        self.head, self._is_columns = head, has_columns(head)
        names = score_names(head, OWN) if self._is_columns else ["prediction"]
        kind = {"f": "real", "i": "int", "u": "int", "b": "bool"}[head.dtype.kind] if self._is_columns else "bytes"
        self._scores = [f"c{i}" for i in range(len(names))]
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
            mysql_charset="utf8mb4", mariadb_charset="utf8mb4", mysql_engine="InnoDB", mariadb_engine="InnoDB")

    def records(self, run: str, axes: str, rows: UnitRows) -> Iterator[dict[str, Any]]:
        """Rows as statements take them."""
        keys, skipped = keys_of(rows), skipped_of(rows).tolist()
        spatial = axes[len(rows.loops) :]
        constant = {"run": run, "image": printable(rows.image), "image_key": digest(rows.image), "loops":
                    axes[: len(rows.loops)].lower(), **dict.fromkeys(AXES.lower(), 0), **dict.fromkeys(PLACES)}
        words = [{"Z": "slab", "Y": "row", "X": "col"}[axis] for axis in spatial]
        words += [{"Z": "depth", "Y": "height", "X": "width"}[axis] for axis in spatial]
        names = [*axes.lower(), *words]
        numbers = np.concatenate([keys, rows.places, rows.shapes], axis=1).tolist()
        scores = self._columns(rows.values)
        for place, is_skipped, values in zip(numbers, skipped, scores, strict=True):
            values = dict.fromkeys(values) if is_skipped else values
            yield constant | dict(zip(names, place, strict=True)) | {"skipped": is_skipped} | values

    def _columns(self, values: NDArray[Any]) -> Iterator[dict[str, Any]]:
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        if not self._is_columns:
            about = {"dtype": self.head.dtype.name, "shape": ",".join(map(str, self.head.shape))}
            return ({"c0": row.tobytes(), **about} for row in little)
        flat = little.reshape(len(values), math.prod(self.head.shape))
        fits: NDArray[np.bool_] = np.ones(flat.shape, np.bool_)
        if flat.dtype.kind == "f":
            fits = np.isfinite(flat)
        elif flat.dtype == np.uint64:
            fits = flat <= np.uint64(np.iinfo(np.int64).max)
        whole: list[bool] = np.asarray(fits.all(axis=1)).tolist()
        numbers: list[list[Any]] = flat.astype(np.float64).tolist() if flat.dtype.kind == "f" else flat.tolist()
        return (
            dict(zip(self._scores, row, strict=True)) | {"exact": None}
            if exact
            else {name: n if fits[i, k] else None for k, (name, n) in enumerate(zip(self._scores, row, strict=True))}
            | {"exact": flat[i].tobytes()}
            for i, (row, exact) in enumerate(zip(numbers, whole, strict=True))
        )

    def query(self, run: str, image: str) -> Any:
        """Whether skipped, then what `values` takes."""
        names = ["skipped", *self._scores, *(["exact"] if self._is_columns else [])]
        return sa.select(*(self.table.c[name] for name in names)).where(*_of(self.table, run, image))

    def values(self, rows: Sequence[Any]) -> NDArray[Any]:
        """Predictions out of rows, ``(n, …)``."""
        head, little = self.head, self.head.dtype.newbyteorder("<")
        found = np.zeros((len(rows), *head.shape), head.dtype)
        flat = found.reshape(len(rows), math.prod(head.shape))
        for i, row in enumerate(rows):
            if row[0]:
                continue
            packed = row[1 + len(self._scores)] if self._is_columns else row[1]
            flat[i] = row[1 : 1 + len(self._scores)] if packed is None else np.frombuffer(packed, little)
        return found


def _type(kind: str) -> Any:
    if kind == "bytes":
        return sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
    return {"real": sa.Double, "int": sa.BigInteger, "bool": sa.Boolean}[kind]()


def _heads_table(metadata: Any) -> Any:
    return sa.Table(
        "patchloom_heads", metadata, sa.Column("run", sa.String(32), primary_key=True),
        sa.Column("head", sa.String(32), primary_key=True), sa.Column("name", sa.Text, nullable=False),
        sa.Column("table_name", sa.String(64), nullable=False), mysql_charset="utf8mb4", mariadb_charset="utf8mb4")


def _of(table: Any, run: str, image: str | None) -> list[Any]:
    conditions = [table.c.run == run]
    return conditions if image is None else [*conditions, table.c.image_key == digest(image)]


def _after(columns: Sequence[Any], last: Sequence[int]) -> Any:
    """Rows behind `last`, spelled out: not every database uses an index for a comparison of tuples."""
    return sa.or_(*(sa.and_(*(c == n for c, n in zip(columns[:i], last[:i], strict=True)), columns[i] > last[i])
                    for i in range(len(columns))))


def _upsert(table: Any, dialect: str) -> Any:
    keys = {column.key for column in table.primary_key}
    rest = [column for column in table.columns if column.key not in keys]
    if dialect in ("mysql", "mariadb"):
        insert = mysql.insert(table)
        return insert.on_duplicate_key_update({column.key: insert.inserted[column.key] for column in rest})
    of_dialect = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    return of_dialect.on_conflict_do_update(
        index_elements=list(table.primary_key), set_={column: of_dialect.excluded[column.key] for column in rest})


def _engine(url: str, shown: str) -> Any:
    scheme = scheme_of(url)
    try:
        parsed = sa.make_url(url)
        parsed = parsed.set(drivername=DRIVERS.get(parsed.drivername, parsed.drivername))
    except (ArgumentError, ValueError):
        raise StoreError("the store's URL cannot be understood", "postgresql://user@host/name, mysql://user@host/name "
                         "or sqlite:///file.db") from None
    arguments: dict[str, Any] = {}
    if scheme == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise StoreError("a database in memory keeps no predictions", "sqlite:///file.db")
        path = os.path.abspath(os.path.expanduser(parsed.database))
        if not os.path.isdir(os.path.dirname(path)):
            raise StoreError(f"there is no folder {os.path.dirname(path)}", "make it, or correct --store")
        parsed, arguments = parsed.set(database=path), {"timeout": 60}
    elif "connect_timeout" not in parsed.query:
        arguments = {"connect_timeout": 10}
    try:
        return sa.create_engine(parsed, pool_size=8, max_overflow=24, pool_pre_ping=False, connect_args=arguments)
    except NoSuchModuleError:
        raise StoreError(f"{parsed.drivername}: no such driver is known", "leave the driver out of the URL") from None
    except ImportError:
        driver = parsed.drivername.partition("+")[2]
        raise MissingExtraError.of(driver, EXTRAS.get(driver, "sql"), shown) from None


def _trouble(error: Exception) -> Trouble | None:
    if not isinstance(error, (DBAPIError, sa.exc.TimeoutError)):
        return None
    text = str(getattr(error, "orig", error)).lower()
    if getattr(error, "connection_invalidated", False) or isinstance(error, sa.exc.TimeoutError):
        return "away"
    if any(sign in text for sign in DENIED):
        return "password"
    if isinstance(error, (OperationalError, InterfaceError)) and any(sign in text for sign in AWAY):
        return "away"
    if isinstance(error, (OperationalError, IntegrityError, ProgrammingError)) and any(sign in text for sign in BUSY):
        return "busy"
    return "other"
