"""URLs of databases as sources: recognised, shown without passwords, and turned into sources with their drivers."""

from __future__ import annotations

import json
import os
import re
from typing import Any
from urllib.parse import unquote, urlsplit

from patchloom.connections import shown
from patchloom.errors import SourceError, UsageError
from patchloom.images.sources.entry import Source
from patchloom.images.sources.patience import ENVIRONMENT

__all__ = [
    "SQL_DRIVERS",
    "database_source",
    "given",
    "is_database_url",
    "is_mongo_url",
    "is_sql_url",
    "kept",
    "without_secrets",
]

SQL_DRIVERS = {
    "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql", "sqlite": "sqlite",
}  # fmt: skip
MONGO = ("mongodb", "mongodb+srv")
LEFT_OUT = "?…"
"""Stands in a URL that a run keeps for what it does not keep."""


def is_sql_url(text: str) -> bool:
    """Whether a text is the URL of an SQL database that is known here.

    Examples
    --------
    >>> is_sql_url("sqlite:///lab.db"), is_sql_url("s3://bucket/a.tif")
    (True, False)
    """
    scheme, found, _ = text.partition("://")
    return bool(found) and scheme.partition("+")[0].lower() in SQL_DRIVERS


def is_mongo_url(text: str) -> bool:
    """Whether a text is the URL of a MongoDB server."""
    scheme, found, _ = text.partition("://")
    return bool(found) and scheme.lower() in MONGO


def is_database_url(text: str) -> bool:
    """Whether a text is the URL of a database that images can come from."""
    return is_sql_url(text) or is_mongo_url(text)


def kept(url: str) -> str:
    """A URL as a run keeps it: without what gives access, and marked if there was any; any other text as it is.

    Examples
    --------
    >>> kept("https://me:secret@host/a.tif"), kept("s3://bucket/a.tif")
    ('https://host/a.tif?…', 's3://bucket/a.tif')
    """
    plain = shown(url)
    return url if url in (plain, plain + LEFT_OUT) else plain + LEFT_OUT


def given(url: str) -> str:
    """A URL that a run kept, with what gives access again.

    Raises
    ------
    SourceError
        If that was not kept, and is not in the environment either.
    """
    if not url.endswith(LEFT_OUT):
        return url
    plain, again = url.removesuffix(LEFT_OUT), os.environ.get(ENVIRONMENT, "")
    if shown(again) == plain:
        return again
    raise SourceError(f"{plain}: was given with a password or query, which is not kept",
                      f"give it to `patchloom predict` again, which goes on with the run, or in {ENVIRONMENT}")


def without_secrets(text: str) -> str:
    """The URL of a database or object as it may be shown and kept; any other text as it is.

    Examples
    --------
    >>> without_secrets("mongodb://me:secret@host/lab?tlsCertificateKeyFilePassword=secret&w=1")
    'mongodb://me@host/lab?w=1'
    """
    if not is_database_url(text):
        return shown(text)
    bare = re.sub(r"^([\w+.-]+://[^:/@]*):[^@]*@", r"\1@", text)
    return re.sub(r"(?i)([?&])[^&=]*pass[^&=]*=[^&]*&?", r"\1", bare).rstrip("?&")


def database_source(
    url: str, *, query: str | None, table: str | None, key: str | None, image: str | None, root: str | None,
    axes: str | None,
) -> Source:
    """A `SQLSource` or, with ``mongodb://host/database``, a `MongoSource`.

    In MongoDB `table` is the collection and `query` its filter as JSON; without `image`, `table` is a GridFS bucket.

    Raises
    ------
    UsageError
        If the URL names no database, or MongoDB's query is no JSON object.
    MissingExtraError
        If the driver is not installed.
    """
    if is_sql_url(url):
        from patchloom.images.sources.sql import SQLSource

        return SQLSource(url, query, table=table, key=key, image=image, root=root, axes=axes)
    from patchloom.images.sources.mongo import MongoSource

    database = unquote(urlsplit(url).path.strip("/"))
    if not database or table is None:
        raise UsageError("MongoDB: which database and collection?", "mongodb://host/database with --table collection")
    return MongoSource(url, database, table, query=_filter(query), key=key or "_id", image=image, gridfs=image is None,
                       root=root, axes=axes)


def _filter(query: str | None) -> dict[str, Any] | None:
    if query is None:
        return None
    try:
        found = json.loads(query)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError("query: MongoDB takes a filter as a JSON object", "--query '{\"tissue\": \"lung\"}'")
    return found
