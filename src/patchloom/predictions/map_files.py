"""Where the files of a map are: in a folder of its own, in memory until a unit is complete, or in a unit's ZIP file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from patchloom.objects import AnyPath
from patchloom.predictions.files import FileRecord, writing
from patchloom.predictions.ranges import Reading, open_file

__all__ = ["FileWriting", "FolderFiles", "HeldFiles", "MapFiles"]


class FileWriting(Protocol):
    """A file that is being written; it is there when the `with` block ends without an error."""

    size: int

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: Any) -> None: ...

    def write(self, data: bytes) -> None:
        """Append `data`."""

    @property
    def records(self) -> list[FileRecord]:
        """What the journal is to keep of the file; nothing where it is no file by itself."""


class MapFiles(Protocol):
    """Files of one map, by their names within it: ``zarr.json``, ``0/zarr.json``, ``0/c/0/0``."""

    def writing(self, name: str) -> FileWriting:
        """Write a file."""

    def reading(self, name: str) -> Reading | None:
        """Read a file; None where there is none, and where none was ever written."""

    def where(self, name: str) -> str:
        """How messages call a file."""


@dataclass(frozen=True)
class FolderFiles:
    """Files in a folder: the map of a large image."""

    folder: AnyPath

    def writing(self, name: str) -> FileWriting:
        """See `MapFiles.writing`."""
        return writing(self.folder / name)

    def reading(self, name: str) -> Reading | None:
        """See `MapFiles.reading`."""
        try:
            return open_file(self.folder / name)
        except FileNotFoundError:
            return None

    def where(self, name: str) -> str:
        """See `MapFiles.where`."""
        return str(self.folder / name)


@dataclass(frozen=True)
class HeldFiles:
    """Files in memory: the map of a small image, until it is written together with others."""

    content: dict[str, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.content.values()))

    def writing(self, name: str) -> _Held:
        """See `MapFiles.writing`."""
        return _Held(self.content, name)

    def reading(self, name: str) -> _Bytes | None:
        """See `MapFiles.reading`."""
        content = self.content.get(name)
        return None if content is None else _Bytes(content)

    def where(self, name: str) -> str:
        """See `MapFiles.where`."""
        return name


class _Held:
    """A file that is going to be in memory."""

    def __init__(self, content: dict[str, bytes], name: str) -> None:
        self._content, self._name = content, name
        self._pieces: list[bytes] = []
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def write(self, data: bytes) -> None:
        self._pieces.append(data)
        self.size += len(data)

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._content[self._name] = b"".join(self._pieces)

    @property
    def records(self) -> list[FileRecord]:
        return []


class _Bytes:
    """Bytes of a file that is in memory."""

    def __init__(self, content: bytes) -> None:
        self._content, self.size = content, len(content)

    def read(self, start: int, length: int) -> bytes:
        return self._content[start : start + length]
