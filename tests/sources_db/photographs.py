"""Tables of small photographs, made the same way in every database."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import sqlalchemy
from numpy.typing import NDArray
from PIL import Image

from patchloom import Region
from patchloom.images.source import Entry
from patchloom.images.sources.database import database

TABLE = "photos"


def pixels(number: int, rows: int = 24, columns: int = 32) -> NDArray[np.uint8]:
    """A smooth picture that differs from number to number."""
    y, x = np.mgrid[:rows, :columns]
    channels = [y * 3 + number, x * 2 + number * 7, y + x + number * 3]
    return (np.stack(channels, -1) % 256).astype(np.uint8)


def encoded(number: int, kind: str = "PNG", **size: int) -> bytes:
    """The same picture as a file would hold it."""
    file = io.BytesIO()
    Image.fromarray(pixels(number, **size)).save(file, kind)
    return file.getvalue()


def fill(url: str, rows: Iterable[tuple[Any, Any]], key: str = "integer primary key", image: Any = None) -> str:
    """Make a table of keys and images, afresh; returns the URL."""
    engine = sqlalchemy.create_engine(database(url).engine.url)
    blob = {"postgresql": "bytea", "mysql": "longblob", "mariadb": "longblob"}.get(engine.dialect.name, "blob")
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(f"drop table if exists {TABLE}"))
        connection.execute(sqlalchemy.text(f"create table {TABLE} (id {key}, picture {image or blob})"))
        batch = [{"id": one, "picture": data} for one, data in rows]
        if batch:
            connection.execute(sqlalchemy.text(f"insert into {TABLE} values (:id, :picture)"), batch)
    engine.dispose()
    return url


def execute(url: str, statement: str, **values: Any) -> list[Any]:
    """Run one statement in a connection of its own."""
    engine = sqlalchemy.create_engine(database(url).engine.url)
    try:
        with engine.begin() as connection:
            result = connection.execute(sqlalchemy.text(statement), values)
            return list(result) if result.returns_rows else []
    finally:
        engine.dispose()


def whole(entry: Entry) -> NDArray[Any]:
    """All pixels of an image."""
    image = entry.open()
    try:
        return image.read(Region.whole(image.info.shape))
    finally:
        image.close()
