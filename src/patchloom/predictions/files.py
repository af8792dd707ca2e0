"""Files of a run: they appear whole under their names or not at all, and their checksums are known."""

from __future__ import annotations

import errno
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c

from patchloom.errors import OutputError

__all__ = ["PARTIAL", "FileRecord", "Writing", "flush", "output_error", "write_file"]

PARTIAL = ".partial"
"""Ending of files that are being written; whatever bears it after a crash is swept."""
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What the journal keeps of a file: enough to notice one flipped byte."""

    path: Path
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
        self._partial = path.with_name(f"{path.name}.{os.getpid()}-{next(_numbers)}{PARTIAL}")

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


def write_file(path: Path, data: bytes) -> FileRecord:
    """Write a whole file atomically."""
    with Writing(path) as writing:
        writing.write(data)
    return writing.record


def flush(paths: set[Path]) -> None:
    """Wait until files, and their names in their folders, are on the disk.

    Raises
    ------
    OutputError
        If the disk reports that it could not keep them.
    """
    for path in sorted(paths) + sorted({path.parent for path in paths}):
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise output_error(error, path) from error


def output_error(error: OSError, path: Path) -> OutputError:
    """The same error in the user's words."""
    if error.errno == errno.ENOSPC:
        return OutputError(f"no room left on the disk of {path.parent}", "make room, then `patchloom resume`")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{path.parent} cannot be written", "choose another -o, or change its permissions")
    return OutputError(f"{path}: {error.strerror or error}", "choose another -o")
