"""Images that are named one by one: a file, a list of files, a mapping of names to files or arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from patchloom.connections import is_object_url, shown, took_apart
from patchloom.errors import SourceError
from patchloom.images.array import ArrayImage
from patchloom.images.sources.entry import Entry, absolute, file_entries, file_entry, image_name, is_zarr
from patchloom.images.sources.urls import given, kept
from patchloom.objects import as_path

__all__ = ["FileSource", "ListSource", "MappingSource"]


@dataclass(frozen=True)
class FileSource:
    """One file, object or Zarr folder, named by its own name.

    Parameters
    ----------
    path
        Absolute, or a URL.
    axes
        Names of the axes where the file does not say.
    """

    path: str
    axes: str | None = None

    def __iter__(self) -> Iterator[Entry]:
        """Enumerate; see `Source`."""
        path = as_path(given(self.path))
        yield file_entry(path.name, path, self.axes)

    def spec(self) -> Mapping[str, Any]:
        """See `Source.spec`."""
        return {"kind": "file", "path": kept(self.path), "axes": self.axes}


@dataclass(frozen=True)
class ListSource:
    """Files and URLs in the order given, named by their path below the folder that they have in common.

    A file that is not there costs one image, not the run.

    Parameters
    ----------
    paths
        Absolute, each once.
    axes
        Names of the axes where the files do not say.

    Raises
    ------
    SourceError
        If a path is there twice, or is a folder of images.
    """

    paths: Sequence[str]
    axes: str | None = None

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for path in map(shown, self.paths):
            if path in seen:
                raise SourceError(f"{path}: is in the list twice", "give each image once, or a name of its own")
            if os.path.isdir(path) and not is_zarr(Path(path)):
                raise SourceError(
                    f"{path}: is a folder in a list of images", "give a folder alone, or a pattern, or files"
                )
            seen.add(path)

    @cached_property
    def _folder(self) -> str:
        return os.path.commonpath([os.path.dirname(_place(path)) for path in self.paths])

    def __iter__(self) -> Iterator[Entry]:
        """Enumerate; see `Source`."""
        if not self.paths:
            raise SourceError("the list of images is empty", "give at least one image")
        names = (Path(_place(path)).relative_to(self._folder).as_posix() for path in self.paths)
        paths = (as_path(given(path)) for path in self.paths)
        yield from file_entries(zip(names, paths, strict=True), self.axes)

    def spec(self) -> Mapping[str, Any]:
        """See `Source.spec`."""
        return {"kind": "list", "paths": list(map(kept, self.paths)), "axes": self.axes}


class MappingSource:
    """Names, each with an array or the path of a file, in the mapping's order.

    Parameters
    ----------
    images
        Names, which may be any text or number, and arrays or paths.
    axes
        Names of the axes of all images; guessed for arrays where it is None.
    """

    def __init__(self, images: Mapping[Any, Any], axes: str | None = None) -> None:
        self.images = images
        self.axes = axes

    def __iter__(self) -> Iterator[Entry]:
        """Enumerate; see `Source`."""
        if not self.images:
            raise SourceError("the mapping of images is empty", "give at least one image")
        seen: set[str] = set()
        for key, value in self.images.items():
            name = image_name(str(key))
            if name in seen:
                raise SourceError(f"two images are called {name!r}", "give each a name of its own")
            seen.add(name)
            if isinstance(value, (str, os.PathLike)):
                yield file_entry(name, as_path(given(absolute(os.fsdecode(value)))), self.axes)
            else:
                yield Entry(name, partial(ArrayImage, value, self.axes, name), _array_identity(value))

    def spec(self) -> Mapping[str, Any] | None:
        """Names and absolute paths; None where there are arrays. See `Source.spec`."""
        paths = {}
        for key, value in self.images.items():
            if not isinstance(value, (str, os.PathLike)):
                return None
            paths[str(key)] = kept(absolute(os.fsdecode(value)))
        return {"kind": "mapping", "images": paths, "axes": self.axes}


def _place(path: str) -> str:
    """Where names come from: the path, or a URL without its scheme as if it were one."""
    root, key = took_apart(path) if is_object_url(path) else ("", path)
    return f"/{shown(root).partition('://')[2]}/{key}" if root else path


def _array_identity(array: Any) -> str:
    """Shape, type and, for arrays in memory, a checksum of the content; what is mapped or lazy is not read for it."""
    shape = "x".join(map(str, getattr(array, "shape", ())))
    checksum = ""
    if type(array) is np.ndarray and array.ndim:
        crc = 0
        for part in array:  # a copy of one part at a time
            crc = google_crc32c.extend(crc, part.tobytes())
        checksum = f":{crc:08x}"
    return f"array:{shape}:{getattr(array, 'dtype', '')}{checksum}"
