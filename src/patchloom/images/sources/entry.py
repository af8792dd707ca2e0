"""What a source gives: named images, opened when they are needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

from patchloom.errors import SourceError
from patchloom.images.image import Image
from patchloom.images.registry import open_image

__all__ = ["Entry", "OpenFile", "Source", "file_entry", "image_name", "is_zarr"]

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
        Changes when the image changes: ``size:mtime_ns`` of a file (of the metadata of a Zarr folder), shape, type and
        checksum of an array in memory, ``missing`` where there is no file.
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
        Absolute path; if nothing is there, opening says so.
    axes
        Names that the user gives.
    """

    path: str
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


def is_zarr(folder: Path) -> bool:
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


def file_entry(name: str, path: Path, axes: str | None, found: os.stat_result | None = None) -> Entry:
    """Entry of a file or Zarr folder.

    Parameters
    ----------
    name
        Made plain by `image_name`.
    path, axes
        As for `OpenFile`.
    found
        Of the file, where it is known already.
    """
    return Entry(image_name(name), OpenFile(str(path), axes), _identity(path, found))


def _identity(path: Path, found: os.stat_result | None) -> str:
    try:
        if found is None:
            found = path.stat()
        if path.is_dir():
            stats = [(path / marker).stat() for marker in ZARR_MARKERS if (path / marker).is_file()]
            found = max(stats, key=lambda one: one.st_mtime_ns, default=found)
    except OSError:
        return "missing"
    return f"{found.st_size}:{found.st_mtime_ns}"
