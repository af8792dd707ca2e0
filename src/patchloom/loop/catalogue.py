"""Images of a source by number: any of a million is found at once, and little is kept of each."""

from __future__ import annotations

import itertools
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, overload

import numpy as np

from patchloom.errors import SourceError
from patchloom.images.array import ArrayImage
from patchloom.images.image import Image
from patchloom.images.source import Source, as_source
from patchloom.images.sources.entry import Entry, OpenFile, absolute, image_name
from patchloom.images.sources.listed import MappingSource

__all__ = ["Catalogue", "Names", "catalogue_of"]

Shape = tuple[int, ...]
NOT_PLAIN = ("//", "/./", "/../", "\0")
"""Found in names, joined by slashes, of which one is not the plain form of itself."""


class Catalogue(Protocol):
    """Images by number, in the source's order; it can be sent to another process."""

    names: Sequence[str]

    def open(self, i: int) -> Image:
        """Open image `i`; raises what `open_image` raises."""

    def shapes(self) -> Iterator[Shape | None]:
        """Shape of each image along its axes, where that is known without opening it."""


def catalogue_of(source: Any, axes: str | None) -> Catalogue:
    """Enumerate a source.

    Parameters
    ----------
    source, axes
        As for `as_source`.

    Raises
    ------
    SourceError
        If there are no images, or two of one name.
    """
    found: Source = as_source(source, axes=axes)
    if isinstance(found, MappingSource) and found.images:
        return _MappedImages(found.images, found.axes)
    return _ListedImages(found)


class Names(Sequence[str]):
    """Many texts in little memory: their bytes, one after the other."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._stops = array("q", [0])

    def append(self, text: str) -> None:
        """Add one."""
        self._bytes += text.encode("utf-8", "surrogateescape")
        self._stops.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._stops) - 1

    @overload
    def __getitem__(self, i: int) -> str: ...

    @overload
    def __getitem__(self, i: slice) -> list[str]: ...

    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"no name {i} of {len(self)}")
        i %= len(self)
        return self._bytes[self._stops[i] : self._stops[i + 1]].decode("utf-8", "surrogateescape")


class _MappedImages:
    """A user's mapping of names to arrays or paths; nothing is copied."""

    def __init__(self, images: Mapping[Any, Any], axes: str | None) -> None:
        self._images, self._axes = images, axes
        self._keys = list(images)
        self.names: Sequence[str] = _plain(self._keys)

    def open(self, i: int) -> Image:
        value = self._images[self._keys[i]]
        if isinstance(value, (str, os.PathLike)):
            return OpenFile(absolute(os.fsdecode(value)), self._axes)()
        return ArrayImage(value, self._axes, self.names[i])

    def shapes(self) -> Iterator[Shape | None]:
        return (getattr(value, "shape", None) for value in self._images.values())


class _ListedImages:
    """What a source enumerates: files are kept as a folder and a name, anything else as the source's entry."""

    def __init__(self, source: Source) -> None:
        names = Names()
        hashes, folders = array("q"), array("l")
        known: dict[tuple[str, str | None], int] = {}
        self._others: dict[int, Entry] = {}
        for i, entry in enumerate(source):
            names.append(entry.name)
            hashes.append(hash(entry.name))
            opener = entry.open
            if isinstance(opener, OpenFile) and opener.path.endswith(entry.name):
                folder = opener.path.removesuffix(entry.name), opener.axes
                folders.append(known.setdefault(folder, len(known)))
            else:
                self._others[i] = entry
                folders.append(-1)
        if not len(names):
            raise SourceError("the source holds no images", "give a folder, a file, a glob or a manifest of images")
        _check_unique(names, hashes)
        self.names: Sequence[str] = names
        self._folder_of, self._folders = folders, list(known)

    def open(self, i: int) -> Image:
        if i in self._others:
            return self._others[i].open()
        folder, axes = self._folders[self._folder_of[i]]
        return OpenFile(folder + self.names[i], axes)()

    def shapes(self) -> Iterator[Shape | None]:
        return itertools.repeat(None, len(self.names))


def _plain(keys: list[Any]) -> list[str]:
    """Names of images out of a mapping's keys; the keys themselves where they are plain already."""
    if all(type(key) is str for key in keys):
        joined = f"/{'/'.join(keys)}/"
        if not any(text in joined for text in NOT_PLAIN) and joined.isprintable():
            return keys
    names = [image_name(str(key)) for key in keys]
    _check_unique(names, array("q", map(hash, names)))
    return names


def _check_unique(names: Sequence[str], hashes: array[int]) -> None:
    """Compare the names only where two have the same hash: a set of a million names takes more memory than they do."""
    order = np.argsort(values := np.asarray(hashes), kind="stable")
    same = np.flatnonzero(values[order][1:] == values[order][:-1])
    for here in same:
        first, second = names[int(order[here])], names[int(order[here + 1])]
        if first == second:
            raise SourceError(f"two images are called {first!r}", "give each a name of its own")
