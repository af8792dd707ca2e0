"""Where images come from: whatever a user gives becomes a `Source`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from patchloom.errors import SourceError, SourceNotFoundError, UsageError
from patchloom.images.remote import unreadable
from patchloom.images.sources.entry import Entry, Source, absolute, is_zarr
from patchloom.images.sources.folder import FolderSource, GlobSource, has_magic
from patchloom.images.sources.listed import FileSource, ListSource, MappingSource
from patchloom.images.sources.manifest import SUFFIXES, ManifestSource
from patchloom.images.sources.urls import database_source, is_database_url
from patchloom.objects import ObjectPath, as_path

__all__ = ["DATABASE", "Entry", "Source", "as_source", "from_spec"]

DATABASE = ("query", "table", "key", "image", "root")
"""What says which rows of a database are images."""


def _sql(**spec: Any) -> Source:
    from patchloom.images.sources.sql import SQLSource

    return SQLSource(**spec)


def _mongo(**spec: Any) -> Source:
    from patchloom.images.sources.mongo import MongoSource

    return MongoSource(**spec)


KINDS: dict[str, Callable[..., Source]] = {
    "file": FileSource, "folder": FolderSource, "glob": GlobSource, "list": ListSource, "manifest": ManifestSource,
    "mapping": MappingSource, "sql": _sql, "mongo": _mongo,
}  # fmt: skip


def as_source(source: Any, *, axes: str | None = None, **rows: str | None) -> Source:
    """Source out of whatever a user gives. Nothing is enumerated yet.

    Parameters
    ----------
    source
        Path of a file or folder (recursive), pattern (``slides/**/*.svs``), list of paths, manifest (``.csv``,
        ``.parquet``), URL of a database, mapping of names to arrays or paths, one array, or a `Source`.
    axes
        Names of the axes, letters out of ``STCZYX``, where files and arrays do not say.
    **rows
        With the URL of a database: `query`, `table`, `key`, `image` and `root` of `SQLSource`; see `database_source`.

    Raises
    ------
    UsageError
        If `rows` are given and the source is no URL of a database.
    SourceNotFoundError
        If there is no such path.
    SourceError
        If it is nothing of the kind. That a folder or pattern gives no image shows when it is enumerated.
    """
    if isinstance(source, str) and is_database_url(source):
        return database_source(source, axes=axes, **{name: rows.get(name) for name in DATABASE})
    given = next((name for name, value in rows.items() if value is not None), None)
    if given is not None and not (isinstance(source, Source) and hasattr(source, "fetch")):
        raise UsageError(f"{given} is for databases", "give a URL such as sqlite:///lab.db as the source")
    if isinstance(source, Mapping):
        return MappingSource(source, axes)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(os.fsdecode(source), axes)
    if hasattr(source, "shape") and hasattr(source, "dtype"):
        return MappingSource({"array": source}, axes)
    if isinstance(source, Source):
        return source
    if isinstance(source, Iterable) and not isinstance(source, bytes):
        items = list(source)
        if all(isinstance(item, (str, os.PathLike)) for item in items):
            return ListSource([absolute(os.fsdecode(item)) for item in items], axes)
        raise SourceError("a list of images that are not paths", 'give arrays names: {"first": array, …}')
    raise SourceError(f"a {type(source).__name__} is no source of images",
                      "give a path, a pattern, a list of paths, a manifest or a mapping of names to arrays")


def from_spec(spec: Mapping[str, Any]) -> Source:
    """Source out of what `Source.spec` gave.

    Raises
    ------
    SourceError
        If the description is of a kind that is not known.
    """
    make = KINDS.get(str(spec.get("kind")))
    if make is None:
        raise SourceError(f"a source of kind {spec.get('kind')!r} is not known", "give the source again")
    return make(**{name: value for name, value in spec.items() if name != "kind"})


def _from_path(text: str, axes: str | None) -> Source:
    path = as_path(absolute(text))
    if isinstance(path, ObjectPath):
        return _from_url(path, axes)
    if path.is_dir():
        return FileSource(str(path), axes) if is_zarr(path) else FolderSource(str(path), axes)
    if path.exists():
        return (ManifestSource if path.suffix.lower() in SUFFIXES else FileSource)(str(path), axes)
    if has_magic(text):
        return GlobSource(str(path), axes)
    raise SourceNotFoundError(f"{text}: there is no such file or folder",
                              "give a file, a folder, a pattern in quotes, or a manifest")


def _from_url(path: ObjectPath, axes: str | None) -> Source:
    url, suffix = path.url, path.suffix.lower()
    if suffix in SUFFIXES:
        return ManifestSource(url, axes)
    if path.is_on_web or (suffix == ".zarr" and not has_magic(url)):
        return FileSource(url, axes)
    try:
        if path.name and path.is_file():
            return FileSource(url, axes)
        if has_magic(url):
            return GlobSource(url, axes)
        if path.is_dir():
            return FileSource(url, axes) if is_zarr(path) else FolderSource(url, axes)
    except OSError as error:
        raise SourceError(str(error), unreadable(error).hint) from None
    raise SourceNotFoundError(f"{path}: there is no such object, and none below it",
                              "give an object, a prefix, a pattern in quotes, or a manifest")
