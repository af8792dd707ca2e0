"""Files of a run: they appear whole under their names or not at all, and their checksums are known.

A run is a folder, or a prefix of objects. An object appears when it was put as a whole, and is durable then: it needs
no temporary name, no flush, and no sweep after a crash.
"""

from __future__ import annotations

import errno
import itertools
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c

from patchloom.errors import OutputError, PatchloomError, RunError
from patchloom.objects import AnyPath, ObjectPath

__all__ = ["PARTIAL", "FileRecord", "ObjectWriting", "Writing", "flush", "measured", "name_in", "named_errors",
           "output_error", "remove_tree", "sweep_partial", "write_file", "writing"]

PARTIAL = ".partial"
"""Ending of files that are being written; whatever bears it after a crash is swept."""
PIECE = 1 << 20
_numbers = itertools.count()
_machine = secrets.token_hex(4)  # processes of two machines that share a folder may have the same number


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What the journal keeps of a file: enough to notice one flipped byte."""

    path: AnyPath
    size: int
    crc32c: int


class Writing:
    """File that is being written beside its final name and renamed when the `with` block ends without an error.

    Raises
    ------
    OutputError
        If the disk is full, or the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._crc = 0
        self._partial = path.with_name(f"{path.name}.{_machine}-{os.getpid()}-{next(_numbers)}{PARTIAL}")

    def __enter__(self) -> Writing:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._partial, "wb", buffering=1 << 16)
        except OSError as error:
            raise output_error(error, self.path) from error
        return self

    def write(self, data: bytes) -> None:
        """Append `data`."""
        try:
            self._file.write(data)
        except OSError as error:
            raise output_error(error, self.path) from error
        self._crc = google_crc32c.extend(self._crc, data)
        self.size += len(data)

    def __exit__(self, *error: Any) -> None:
        try:
            self._file.close()
        except OSError as failure:
            if error[0] is None:
                self._partial.unlink(missing_ok=True)
                raise output_error(failure, self.path) from failure
        if error[0] is not None:
            self._partial.unlink(missing_ok=True)
            return
        try:
            os.replace(self._partial, self.path)
        except OSError as failure:
            raise output_error(failure, self.path) from failure

    @property
    def record(self) -> FileRecord:
        """Name, size and checksum."""
        return FileRecord(self.path, self.size, self._crc)

    @property
    def records(self) -> list[FileRecord]:
        """The same for `map_files.FileWriting`."""
        return [self.record]


class ObjectWriting:
    """Object that is put as a whole when the `with` block ends without an error; until then it is in memory.

    Raises
    ------
    OutputError
        If the store refuses it, or stays away.
    """

    def __init__(self, path: ObjectPath) -> None:
        self.path = path
        self.size = 0
        self._pieces: list[bytes] = []

    def __enter__(self) -> ObjectWriting:
        return self

    def write(self, data: bytes) -> None:
        """Append `data`."""
        self._pieces.append(data)
        self.size += len(data)

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None:
            return
        data = b"".join(self._pieces)
        self._pieces, self._crc = [], google_crc32c.value(data)
        try:
            self.path.write_bytes(data)
        except OSError as failure:
            raise output_error(failure, self.path) from failure

    @property
    def record(self) -> FileRecord:
        """Name, size and checksum."""
        return FileRecord(self.path, self.size, self._crc)

    @property
    def records(self) -> list[FileRecord]:
        """See `Writing.records`."""
        return [self.record]


def writing(path: AnyPath) -> Writing | ObjectWriting:
    """Write a file, or an object, atomically."""
    return ObjectWriting(path) if isinstance(path, ObjectPath) else Writing(path)


def write_file(path: AnyPath, data: bytes) -> FileRecord:
    """Write a whole file atomically."""
    with writing(path) as file:
        file.write(data)
    return file.record


@contextmanager
def named_errors(folder: AnyPath) -> Iterator[None]:
    """Errors of object storage, in the user's words: a store that is away, say, where a run is opened."""
    try:
        yield
    except OSError as error:
        if isinstance(error, PatchloomError) or isinstance(folder, Path):
            raise
        raise RunError(*_said(error, folder)) from error


def measured(path: AnyPath) -> tuple[int, int]:
    """Size and CRC-32C of a file, which is read as a whole.

    Raises
    ------
    OSError
        If it is not there, or cannot be read.
    """
    size = checksum = 0
    for piece in path.pieces(PIECE) if isinstance(path, ObjectPath) else _pieces(path):
        checksum = google_crc32c.extend(checksum, piece)
        size += len(piece)
    return size, checksum


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def remove_tree(folder: AnyPath) -> None:
    """Remove everything below a folder, as far as that is possible.

    Raises
    ------
    OutputError
        If objects cannot be removed.
    """
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        folder.unlink_all(list(folder.sizes()))
    except OSError as error:
        raise output_error(error, folder / "") from error


def sweep_partial(folder: AnyPath) -> None:
    """Remove files that a crash left half-written; there are no such objects."""
    if isinstance(folder, Path):
        for path in folder.rglob(f"*{PARTIAL}"):
            path.unlink(missing_ok=True)


def name_in(folder: AnyPath, path: AnyPath) -> str:
    """Name of a file relative to a folder that it is in, as the journal has it."""
    return Path(str(path)).relative_to(str(folder)).as_posix()


def flush(written: Iterable[AnyPath]) -> None:
    """Wait until files, and their names in their folders, are on the disk; objects are durable as they are.

    Raises
    ------
    OutputError
        If the disk reports that it could not keep them.
    """
    paths = {path for path in written if isinstance(path, Path)}
    for path in sorted(paths) + sorted({path.parent for path in paths}):
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise output_error(error, path) from error


def output_error(error: OSError, path: AnyPath) -> RunError:
    """The same error in the user's words."""
    if isinstance(path, ObjectPath):
        return error if isinstance(error, RunError) else OutputError(*_said(error, path))
    if error.errno == errno.ENOSPC:
        return OutputError(f"no room left on the disk of {path.parent}", "make room, then `patchloom resume`")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{path.parent} cannot be written", "choose another -o, or change its permissions")
    return OutputError(f"{path}: {error.strerror or error}", "choose another -o")


def _said(error: OSError, path: ObjectPath) -> tuple[str, str]:
    """What object storage found wrong, and what to do about it."""
    text = str(error).removeprefix(f"{path}: ")
    if isinstance(error, PermissionError):
        return f"{path}: {text}", "are the credentials in the environment those of somebody who may use it?"
    if isinstance(error, FileNotFoundError):
        return f"{path}: there is no such bucket", "make it, or correct the URL"
    return f"{path}: {text}", "when the server is there again: `patchloom resume`"
