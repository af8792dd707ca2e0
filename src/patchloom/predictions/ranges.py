"""Bytes of a run's files, read here and there: of files, and of objects with as few requests as possible."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any, Protocol

from patchloom.errors import RunDamagedError, RunError
from patchloom.objects import AnyPath, ObjectPath, RangeFile

__all__ = ["ObjectFile", "OpenFile", "Reading", "as_seekable", "open_file", "version"]

TAIL = 64 << 10
"""Bytes at the end of an object that are read when it is opened: footers, indices and directories are there."""
AHEAD = 4 << 20
"""Most bytes that are read ahead; whoever reads on gets twice as much with each request."""


class Reading(Protocol):
    """Bytes of one file."""

    @property
    def size(self) -> int:
        """How many."""

    def read(self, start: int, length: int) -> bytes:
        """Some of them; fewer beyond the end."""


class OpenFile:
    """A file that is read here and there, by several threads if need be; closed when nobody refers to it any more.

    Raises
    ------
    FileNotFoundError
        If there is none.
    RunDamagedError
        If it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RunDamagedError(f"{path} cannot be read: {error.strerror}", "run `patchloom verify`") from error
        weakref.finalize(self, os.close, self._file)
        self.size = os.fstat(self._file).st_size

    def read(self, start: int, length: int) -> bytes:
        """See `Reading.read`."""
        return os.pread(self._file, length, start)


class ObjectFile:
    """An object that is read here and there; opening it is one request, which brings its end.

    Raises
    ------
    FileNotFoundError
        If there is none.
    RunError
        If it cannot be read.
    """

    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        self._window = 0, b""
        try:
            self._tail, self.size = path.read_tail(TAIL)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RunError(f"{error}", "try again when the server is there") from error

    def read(self, start: int, length: int) -> bytes:
        """See `Reading.read`."""
        length = min(length, self.size - start)
        before = start - (self.size - len(self._tail))
        if before >= 0:
            return self._tail[before : before + length]
        first, held = self._window
        if not first <= start <= start + length <= first + len(held):
            near = first <= start <= first + len(held) + AHEAD
            ahead = min(2 * len(held), AHEAD) if near else 0
            first, held = self._window = start, self._path.read_range(start, max(length, ahead))
        return held[start - first : start - first + length]


def open_file(path: AnyPath) -> OpenFile | ObjectFile:
    """Open a file of a run.

    Raises
    ------
    FileNotFoundError
        If there is none.
    RunError
        If it cannot be read.
    """
    return ObjectFile(path) if isinstance(path, ObjectPath) else OpenFile(path)


def as_seekable(path: AnyPath) -> Any:
    """What pyarrow opens: the file itself, or an object as a file that reads ranges."""
    if not isinstance(path, ObjectPath):
        return path
    file = ObjectFile(path)
    return RangeFile(file.read, file.size)


def version(path: AnyPath) -> tuple[Any, ...]:
    """What differs where another file has taken the place of one."""
    if isinstance(path, ObjectPath):
        found = path.stat()
        return found.e_tag, found.st_size, found.st_mtime_ns
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
