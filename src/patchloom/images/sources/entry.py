"""What a source gives: named images, opened when they are needed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Protocol, runtime_checkable

from patchloom.connections import is_object_url
from patchloom.errors import SourceError
from patchloom.images.image import Image
from patchloom.images.registry import open_image
from patchloom.images.remote import submit
from patchloom.objects import AnyPath, ObjectPath

__all__ = ["Entry", "OpenFile", "Source", "absolute", "file_entries", "file_entry", "image_name", "is_zarr",
           "open_ahead"]

OPENED = 16
"""Objects that are opened before their turn, at most."""
AT_ONCE = 64
"""Objects that are asked for before the first one has answered."""
ZARR_MARKERS = ("zarr.json", ".zarray", ".zgroup", ".zattrs")


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a source.

    Parameters
    ----------
    name
        Plain relative path with ``/``, never with ``..``; unique in its source.
    open
        Opens the image; raises what `open_image` raises. Sources of ours give what can be pickled.
    identity
        Changes when the image changes: ``size:mtime_ns`` of a file (of the metadata of a Zarr folder), ETag of an
        object, shape, type and checksum of an array in memory, ``missing`` where there is no file.
    """

    name: str
    open: Callable[[], Image]
    identity: str


@dataclass(frozen=True, slots=True)
class OpenFile:
    """Opens a file or Zarr folder, also in another process.

    Parameters
    ----------
    path
        Absolute path or URL; if nothing is there, opening says so.
    axes
        Names that the user gives.
    """

    path: str = field(repr=False)  # a URL may hold a password
    axes: str | None = None

    def __call__(self) -> Image:
        """Open it; see `open_image`."""
        return open_image(self.path, axes=self.axes)


@runtime_checkable
class Source(Protocol):
    """Images in a fixed order, enumerated lazily; nothing stays open and no pixel is kept."""

    def __iter__(self) -> Iterator[Entry]:
        """Enumerate, the same each time while the files stay the same.

        Raises
        ------
        SourceError
            If there are no images, or two of one name.
        """

    def spec(self) -> Mapping[str, Any] | None:
        """What `from_spec` rebuilds the source from, as JSON can hold it; None where that is not possible."""


@dataclass(frozen=True, slots=True)
class _Opening:
    """Opens an image that somebody began to open; again where that was taken."""

    opens: OpenFile
    begun: list[Future[Image]] = field(compare=False)

    def __call__(self) -> Image:
        try:
            begun = self.begun.pop()
        except IndexError:
            return self.opens()
        return begun.result()


def open_ahead(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The same entries; those that are objects are opened by other threads, some of them before it is their turn.

    Give it only entries that are going to be opened.
    """
    waiting: deque[Entry] = deque()
    for entry in entries:
        if isinstance(entry.open, OpenFile) and is_object_url(entry.open.path):
            begun = submit(entry.open)
            waiting.append(Entry(entry.name, _Opening(entry.open, [begun]), entry.identity))
            if len(waiting) > OPENED:
                yield waiting.popleft()
        else:
            while waiting:
                yield waiting.popleft()
            yield entry
    yield from waiting


def is_zarr(folder: AnyPath) -> bool:
    """Whether a folder is one image, whose files are not images of their own."""
    return folder.name.lower().endswith(".zarr") or any((folder / marker).is_file() for marker in ZARR_MARKERS)


def image_name(text: str) -> str:
    """Plain form of a name that a file or database gave.

    Raises
    ------
    SourceError
        If the name would lead out of a folder, or is empty.

    Examples
    --------
    >>> image_name("./a//b.tif")
    'a/b.tif'
    """
    # Names of files that are no text cannot be written as JSON or into a table.
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    path = PurePosixPath(text)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in text:
        raise SourceError(f"{text!r} cannot be the name of an image", "give a relative path without ..")
    return str(path)


def absolute(text: str) -> str:
    """A path that does not depend on where one is; a URL as it is."""
    return text if is_object_url(text) else os.path.abspath(os.path.expanduser(text))


def file_entry(name: str, path: AnyPath, axes: str | None, found: Any = None) -> Entry:
    """Entry of a file, object or Zarr folder.

    Parameters
    ----------
    name
        Made plain by `image_name`.
    path, axes
        As for `OpenFile`.
    found
        What `stat` says of the file, where it is known already.
    """
    url = path.url if isinstance(path, ObjectPath) else str(path)
    return Entry(image_name(name), OpenFile(url, axes), _identity(path, found))


def file_entries(named: Iterable[tuple[str, AnyPath]], axes: str | None) -> Iterator[Entry]:
    """Entries of files by name, in their order; of those that are far away several are asked for at a time."""
    waiting: deque[Future[Entry]] = deque()
    for name, path in named:
        if isinstance(path, ObjectPath):
            waiting.append(submit(file_entry, name, path, axes))
            if len(waiting) > AT_ONCE:
                yield waiting.popleft().result()
        else:
            yield from _drained(waiting)
            yield file_entry(name, path, axes)
    yield from _drained(waiting)


def _drained(waiting: deque[Future[Entry]]) -> Iterator[Entry]:
    while waiting:
        yield waiting.popleft().result()


def _identity(path: AnyPath, found: Any) -> str:
    if isinstance(path, ObjectPath):
        return _version(path, found)
    try:
        if found is None:
            found = path.stat()
        if path.is_dir():
            stats = [(path / marker).stat() for marker in ZARR_MARKERS if (path / marker).is_file()]
            found = max(stats, key=lambda one: one.st_mtime_ns, default=found)
    except OSError:
        return "missing"
    return f"{found.st_size}:{found.st_mtime_ns}"


def _version(path: ObjectPath, found: Any) -> str:
    """Of an object, or of the metadata of a Zarr image."""
    places = [path / marker for marker in ZARR_MARKERS] if path.name.lower().endswith(".zarr") else [path]
    stats = [found or _asked(place) for place in places]
    return "+".join(one.e_tag or f"{one.st_size}:{one.st_mtime_ns}" for one in stats if one is not None) or "missing"


def _asked(path: ObjectPath) -> Any:
    try:
        return path.stat()
    except OSError:
        return None  # opening it says why
