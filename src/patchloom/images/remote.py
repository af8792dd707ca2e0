"""Objects that are read in ranges: little at a time, neighbours together, several requests at once."""

from __future__ import annotations

import functools
import io
import os
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, ParamSpec, TypeVar

from patchloom.errors import ImageTooLargeError, UnreadableImageError
from patchloom.images.files import Encoded, File, Range
from patchloom.objects import ObjectPath, RangeFile

__all__ = ["AHEAD", "Remote", "open_object", "submit", "unreadable"]

P = ParamSpec("P")
T = TypeVar("T")

BLOCK = 16 << 10
"""Bytes in which headers are read, and kept."""
HEAD = 4 * BLOCK
"""Bytes that are read when an object is opened; one that has no more is in memory then."""
BLOCKS = 256
"""Blocks that are kept."""
GAP = 32 << 10
"""Bytes between two ranges that are rather read, too, than asked for apart: they take as long as a request."""
LARGEST = 4 << 20
"""Bytes of one request, at most, where several are made of one range."""
AHEAD = 64 << 20
"""Bytes of an object that are read before they are wanted, at most."""
REQUESTS = 16
"""Requests at a time."""
DOWNLOADED = 4 << 30
"""Bytes of an object that are copied onto a disk here where the server gives no ranges."""


def open_object(path: ObjectPath) -> Encoded | Remote:
    """Ask for the beginning of an object: one request, and the only one for small ones.

    Raises
    ------
    UnreadableImageError
        If it is not there, or cannot be read.
    ImageTooLargeError
        If the server gives no ranges and there are too many bytes to copy them all.
    """
    try:
        head, status = path.read_head(HEAD)
        tag = status.e_tag if status.e_tag and not status.e_tag.startswith("W/") else None
    except io.UnsupportedOperation:
        return _download(path)
    except OSError as error:
        raise unreadable(error) from None
    if len(head) == status.st_size:
        return Encoded(head, str(path))
    return Remote(path, head, status.st_size, tag)


def unreadable(error: OSError) -> UnreadableImageError:
    """What a path of objects raised, as what is wrong with the image."""
    hint = ""
    if isinstance(error, FileNotFoundError):
        hint = "correct the URL"
    elif isinstance(error, PermissionError):
        hint = "give access by the environment (AWS_ACCESS_KEY_ID, …; AWS_SKIP_SIGNATURE=true if all may read)"
    elif isinstance(error, FileExistsError):
        return UnreadableImageError(f"{str(error).partition(': ')[0]}: was changed while it was read", "resume the run")
    elif isinstance(error, ConnectionError):
        hint = "correct the host (of object storage: AWS_ENDPOINT_URL), or resume when it is there"
    return UnreadableImageError(str(error), hint)


def _download(path: ObjectPath) -> Encoded | Remote:
    """Copy an object, because the server gives no ranges of it; the copy is gone when nobody reads it any more."""
    try:
        size = path.stat().st_size
        if size > DOWNLOADED:
            raise ImageTooLargeError(
                f"{path}: has {size / 1e9:,.0f} GB, and its server gives no parts of files",
                "copy it to this machine or to object storage")
        if size <= HEAD:
            return Encoded(path.read_bytes(), str(path))
        copy = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 -- it lives as long as the image
        remote = Remote(path, b"", size, None, copy)
        for piece in path.pieces(LARGEST):
            copy.write(piece)
    except OSError as error:
        raise unreadable(error) from None
    return remote


class Remote(File):
    """An object that was opened: what readers use of a `pathlib.Path`, and its bytes by range.

    Parameters
    ----------
    path
        Where it is.
    head
        Its first bytes.
    size
        Of all.
    tag
        Its ETag: bytes of another version are refused.
    copy
        All of its bytes, where the server gives no ranges.
    """

    def __init__(self, path: ObjectPath, head: bytes, size: int, tag: str | None, copy: Any = None) -> None:
        self.path = path
        self.name, self.suffix = path.name, path.suffix
        self.is_far = copy is None
        self._size, self._tag, self._copy = size, tag, copy
        self._number = 0
        if copy is not None:
            weakref.finalize(self, copy.close)
        self._lock = threading.Lock()
        self._blocks = OrderedDict((i, head[i * BLOCK :][:BLOCK]) for i in range(len(head) // BLOCK))
        self._ahead: dict[int, _Piece] = {}
        self._ahead_bytes = 0

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self._size

    def stat(self) -> os.stat_result:
        """Only the size is anything but zero."""
        return os.stat_result((0, 0, 0, 0, 0, 0, self._size, 0, 0, 0))

    def is_dir(self) -> bool:
        """No."""
        return False

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """As a file, for its headers."""
        return io.BufferedReader(RangeFile(self.read_header, self.size), BLOCK)

    def headers(self, holes: Iterable[Range] = ()) -> Any:
        """See `File.headers`."""
        return io.BufferedReader(RangeFile(functools.partial(self._read_around, tuple(holes)), self.size), BLOCK)

    def ranges(self) -> File:
        """See `Ranged`."""
        return self

    def whole(self) -> BinaryIO:
        """See `Ranged`."""
        starts = range(0, self._size, LARGEST)
        ranges = [(start, min(LARGEST, self._size - start)) for start in starts]
        self.fetch(ranges)
        return io.BytesIO(b"".join(self.read(*one) for one in ranges))

    def read_header(self, offset: int, count: int) -> bytes:
        """See `File.read_header`."""
        count = min(count, self._size - offset)
        if count <= 0:
            return b""
        first, last = offset // BLOCK, (offset + count - 1) // BLOCK
        with self._lock:
            found = {i: self._blocks[i] for i in range(first, last + 1) if i in self._blocks}
        missing = [i for i in range(first, last + 1) if i not in found]
        if missing:
            found |= self._load(missing[0], missing[-1])
        self._keep(found)
        data = b"".join(found[i] for i in range(first, last + 1))
        return data[offset - first * BLOCK :][:count]

    def _read_around(self, holes: tuple[Range, ...], offset: int, count: int) -> bytes:
        """As `read_header`, with zeros in holes; up to where one begins or ends."""
        for start, length in holes:
            if start <= offset < start + length:
                return bytes(min(count, start + length - offset))
            if offset < start:
                count = min(count, start - offset)
        return self.read_header(offset, count)

    def load_headers(self, ranges: Iterable[Range]) -> None:
        """See `File.load_headers`."""
        wanted = {i for start, count in ranges for i in range(start // BLOCK, (start + count - 1) // BLOCK + 1)}
        with self._lock:
            missing = wanted - self._blocks.keys()
        spans = list(_coalesced(sorted((i * BLOCK, BLOCK) for i in missing)))
        loaded = [submit(self._load, start // BLOCK, (stop - 1) // BLOCK) for start, stop, _ in spans]
        for each in loaded:
            self._keep(each.result())

    def fetch(self, ranges: Iterable[Range]) -> None:
        """See `File.fetch`: what exceeds `AHEAD` is read when it is wanted."""
        if not self.is_far:
            return
        with self._lock:
            new = sorted({(start, count) for start, count in ranges if count and start not in self._ahead})
            for start, stop, members in _coalesced(new):
                if self._ahead_bytes + stop - start > AHEAD:
                    return
                piece = _Piece(submit(self._range, start, stop - start), start, stop, len(members))
                self._ahead_bytes += stop - start
                self._ahead |= dict.fromkeys(members, piece)

    def close(self) -> None:
        """Forget what was read."""
        with self._lock:
            self._number = -1
            self._blocks.clear()
            self._ahead.clear()

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<Remote {self.path}: {self._size} bytes>"

    def _read(self, number: int, offset: int, count: int) -> bytes:
        with self._lock:
            piece = self._ahead.pop(offset, None)
            if piece is not None:
                piece.left -= 1
                self._ahead_bytes -= 0 if piece.left else piece.stop - piece.start
        if piece is None or offset + count > piece.stop:
            return self._range(offset, count)
        return piece.data.result()[offset - piece.start :][:count]

    def _range(self, offset: int, count: int) -> bytes:
        count = min(count, self._size - offset)
        if self._copy is not None:
            return os.pread(self._copy.fileno(), count, offset)
        return self.path.read_range(offset, count, self._tag)

    def _load(self, first: int, last: int) -> dict[int, bytes]:
        try:
            data = self._range(first * BLOCK, (last + 1 - first) * BLOCK)
        except OSError as error:
            raise unreadable(error) from None
        return {first + i: data[i * BLOCK :][:BLOCK] for i in range(last + 1 - first)}

    def _keep(self, blocks: dict[int, bytes]) -> None:
        with self._lock:
            for i, block in blocks.items():
                self._blocks[i] = block
                self._blocks.move_to_end(i)
            while len(self._blocks) > BLOCKS:
                self._blocks.popitem(last=False)

    def _failed(self, offset: int, error: Exception) -> UnreadableImageError:
        return unreadable(error) if isinstance(error, OSError) else super()._failed(offset, error)


@dataclass
class _Piece:
    """Bytes ``[start, stop)`` of an object that were asked for, and how many of the ranges in them are left."""

    data: Future[bytes]
    start: int
    stop: int
    left: int


def _coalesced(ranges: list[Range]) -> Iterator[tuple[int, int, list[int]]]:
    """Start, stop and members of the requests that ranges, which are sorted, are read by."""
    start = stop = 0
    members: list[int] = []
    for offset, count in ranges:
        if members and (offset > stop + GAP or max(stop, offset + count) - start > LARGEST):
            yield start, stop, members
            members = []
        if not members:
            start = stop = offset
        stop = max(stop, offset + count)
        members.append(offset)
    if members:
        yield start, stop, members


def submit(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Do what waits for a server in a thread of this process: `REQUESTS` at a time."""
    return _threads(os.getpid()).submit(work, *args, **kwargs)


@functools.lru_cache(maxsize=1)
def _threads(process: int) -> ThreadPoolExecutor:
    """Those of another process are its own."""
    return ThreadPoolExecutor(REQUESTS, "patchloom-ranges")
