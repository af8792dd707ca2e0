"""The images that predictions are of: where they are, and copies of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from patchloom.connections import shown
from patchloom.errors import SourceError, SourceNotFoundError, UsageError
from patchloom.export.container import Container, MemberNames
from patchloom.export.export import Predictions
from patchloom.images.source import Entry, Source
from patchloom.images.sources.entry import OpenFile
from patchloom.images.sources.stored import OpenStored
from patchloom.objects import as_path

__all__ = ["copy_original", "originals", "path_of"]

COPIED = 1 << 20
SUFFIXES: Mapping[bytes, str] = {
    b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"II*\0": ".tif", b"MM\0*": ".tif", b"II+\0": ".tif", b"MM\0+": ".tif",
    b"\x93NUMPY": ".npy", b"RIFF": ".webp", b"BM": ".bmp",
}  # fmt: skip
"""Endings of images in databases, by their first bytes."""


def originals(
    run: Predictions, image: str | None, *, needed: bool
) -> Iterator[tuple[str, Entry | None]]:
    """Images that have predictions, in the source's order, then those that the source does not have any more.

    Parameters
    ----------
    run
        The run.
    image
        Only this one; None for all.
    needed
        Whether entries are wanted whatever they take. Otherwise a source that is gone, or that has no files, is not
        gone through: the run's own names will do.

    Raises
    ------
    SourceError
        If the source cannot be enumerated, and is needed.
    """
    names: Callable[[], Iterator[str]] = run.images if image is None else lambda: iter([image])
    source = run.source
    first = None if source is None else _first(source, needed=needed)
    if source is None or first is None or not (needed or path_of(first)):
        yield from ((name, None) for name in names())
        return
    count = 0
    for entry in source:
        if entry.name in run if image is None else entry.name == image:
            count += 1
            yield entry.name, entry
    if count < (len(run) if image is None else 1):
        known = {entry.name for entry in source}
        yield from ((name, None) for name in names() if name not in known)


def path_of(entry: Entry | None) -> str | None:
    """Path or URL of an image that is a file; never with a password."""
    if entry is None or not isinstance(entry.open, OpenFile):
        return None
    return shown(entry.open.path)


def copy_original(name: str, entry: Entry | None, container: Container, places: MemberNames) -> str:
    """Copy an image into an archive, as it is, and give its name there; a Zarr folder is copied file by file.

    Raises
    ------
    UsageError
        If it is neither a file nor encoded bytes in a database.
    SourceError
        If it is not there any more.
    """
    if entry is not None and isinstance(entry.open, OpenStored):
        return _copy_stored(name, entry.open, container, places)
    if entry is None or not isinstance(entry.open, OpenFile):
        raise UsageError(f"image {name!r} is no file that could be copied", "export without --with-images")
    path, place = as_path(entry.open.path), places.of(name)
    if not path.exists():
        raise SourceNotFoundError(f"{path}: the image is not there any more", "export without --with-images")
    below: Any = path.rglob("*")
    files: list[Any] = sorted(below) if path.is_dir() else [path]
    for one in files:
        if one.is_file():
            member = f"{place}/{one.relative_to(path).as_posix()}" if one != path else place
            with one.open("rb") as file, container.member(member, compress=False) as copy:
                shutil.copyfileobj(file, copy, COPIED)
    return place


def _copy_stored(name: str, stored: OpenStored, container: Container, places: MemberNames) -> str:
    data = stored.blobs.fetch([stored.key]).get(stored.key)
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise SourceNotFoundError(f"{name}: the image is not in the database any more", "export without --with-images")
    content = bytes(data)
    suffix = next((suffix for start, suffix in SUFFIXES.items() if content.startswith(start)), "")
    place = places.of(name, "" if Path(name).suffix else suffix)
    with container.member(place, size=len(content), compress=False) as copy:
        copy.write(content)
    return place


def _first(source: Source, *, needed: bool) -> Entry | None:
    try:
        return next(iter(source), None)
    except SourceError:
        if needed:
            raise
        return None  # what was predicted can be archived without it
