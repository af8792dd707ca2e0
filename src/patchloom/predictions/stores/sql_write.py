"""Puts rows into tables, in place of those of the same key: as quickly as each database takes them.

A patch with 32 scores is a row of 50 columns, and what drivers do for each value costs more than what the database
does. So PostgreSQL gets bytes as it keeps them (``COPY … BINARY`` into a temporary table), MySQL one text for many
rows, and SQLite tuples that nobody looks at on their way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects import mysql, postgresql, sqlite

from patchloom.predictions.stores.sql_table import Column

__all__ = ["upsert", "write_rows"]

BATCH = 2000
"""Rows of a statement."""
TEXT = 900_000
"""Characters of a statement; a server that nobody configured takes a million or more."""
Part = tuple[Sequence[Column], int]
"""Columns of some rows, and how many rows these are."""


def write_rows(connection: sa.Connection, table: sa.Table, parts: Sequence[Part]) -> None:
    """Put rows.

    Parameters
    ----------
    connection
        In a transaction.
    table
        Where they go.
    parts
        All columns of the table, in its order; no key twice.
    """
    filled = [(columns, count) for columns, count in parts if count]
    if filled:
        dialect = connection.dialect
        writer = WRITERS.get((dialect.name, dialect.driver)) or WRITERS.get((dialect.name, ""), _write_plainly)
        writer(connection, table, filled)


def upsert(table: sa.Table, dialect: str) -> Any:
    """Statement that puts rows."""
    keys = {column.key for column in table.primary_key}
    rest = [column for column in table.columns if column.key not in keys]
    if dialect in ("mysql", "mariadb"):
        insert = mysql.insert(table)
        return insert.on_duplicate_key_update({column.key: insert.inserted[column.key] for column in rest})
    of_dialect = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    return of_dialect.on_conflict_do_update(
        index_elements=list(table.primary_key), set_={column: of_dialect.excluded[column.key] for column in rest})


def _write_plainly(connection: sa.Connection, table: sa.Table, parts: Sequence[Part]) -> None:
    """As every driver takes it."""
    keys = [column.key for column in table.columns]
    for rows in _batches(_tuples(parts)):
        connection.execute(upsert(table, connection.dialect.name), [dict(zip(keys, row, strict=True)) for row in rows])


def _write_tuples(connection: sa.Connection, table: sa.Table, parts: Sequence[Part]) -> None:
    statement = upsert(table, "sqlite").compile(dialect=connection.dialect, column_keys=list(table.columns.keys()))
    for rows in _batches(_tuples(parts)):
        connection.exec_driver_sql(str(statement), rows)


def _tuples(parts: Sequence[Part]) -> Iterator[tuple[Any, ...]]:
    for columns, _ in parts:
        yield from zip(*(column.listed() for column in columns), strict=False)  # constants have no end


def _batches(rows: Iterator[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    batch: list[tuple[Any, ...]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _write_texts(connection: sa.Connection, table: sa.Table, parts: Sequence[Part]) -> None:
    """Literals in one statement: nothing of a text is in it but hexadecimal digits."""
    begin, end = _around_values(connection, table)
    texts: list[str] = []
    size = 0
    plain = connection.execution_options(no_parameters=True)
    for columns, _ in parts:
        for row in zip(*map(_literals, columns), strict=False):
            texts.append(f"({','.join(row)})")
            size += len(texts[-1])
            if size > TEXT:
                plain.exec_driver_sql(begin + ",".join(texts) + end)
                texts, size = [], 0
    if texts:
        plain.exec_driver_sql(begin + ",".join(texts) + end)


def _around_values(connection: sa.Connection, table: sa.Table) -> tuple[str, str]:
    """What is in front of the values, and behind them."""
    quote = connection.dialect.identifier_preparer
    keys = {column.key for column in table.primary_key}
    names = [quote.format_column(column) for column in table.columns]
    rest = [quote.format_column(column) for column in table.columns if column.key not in keys]
    updates = ", ".join(f"{name} = VALUES({name})" for name in rest)
    return (f"INSERT INTO {quote.format_table(table)} ({', '.join(names)}) VALUES ",
            f" ON DUPLICATE KEY UPDATE {updates}")


def _literals(column: Column) -> Iterable[str]:
    literal = _literal_of(column.values)
    return ("NULL" if value is None else literal(value) for value in column.listed())


def _literal_of(values: Any) -> Callable[[Any], str]:
    if isinstance(values, str):
        text = f"_utf8mb4 x'{values.encode().hex()}'" if values else "''"
        return lambda value: text
    kind = values.dtype.kind if isinstance(values, np.ndarray) else "i"
    if kind == "V":
        return lambda value: f"x'{value.hex()}'" if value else "''"
    if kind == "f":
        return _float_literal
    return lambda value: str(int(value))


def _float_literal(value: float) -> str:
    """Binary, not decimal, which is what the exponent says."""
    text = repr(value)
    return text if "e" in text else f"{text}e0"


def _write_copies(connection: sa.Connection, table: sa.Table, parts: Sequence[Part]) -> None:
    """A temporary table of the session takes the bytes; out of that they go where they belong."""
    if not connection.exec_driver_sql("SELECT has_database_privilege(current_database(), 'TEMPORARY')").scalar():
        _write_plainly(connection, table, parts)
        return
    quote = connection.dialect.identifier_preparer
    there, here = quote.format_table(table), quote.quote(f"{table.name}_new")
    keys = ", ".join(quote.format_column(column) for column in table.primary_key)
    names = [quote.format_column(column) for column in table.columns]
    rest = [quote.format_column(column) for column in table.columns if not column.primary_key]
    listed, updates = ", ".join(names), ", ".join(f"{name} = excluded.{name}" for name in rest)
    connection.exec_driver_sql(
        f"CREATE TEMPORARY TABLE IF NOT EXISTS {here} (LIKE {there}) ON COMMIT DELETE ROWS")
    raw = connection.connection.driver_connection
    assert raw is not None
    errors = connection.dialect.loaded_dbapi.Error
    try:
        with raw.cursor() as cursor, cursor.copy(f"COPY {here} ({listed}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for columns, count in parts:
                for piece in _binary(columns, count):
                    copy.write(piece)
            copy.write(b"\xff\xff")
    except errors as error:
        found = sa.exc.DBAPIError.instance("COPY", None, error, errors, dialect=connection.dialect)
        raise found from error
    connection.exec_driver_sql(f"INSERT INTO {there} ({listed}) SELECT {listed} FROM {here} "
                               f"ON CONFLICT ({keys}) DO UPDATE SET {updates}")


def _binary(columns: Sequence[Column], count: int) -> Iterator[bytes]:
    """Rows as ``COPY`` takes them: for each value its length, -1 for NULL, then its bytes, big-endian.

    Rows that have the same columns NULL are equally long, and are made at once.
    """
    absent = np.zeros((count, len(columns)), np.bool_)
    for i, column in enumerate(columns):
        if column.values is None:
            absent[:, i] = True
        elif column.nulls is not None:
            absent[:, i] = column.nulls
    if (absent == absent[0]).all():
        yield _equal_rows(columns, slice(None), count, absent[0])
        return
    kinds, kind_of = np.unique(absent, axis=0, return_inverse=True)
    for number, kind in enumerate(kinds):
        rows = np.flatnonzero(kind_of.reshape(-1) == number)
        yield _equal_rows(columns, rows, len(rows), kind)


def _equal_rows(columns: Sequence[Column], rows: Any, count: int, absent: NDArray[np.bool_]) -> bytes:
    fields: list[tuple[str, Any]] = [("columns", ">i2")]
    lengths: list[tuple[str, int]] = []
    values: list[tuple[str, Any]] = []
    for i, (column, is_absent) in enumerate(zip(columns, absent.tolist(), strict=True)):
        found = np.zeros(0, "V1") if is_absent else _big_endian(column)
        lengths.append((f"length{i}", -1 if is_absent else found.dtype.itemsize * (found.size > 0)))
        fields.append((f"length{i}", ">i4"))
        if found.size:
            fields.append((f"value{i}", found.dtype))
            values.append((f"value{i}", found if column.is_constant else found[rows]))
    made = np.zeros(count, fields)
    made["columns"] = len(columns)
    for name, value in [*lengths, *values]:
        made[name] = value
    return made.tobytes()


def _big_endian(column: Column) -> NDArray[Any]:
    """Values as the server has them; nothing for a text without letters."""
    if isinstance(column.values, np.ndarray):
        return column.values.astype(column.values.dtype.newbyteorder(">"), copy=False)
    if isinstance(column.values, str):
        data = column.values.encode()
        return np.frombuffer(data, f"V{len(data)}") if data else np.zeros(0, "V1")
    return np.full(1, column.values, ">i4")


Writer = Callable[[sa.Connection, sa.Table, Sequence[Part]], None]
WRITERS: dict[tuple[str, str], Writer] = {
    ("sqlite", ""): _write_tuples, ("mysql", ""): _write_texts, ("mariadb", ""): _write_texts,
    ("postgresql", "psycopg"): _write_copies,
}  # fmt: skip
"""By dialect and driver; any driver for an empty one."""
