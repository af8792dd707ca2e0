"""Reads everything back and names what is damaged or missing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from patchloom.errors import RunDamagedError
from patchloom.objects import AnyPath, ObjectPath
from patchloom.predictions.files import measured, name_in
from patchloom.predictions.folder import RunDocument
from patchloom.predictions.index import Index
from patchloom.predictions.journal import logs, read_log

__all__ = ["Damage", "verify"]

AT_ONCE = 16
"""Objects that are read at once; files are read one after the other."""


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was written.

    Parameters
    ----------
    path
        Relative to the run.
    image
        Image that it belongs to; None where it belongs to several or to the run.
    problem
        ``missing``, ``truncated``, ``changed``, or a sentence.
    """

    path: str
    image: str | None
    problem: str


def verify(folder: AnyPath, index: Index) -> Iterator[Damage]:
    """Compare every committed file with the size and checksum in the journal.

    Parameters
    ----------
    folder
        Of the run.
    index
        Of the run.
    """
    try:
        RunDocument.read(folder)
    except RunDamagedError as error:
        yield Damage("run.json", None, error.message)
    for log in logs(folder / "journal"):
        try:
            for _ in read_log(log):
                pass
        except RunDamagedError as error:
            yield Damage(name_in(folder, log), None, error.message)
    files = index.files()
    with ThreadPoolExecutor(AT_ONCE if isinstance(folder, ObjectPath) else 1) as pool:
        while some := list(itertools.islice(files, 16 * AT_ONCE)):
            problems = pool.map(lambda file: _problem(folder / file[0], file[1], file[2]), some)
            for (path, _, _, image), problem in zip(some, problems, strict=True):
                if problem:
                    yield Damage(path, image, problem)
    for row in index.images("done"):
        if row.patches_done != row.patches:
            problem = f"{row.patches_done:,} of {row.patches:,} patches are there, and it is recorded as complete"
            yield Damage("journal", row.name, problem)


def _problem(path: AnyPath, size: int, crc: int) -> str:
    try:
        found, checksum = measured(path)
        if found != size:
            return (
                f"truncated: {found:,} of {size:,} bytes" if found < size else f"changed: {found:,} bytes, not {size:,}"
            )
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"unreadable: {error.strerror or error}"
    return "" if checksum == crc else "changed: its checksum does not fit"
