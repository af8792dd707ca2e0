"""Maps of small images in one ZIP file a unit and head.

The members are what a folder of maps would hold: ``<image>.zarr/zarr.json``, ``<image>.zarr/0/c/0/0`` and so on, not
compressed, as chunks are already. ``unzip`` makes OME-Zarr folders of them, and zarr-python's ``ZipStore`` opens them
as they are. Equal maps give equal bytes. A unit is far smaller than 4 GiB, where other rules would begin.

A lookup does not parse the directory of such a file, which has thousands of entries: it searches its bytes for a name.
What it finds is checked, as is the member itself: a damaged directory is an error and never a wrong answer.
"""

from __future__ import annotations

import io
import struct
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from patchloom.errors import RunDamagedError
from patchloom.objects import AnyPath
from patchloom.predictions.files import FileRecord, write_file
from patchloom.predictions.map_files import FileWriting
from patchloom.predictions.ranges import Reading, open_file, version

__all__ = ["Member", "MemberFiles", "Members", "OpenMembers", "write_members"]

PERMISSIONS = 0o100644 << 16
UNIX = 3
HEADER = struct.Struct("<4s22x2H")
"""In front of a member: signature, lengths of its name and of what follows the name."""
ENTRY = struct.Struct("<4s16xL4xH12xL")
"""In the directory, in front of a name: signature, size, length of the name, offset of the member's header."""
END = struct.Struct("<4s8x2L2x")
"""At the end of the file: signature, size and offset of the directory."""


def write_members(path: AnyPath, members: Iterable[tuple[str, bytes]]) -> FileRecord:
    """Write a ZIP file, atomically; all of it is in memory.

    Raises
    ------
    OutputError
        If the disk is full, or the folder cannot be written.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)  # its time is 1980-01-01
            info.create_system, info.external_attr = UNIX, PERMISSIONS
            archive.writestr(info, content)
    return write_file(path, buffer.getvalue())


class Members:
    """Members of a file that `write_members` wrote, by name.

    Raises
    ------
    RunDamagedError
        If the file is missing, or is not what was written.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        try:
            self._file = open_file(path)
        except FileNotFoundError:
            raise RunDamagedError(f"{path} is missing", "`patchloom verify` names all that is missing") from None
        end = self._file.size - END.size
        tail = self._file.read(max(0, end), END.size)
        signature, size, offset = END.unpack(tail) if len(tail) == END.size else (b"", 0, 0)
        if signature != b"PK\5\6" or offset + size > end:
            raise self._damaged("has a damaged directory")
        self._directory = self._file.read(offset, size)

    def member(self, name: str) -> Member:
        """Bytes of a member.

        Raises
        ------
        RunDamagedError
            If it is not there, or something else is.
        """
        wanted = name.encode()
        at = self._directory.find(wanted)
        while at >= 0:
            entry = self._directory[max(0, at - ENTRY.size) : at]
            signature, size, length, offset = ENTRY.unpack(entry) if len(entry) == ENTRY.size else (b"", 0, 0, 0)
            if signature == b"PK\1\2" and length == len(wanted):  # else it is part of a longer name
                return self._member(wanted, offset, size)
            at = self._directory.find(wanted, at + 1)
        raise self._damaged(f"has lost {name}")

    def _member(self, name: bytes, offset: int, size: int) -> Member:
        header = self._file.read(offset, HEADER.size + len(name))
        signature, _, extra = HEADER.unpack(header[: HEADER.size]) if len(header) >= HEADER.size else (b"", 0, 0)
        if signature != b"PK\3\4" or header[HEADER.size :] != name:
            raise self._damaged(f"has no {name.decode()} where it should be")
        return Member(self._file, offset + len(header) + extra, size)

    def _damaged(self, what: str) -> RunDamagedError:
        return RunDamagedError(f"{self.path} {what}", "`patchloom verify` names all that is damaged")


@dataclass(frozen=True)
class Member:
    """Bytes of one member."""

    file: Reading
    start: int
    size: int

    def read(self, start: int, length: int) -> bytes:
        """See `Reading.read`."""
        return self.file.read(self.start + start, min(length, self.size - start))


@dataclass(frozen=True)
class MemberFiles:
    """The map of a small image, in its unit's file; all its files are there."""

    members: Members
    folder: str

    def writing(self, name: str) -> FileWriting:
        """Not possible: a unit is written once."""
        raise TypeError(f"{self.where(name)} is written already")

    def reading(self, name: str) -> Reading:
        """See `MapFiles.reading`."""
        return self.members.member(f"{self.folder}/{name}")

    def where(self, name: str) -> str:
        """See `MapFiles.where`."""
        return f"{self.members.path}/{self.folder}/{name}"


class OpenMembers:
    """Files of units that are open with their directories, the least recently used of which is forgotten."""

    def __init__(self, capacity: int = 32) -> None:
        self._capacity = capacity
        self._open: OrderedDict[AnyPath, tuple[tuple[Any, ...], Members]] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, path: AnyPath) -> Members:
        """The file at `path`, opened if it is not, or if another one is there now: a unit that was predicted again.

        Raises
        ------
        RunDamagedError
            If it is missing, or is not what was written.
        """
        with self._lock:
            there = _version(path)
            found, members = self._open.pop(path, (None, None))
            if members is None or found != there:
                members = Members(path)
            self._open[path] = there, members
            while len(self._open) > self._capacity:
                self._open.popitem(last=False)
            return members


def _version(path: AnyPath) -> tuple[Any, ...]:
    try:
        return version(path)
    except OSError:
        return ()  # opening it says why
