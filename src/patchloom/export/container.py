"""ZIP files of any size, written front to back: the same content gives the same bytes."""

from __future__ import annotations

import itertools
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from patchloom.predictions.layout import file_name

__all__ = ["Container", "MemberNames"]

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
PERMISSIONS = 0o100644 << 16
UNIX = 3


class Container:
    """A ZIP file that is being written, member by member.

    Members carry no time and no user. Those beyond 4 GiB, and more than 65,535 of them, are stored as ZIP64.

    Parameters
    ----------
    path
        Of the file.
    """

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path, "w", allowZip64=True)

    @contextmanager
    def member(self, name: str, *, size: int | None = None, compress: bool = True) -> Iterator[IO[bytes]]:
        """File to write a member to; one at a time.

        Parameters
        ----------
        name
            Made by `MemberNames`, or a plain word.
        size
            Bytes that will be written, where that is known; otherwise the member is ready for more than 4 GiB.
        compress
            Deflated, or stored as it is.
        """
        info = zipfile.ZipInfo(name)  # its time is 1980-01-01
        info.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        info.create_system, info.external_attr = UNIX, PERMISSIONS
        info.file_size = size or 0
        with self._zip.open(info, "w", force_zip64=size is None) as file:
            yield file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()


class MemberNames:
    """Names of members after images: safe on any system, and all different, also where case is ignored.

    Characters that some system does not take become ``%XX``. A name that would meet another gets a number.

    Parameters
    ----------
    folder
        In front of all names; may be empty.

    Examples
    --------
    >>> names = MemberNames("predictions")
    >>> [names.of(image, ".npy") for image in ("a/S:1.tif", "A/s%3A1.tif", "A/s:1.TIF", "con")]
    ['predictions/a/S%3A1.tif.npy', 'predictions/A/s%253A1.tif.npy', 'predictions/A/s%3A1_2.TIF.npy', \
'predictions/_con.npy']
    """

    def __init__(self, folder: str = "") -> None:
        self._before = f"{folder}/" if folder else ""
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def of(self, image: str, suffix: str = "") -> str:
        """A new name for an image, with an ending."""
        *folders, last = (_portable(part) for part in file_name(image).split("/"))
        place = self._before
        for part in folders:
            free = next(one for one in _numbered(part) if f"{place}{one}".casefold() not in self._files)
            place += f"{free}/"
            self._folders.add(place[:-1].casefold())
        names = (f"{place}{one}{suffix}" for one in _numbered(last))
        name = next(name for name in names if not self._has(name))
        self._files.add(name.casefold())
        return name

    def _has(self, name: str) -> bool:
        return name.casefold() in self._files or name.casefold() in self._folders


def _numbered(part: str) -> Iterator[str]:
    """The name, then with numbers in front of its ending."""
    yield part
    stem, dot, ending = part.rpartition(".")
    for number in itertools.count(2):
        yield f"{stem}_{number}{dot}{ending}" if stem else f"{part}_{number}"


def _portable(part: str) -> str:
    """A component that Windows takes, too."""
    if part[-1] in ". ":
        part = f"{part[:-1]}%{ord(part[-1]):02X}"
    return f"_{part}" if RESERVED.fullmatch(part) else part
