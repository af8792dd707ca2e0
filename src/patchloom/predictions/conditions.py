"""Conditions in SQL: what they may be, and the database that evaluates them, which can reach nothing else."""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb

from patchloom.errors import QueryError

__all__ = ["check_condition", "connection", "parse_sort", "query_error", "quoted"]

MEMORY = "1GB"
"""What sorting may take before it goes through files."""
PREFIX = "select 1 from patches where "
REFUSED = {
    "SUBQUERY": "a query within the condition",
    "WINDOW": "a window function",
    "PARAMETER": "a parameter",
    "STAR": "*",
    "POSITIONAL_REFERENCE": "a number of a column",
}
COMPARISONS = {"COMPARISON", "BETWEEN", "COMPARE_IN", "COMPARE_NOT_IN"}
NAMES_SHOWN = 24


def connection() -> duckdb.DuckDBPyConnection:
    """Connection to a database in memory without access to files, networks or Python; close it after use."""
    return _database(os.getpid()).cursor()


def check_condition(where: str, columns: Sequence[str]) -> None:
    """Raise QueryError unless `where` is one condition, over columns and nothing else.

    Parameters
    ----------
    where
        What stands after WHERE in SQL.
    columns
        Names of the columns, for messages.
    """
    with connection() as database:
        (text,) = database.execute("select json_serialize_sql(?)", [f"{PREFIX}{where}\n"]).fetchall()[0]
    parsed = json.loads(text)
    if parsed["error"]:
        raise query_error(where, parsed["error_message"], columns)
    node = parsed["statements"][0]["node"] if len(parsed["statements"]) == 1 else {}
    empty = json.loads(_parse_empty())
    rest = {name: value for name, value in node.items() if name != "where_clause"}
    if rest != {name: value for name, value in empty.items() if name != "where_clause"}:
        raise query_error(where, "it is more than a condition", columns)
    for part in _parts(node["where_clause"]):
        kind = part.get("class")
        if kind in REFUSED:
            raise query_error(where, f"{REFUSED[kind]} is not possible here", columns)
        compares = kind in COMPARISONS or part.get("type") in COMPARISONS
        if compares and not any(below.get("class") == "COLUMN_REF" for below in _parts(part)):
            raise query_error(where, "it compares a value with a value, not with a column", columns)
    if not any(part.get("class") == "COLUMN_REF" for part in _parts(node["where_clause"])):
        raise query_error(where, "it mentions no column", columns)


def parse_sort(sort: str, columns: Sequence[str]) -> list[tuple[str, bool]]:
    """Columns to sort by, each with whether it descends, out of ``"-tumour,image"``.

    Names may be in double quotes, and have to be where they contain commas or begin with a minus.

    Raises
    ------
    QueryError
        If there is no such column.

    Examples
    --------
    >>> parse_sort('-tumour, "a,b"', ["image", "tumour", "a,b"])
    [('tumour', True), ('a,b', False)]
    """
    wanted = []
    for sign, name, plain in re.findall(r'\s*([-+]?)\s*(?:"((?:[^"]|"")*)"|([^,]*))\s*(?:,|$)', sort):
        name = name.replace('""', '"') or plain.strip()
        if not name and not sign:
            continue
        found = name if name in columns else next((c for c in columns if c.casefold() == name.casefold()), None)
        if found is None:
            raise QueryError(f"sort: there is no column {name!r}", f"columns are {_listed(columns)}")
        wanted.append((found, sign == "-"))
    return wanted


def query_error(where: str, message: str, columns: Sequence[str]) -> QueryError:
    """What is wrong with a condition, in one line, and what it can be about."""
    hint = f"columns are {_listed(columns)}"
    unquoted = re.sub(r'"[^"]*"|\'[^\']*\'', " ", where)
    special = [name for name in columns if not re.fullmatch(r"[A-Za-z_]\w*", name) or _is_keyword(name)]
    meant = [name for name in special if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", unquoted)]
    if special:
        name = max(meant or special[:1], key=len)
        hint = f"a name such as {name} is written in double quotes: {quoted(name)} > 0.5; {hint}"
    elif '"' in where and "not found" in message:
        hint = f"texts are written in single quotes: image = 'name'; {hint}"
    return QueryError(f"where: {where!r} cannot be understood: {_one_line(message)}", hint)


def quoted(name: str) -> str:
    """Name of a column in SQL."""
    return '"' + name.replace('"', '""') + '"'


@functools.cache
def _database(process: int) -> duckdb.DuckDBPyConnection:
    """One for each process: a database cannot be used after a fork, and not be closed either."""
    spill = Path(tempfile.gettempdir()) / f"patchloom-{uuid.uuid4().hex}"
    atexit.register(shutil.rmtree, spill, ignore_errors=True)  # made only when it is needed
    database = duckdb.connect(":memory:")
    text = str(spill).replace("'", "''")
    for setting in (
        f"memory_limit = '{MEMORY}'",
        f"temp_directory = '{text}'",
        "python_enable_replacements = false",
        "autoinstall_known_extensions = false",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        database.execute(f"set {setting}")
    return database


@functools.cache
def _parse_empty() -> str:
    """A query that has a condition and nothing else besides."""
    with connection() as database:
        (text,) = database.execute("select json_serialize_sql(?)", [f"{PREFIX}true\n"]).fetchall()[0]
    return json.dumps(json.loads(text)["statements"][0]["node"])


@functools.cache
def _keywords() -> frozenset[str]:
    with connection() as database:
        return frozenset(
            name
            for (name,) in database.execute(
                "select keyword_name from duckdb_keywords() where keyword_category = 'reserved'"
            ).fetchall()
        )


def _is_keyword(name: str) -> bool:
    return name.lower() in _keywords()


def _parts(node: Any) -> Iterator[dict[str, Any]]:
    """All nodes of a parsed expression."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _parts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _parts(value)


def _listed(columns: Sequence[str]) -> str:
    more = f", … {len(columns)} in all" if len(columns) > NAMES_SHOWN else ""
    return ", ".join(columns[:NAMES_SHOWN]) + more


def _one_line(message: str) -> str:
    return message.strip().splitlines()[0]
