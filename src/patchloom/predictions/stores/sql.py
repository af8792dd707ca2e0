"""Predictions in an SQL database: SQLite, PostgreSQL, MySQL or MariaDB; one row a patch.

Each head has a table, ``patchloom_<head>_<digest of its columns>``; ``patchloom_heads`` says which runs are in which,
``patchloom_maps`` where maps are (``run``, ``image``, ``head``, ``location``).
Columns: ``run``; ``image`` (readable: what is no text is escaped) and ``image_key`` (a digest of the name, exact);
``loops`` (axes of the key that are no pixels), ``s``, ``t``, ``z``, ``y``, ``x``; ``slab``, ``row``, ``col``,
``depth``, ``height``, ``width``; ``skipped``; then the scores, as numbers that SQL can filter on: NULL where the patch
was skipped, and where a score is no finite number. What a column cannot hold exactly (NaN, infinities, -0, integers of
64 bits without a sign) is in ``exact``, the whole prediction as bytes. An embedding is one binary column,
``prediction``, with ``dtype`` and ``shape`` beside it; bytes are little-endian, in C order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from patchloom.errors import MissingExtraError, StoreError
from patchloom.predictions.patches import UnitRows
from patchloom.predictions.stores.rows import AXES, digest, printable
from patchloom.predictions.stores.server import Server, Trouble
from patchloom.predictions.stores.store import StoredRows, StoredRun
from patchloom.predictions.stores.url import scheme_of, with_password

try:
    import sqlalchemy as sa
    from sqlalchemy.exc import (
        ArgumentError,
        DBAPIError,
        IntegrityError,
        InterfaceError,
        NoSuchModuleError,
        OperationalError,
        ProgrammingError,
    )

    from patchloom.predictions.stores.sql_table import HeadTable, heads_table, maps_table
    from patchloom.predictions.stores.sql_write import upsert, write_rows
except ImportError as error:
    raise MissingExtraError.of("sqlalchemy", "sql", "a store in an SQL database") from error

__all__ = ["SqlStore"]

DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "mysql": "mysql+pymysql",
           "mariadb": "mariadb+pymysql", "sqlite": "sqlite"}
EXTRAS = {"psycopg": "postgresql", "pymysql": "mysql"}
PAGE = 4096
"""Rows that are read at once."""
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
        self._reader = _engine(url, self._server.shown, isolation_level="AUTOCOMMIT", pool_reset_on_return=None)
        self._metadata = sa.MetaData()
        is_mysql = self._engine.dialect.name in ("mysql", "mariadb")
        self._heads, self._maps = heads_table(self._metadata), maps_table(self._metadata)
        self._tables = {head.name: HeadTable(head, self._metadata, is_mysql=is_mysql) for head in run.heads}
        self._made = False
        self._server(lambda: self._engine.connect().close())

    def put(self, axes: str, rows: Mapping[str, Sequence[UnitRows]]) -> None:
        """As `PredictionStore.put`: one transaction."""
        found = {name: [(self._tables[name].columns(self._run.id, axes, part), len(part.values))
                        for part in sorted(parts, key=lambda part: digest(part.image))]  # who locks in order waits less
                 for name, parts in rows.items()}

        def write() -> None:
            self._make_tables()
            with self._engine.begin() as connection:
                for name, parts in found.items():
                    write_rows(connection, self._tables[name].table, parts)

        self._server(write)

    def get(self, head: str, image: str, axes: str, key: tuple[int, ...]) -> Any | None:
        """As `PredictionStore.get`."""
        found = self._tables[head]
        place = dict.fromkeys(AXES.lower(), 0) | {axis: int(n) for axis, n in zip(axes.lower(), key, strict=True)}
        rows = self._read(found.one, run=self._run.id, image_key=digest(image), **place)
        return found.values(rows)[0] if rows and not rows[0][0] else None

    def rows(self, head: str, image: str, axes: str) -> Iterator[StoredRows]:
        """As `PredictionStore.rows`: pages of the primary key."""
        found = self._tables[head]
        about = {"run": self._run.id, "image_key": digest(image), "limit": PAGE}
        rows = self._read(found.some, **about)
        while rows:
            yield found.stored(rows, axes)
            if len(rows) < PAGE:
                return
            last = dict(zip(AXES.lower(), rows[-1][-len(AXES) :], strict=True))
            rows = self._read(found.more, **about, **last)

    def count(self, head: str, image: str | None = None) -> int:
        """As `PredictionStore.count`."""
        table = self._tables[head].table
        query = sa.select(sa.func.count()).select_from(table).where(*_of(table, self._run.id, image))
        return int(self._read(query)[0][0])

    def link(self, images: Mapping[str, Mapping[str, str]]) -> None:
        """As `PredictionStore.link`: one transaction."""
        rows = [{"run": self._run.id, "image_key": digest(image), "head_key": digest(head), "image": printable(image),
                 "head": printable(head), "location": printable(location)}
                for image, maps in sorted(images.items()) for head, location in maps.items()]

        def write() -> None:
            self._make_tables()
            with self._engine.begin() as connection:
                if rows:
                    connection.execute(upsert(self._maps, self._engine.dialect.name), rows)

        self._server(write)

    def maps(self, image: str) -> dict[str, str]:
        """As `PredictionStore.maps`."""
        found = self._read(sa.select(self._maps.c.head, self._maps.c.location).where(
            *_of(self._maps, self._run.id, image)))
        return dict(map(tuple, found))

    def delete(self, image: str | None = None) -> None:
        """As `PredictionStore.delete`."""

        def remove() -> None:
            self._make_tables()
            with self._engine.begin() as connection:
                for table in (self._maps, *(found.table for found in self._tables.values())):
                    connection.execute(sa.delete(table).where(*_of(table, self._run.id, image)))
                if image is None:
                    connection.execute(sa.delete(self._heads).where(self._heads.c.run == self._run.id))

        self._server(remove)

    def close(self) -> None:
        """As `PredictionStore.close`."""
        self._engine.dispose()
        self._reader.dispose()

    def _read(self, query: Any, **values: Any) -> Sequence[Any]:
        def read() -> Sequence[Any]:
            self._make_tables()
            with self._reader.connect() as connection:
                return connection.execute(query, values).all()

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
                connection.execute(upsert(self._heads, self._engine.dialect.name), rows)
        self._made = True


def _of(table: Any, run: str, image: str | None) -> list[Any]:
    conditions = [table.c.run == run]
    return conditions if image is None else [*conditions, table.c.image_key == digest(image)]


def _engine(url: str, shown: str, **options: Any) -> Any:
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
        return sa.create_engine(parsed, pool_size=8, max_overflow=24, pool_pre_ping=False, connect_args=arguments,
                                **options)
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
