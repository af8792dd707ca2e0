"""Images whose encoded bytes a database holds: opened by key, and fetched ahead of whoever opens them, many at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from patchloom.errors import ImageError, UnreadableImageError
from patchloom.images.encoded import open_bytes
from patchloom.images.image import Image
from patchloom.images.sources.entry import Entry, open_ahead

__all__ = ["Blobs", "OpenStored", "Refused", "fetch_ahead", "row_name"]

ROWS = 64
"""Images that are fetched at once, at most."""
BYTES = 4 << 20
"""Bytes that are fetched at once, at most; a larger image is fetched alone, when it is opened."""
GROUPS = 3
"""Groups that are fetched while another one is used."""
UNKNOWN = BYTES // 8
"""Bytes that an image is taken for where the database does not say."""


class Blobs(Protocol):
    """Where encoded images are kept by key."""

    def fetch(self, keys: Sequence[Any]) -> Mapping[Any, Any]:
        """The images of some keys; those that are gone are left out, None stands for NULL, an ImageError for damage.

        Raises
        ------
        SourceError
            If the database cannot be reached.
        """


@dataclass(frozen=True, slots=True)
class OpenStored:
    """Opens an image that a database holds, also in another process.

    Parameters
    ----------
    blobs
        The database.
    key
        Of the row, as the database has it.
    name
        For messages.
    size
        Bytes of the encoded image, where the database says so.
    axes
        Names of the axes that the user gives.
    """

    blobs: Blobs
    key: Any
    name: str
    size: int | None = None
    axes: str | None = None

    def __call__(self) -> Image:
        """Fetch it and open it; see `open_bytes`."""
        return self.opened(self.blobs.fetch([self.key]))

    def opened(self, fetched: Mapping[Any, Any]) -> Image:
        """Open it out of what was fetched.

        Raises
        ------
        ImageError
            If the row is gone, or holds nothing or no image.
        """
        if self.key not in fetched:
            raise UnreadableImageError(f"{self.name}: the row is gone", "resume the run to see the rows that are there")
        data = fetched[self.key]
        if isinstance(data, ImageError):
            raise data
        if data is None:
            raise UnreadableImageError(f"{self.name}: holds no image (NULL)", "leave the row out of the query")
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise UnreadableImageError(f"{self.name}: a {type(data).__name__} is no encoded image",
                                       "store encoded bytes, or a path as text")
        return open_bytes(bytes(data), axes=self.axes, name=self.name)


@dataclass(frozen=True, slots=True)
class Refused:
    """Stands for an image that cannot be opened; says why when it is opened."""

    message: str
    hint: str

    def __call__(self) -> Image:
        """Raise UnreadableImageError."""
        raise UnreadableImageError(self.message, self.hint)


@dataclass(frozen=True, slots=True)
class _Fetched:
    """Opens an image out of bytes that were asked for before."""

    image: OpenStored
    group: Future[Mapping[Any, Any]]

    def __call__(self) -> Image:
        return self.image.opened(self.group.result())


def row_name(key: Any) -> str:
    r"""Name of the image of a row: its key as text, whatever that is; bytes are written as hexadecimal digits.

    Examples
    --------
    >>> row_name(17), row_name("/data/../a.tif"), row_name(b"\x01\xff")
    ('17', '/data/../a.tif', '01ff')
    """
    return bytes(key).hex() if isinstance(key, (bytes, memoryview)) else str(key)


def fetch_ahead(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The same entries, whose bytes are fetched by other threads some groups before they are opened.

    Give it only entries that are going to be opened. At most `GROUPS` + 1 groups of `BYTES` are held. Objects are
    opened ahead, too (`open_ahead`); entries of files are passed on as they are.
    """
    with ThreadPoolExecutor(GROUPS, "patchloom-fetch") as pool:
        waiting: deque[list[Entry]] = deque()
        for group in _groups(open_ahead(entries)):
            waiting.append(_submitted(group, pool))
            if len(waiting) > GROUPS:
                yield from waiting.popleft()
        for given in waiting:
            yield from given


def _submitted(group: list[Entry], pool: ThreadPoolExecutor) -> list[Entry]:
    images = [entry.open for entry in group if isinstance(entry.open, OpenStored)]
    if not images or not _is_fetched(group[0]):
        return group
    future = pool.submit(images[0].blobs.fetch, [image.key for image in images])
    return [Entry(entry.name, _Fetched(image, future), entry.identity)
            for entry, image in zip(group, images, strict=True)]


def _is_fetched(entry: Entry) -> bool:
    return isinstance(entry.open, OpenStored) and (entry.open.size or 0) <= BYTES


def _groups(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries that follow each other and are fetched together; all others alone."""
    group: list[Entry] = []
    size = 0
    for entry in entries:
        opens = entry.open
        if not isinstance(opens, OpenStored) or not _is_fetched(entry):
            if group:
                yield group
            group, size = [], 0
            yield [entry]
            continue
        needed = UNKNOWN if opens.size is None else opens.size
        first = group[0].open if group else opens
        together = isinstance(first, OpenStored) and first.blobs is opens.blobs
        if group and (len(group) >= ROWS or size + needed > BYTES or not together):
            yield group
            group, size = [], 0
        group.append(entry)
        size += needed
    if group:
        yield group


