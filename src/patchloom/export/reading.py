"""Reading an archive back, whoever wrote it: names of members are checked before anything is read or unpacked."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import UsageError
from patchloom.images.sources.entry import image_name

__all__ = ["Archive", "read_archive"]


def read_archive(path: str | Path) -> Archive:
    """Open an archive that ``export run out.zip`` wrote.

    Raises
    ------
    UsageError
        If it is no ZIP file, or a member would be outside the folder that it is unpacked into, or two have one name.
    """
    return Archive(Path(path))


class Archive:
    """Tables and arrays of an archive; close it, or use it in a ``with`` statement."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise UsageError(f"{path} is no archive: {error}", "`patchloom export RUN out.zip` writes one") from None
        try:
            _check(path, self.names)
        except UsageError:
            self._zip.close()
            raise

    @property
    def names(self) -> list[str]:
        """Names of the members."""
        return [info.filename for info in self._zip.infolist()]

    def rows(self, table: str = "metadata") -> Iterator[dict[str, Any]]:
        """Rows of a table: ``metadata``, ``arrays`` or ``images``. Out of CSV all values are texts.

        Raises
        ------
        UsageError
            If there is no such table.
        """
        if f"{table}.json" in self.names:
            yield from json.loads(self._zip.read(f"{table}.json"))
            return
        with self._member(f"{table}.csv") as file, io.TextIOWrapper(file, "utf-8", newline="") as lines:
            yield from csv.DictReader(lines)

    def array(self, name: str) -> NDArray[Any]:
        """An NPY file, by its name in the archive; files with Python objects in them are refused.

        Raises
        ------
        UsageError
            If there is no such file, or it is no array of numbers.
        """
        with self._member(name) as file:
            try:
                array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            except ValueError as error:
                raise UsageError(f"{name} is no NPY file: {error}", "take names from the column `file`") from None
        return array

    def extract(self, folder: str | Path) -> None:
        """Unpack everything into a folder."""
        self._zip.extractall(folder)

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _member(self, name: str) -> Any:
        try:
            return self._zip.open(name)
        except KeyError:
            raise UsageError(f"the archive has no {name}", f"it has {', '.join(self.names[:10])}") from None


def _check(path: Path, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        plain = name.rstrip("/")
        if "\\" in name or ":" in name or plain.startswith("/") or _leaves(plain):
            raise UsageError(f"{path}: {name!r} would be outside of the folder", "do not unpack this file")
        if plain.casefold() in seen:
            raise UsageError(f"{path}: {name!r} is there twice", "do not unpack this file")
        seen.add(plain.casefold())


def _leaves(name: str) -> bool:
    try:
        image_name(name)
    except ValueError:
        return True
    return False
