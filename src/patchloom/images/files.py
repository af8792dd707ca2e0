"""Bytes of a file by range, wherever it is: on a disk here, in memory, or far away (in `remote`)."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

from patchloom.errors import UnreadableImageError
from patchloom.objects import ObjectPath

__all__ = ["Encoded", "File", "MemoryFile", "Range", "Ranged", "in_memory", "is_folder", "open_file", "open_whole"]

Range = tuple[int, int]
"""Offset and number of bytes."""


class File:
    """An open file that several threads read at once, each at its own place."""

    is_far = False
    """Whether each read is a request that takes its time."""

    def __init__(self, path: Path) -> None:
        self.path: Any = path
        self._number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._number).st_size

    def headers(self, holes: Iterable[Range] = ()) -> Any:
        """What tifffile reads the headers from; in `holes` there may be zeros, which saves reading them from afar."""
        return self.path

    def read(self, offset: int, count: int) -> bytes:
        """Read `count` bytes at `offset`.

        Raises
        ------
        UnreadableImageError
            If there are fewer, if the disk fails, or if the file was closed.
        """
        number = self._number
        if number < 0:
            raise UnreadableImageError(f"{self.path}: was closed and is read again")
        try:
            data = self._read(number, offset, count)
        except (OSError, OverflowError) as error:
            raise self._failed(offset, error) from error
        if len(data) != count:
            raise UnreadableImageError(
                f"{self.path}: truncated: {count} bytes should stand at byte {offset}, {len(data)} do",
                "copy the file again from where it came from")
        return data

    def read_header(self, offset: int, count: int) -> bytes:
        """As `read`, of few bytes whose neighbours are going to be read, too."""
        return self.read(offset, count)

    def load_headers(self, ranges: Iterable[Range]) -> None:
        """Have what `read_header` is going to be asked for, with several requests at a time where that helps."""

    def fetch(self, ranges: Iterable[Range]) -> None:
        """Begin to read what `read` is going to be asked for, where that helps."""

    def close(self) -> None:
        """Give the handle back."""
        with self._lock:
            number, self._number = self._number, -1
        if number >= 0:
            os.close(number)

    def __del__(self) -> None:
        if getattr(self, "_number", -1) >= 0:
            self.close()

    def _failed(self, offset: int, error: Exception) -> UnreadableImageError:
        return UnreadableImageError(f"{self.path}: cannot be read at byte {offset}: {error}")

    def _read(self, number: int, offset: int, count: int) -> bytes:
        if not hasattr(os, "pread"):
            with self._lock:
                os.lseek(number, offset, os.SEEK_SET)
                return os.read(number, count)
        data = os.pread(number, count, offset)
        while len(data) < count:  # beyond 2 GiB a call returns less than it was asked for
            more = os.pread(number, count - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data


class MemoryFile(File):
    """A file whose bytes are in memory already."""

    def __init__(self, path: object, data: bytes) -> None:
        self.path, self._data, self._number = path, data, 0
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Number of bytes."""
        return len(self._data)

    def headers(self, holes: Iterable[Range] = ()) -> Any:
        """See `File.headers`."""
        return io.BytesIO(self._data)

    def _read(self, number: int, offset: int, count: int) -> bytes:
        return self._data[offset : offset + count]

    def close(self) -> None:
        """Forget the bytes."""
        self._number, self._data = -1, b""


@runtime_checkable
class Ranged(Protocol):
    """What readers are given in place of a `pathlib.Path` where an image is no file of this machine."""

    def ranges(self) -> File:
        """Its bytes by range."""

    def whole(self) -> BinaryIO:
        """All of its bytes at once, as a file."""


class Encoded:
    """Bytes that a reader takes as it takes a file: what readers use of a `pathlib.Path`, and nothing is copied.

    Parameters
    ----------
    data
        One encoded image.
    name
        Stands where messages name a file.

    Examples
    --------
    >>> Encoded(b"P5 ...", "row 17 of photos").open().read(2)
    b'P5'
    """

    suffix = ""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name = data, name

    def open(self, mode: str = "rb") -> BinaryIO:
        """A file in memory."""
        return io.BytesIO(self.data)

    def ranges(self) -> File:
        """See `Ranged`."""
        return MemoryFile(self, self.data)

    def whole(self) -> BinaryIO:
        """See `Ranged`."""
        return self.open()

    def stat(self) -> os.stat_result:
        """Only the size is anything but zero."""
        return os.stat_result((0, 0, 0, 0, 0, 0, len(self.data), 0, 0, 0))

    def is_dir(self) -> bool:
        """No."""
        return False

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Encoded {self.name}: {len(self.data)} bytes>"


def in_memory(path: object) -> bytes | None:
    """The bytes of what a reader was given, where they are in memory."""
    return path.data if isinstance(path, Encoded) else None


def is_folder(path: Any) -> bool:
    """Whether it is no file; a prefix of objects counts as a folder, and what it holds is asked for by name."""
    return isinstance(path, ObjectPath) or bool(path.is_dir())


def open_file(path: Path) -> File:
    """Bytes by range of what a reader was given."""
    return path.ranges() if isinstance(path, Ranged) else File(path)


def open_whole(path: Path) -> BinaryIO:
    """What a reader was given, to be read from its beginning to its end."""
    return path.whole() if isinstance(path, Ranged) else path.open("rb")
