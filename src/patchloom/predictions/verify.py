"""Reads everything back and names what is damaged or missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from patchloom.errors import RunDamagedError
from patchloom.predictions.folder import RunDocument
from patchloom.predictions.index import Index
from patchloom.predictions.journal import logs, read_log

__all__ = ["Damage", "verify"]

PIECE = 1 << 20


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


def verify(folder: Path, index: Index) -> Iterator[Damage]:
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
            yield Damage(log.relative_to(folder).as_posix(), None, error.message)
    for path, size, crc, image in index.files():
        problem = _problem(folder / path, size, crc)
        if problem:
            yield Damage(path, image, problem)
    for row in index.images("done"):
        if row.patches_done != row.patches:
            problem = f"{row.patches_done:,} of {row.patches:,} patches are there, and it is recorded as complete"
            yield Damage("journal", row.name, problem)


def _problem(path: Path, size: int, crc: int) -> str:
    try:
        found = path.stat().st_size
        if found != size:
            return (
                f"truncated: {found:,} of {size:,} bytes" if found < size else f"changed: {found:,} bytes, not {size:,}"
            )
        checksum = 0
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                checksum = google_crc32c.extend(checksum, piece)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"unreadable: {error.strerror or error}"
    return "" if checksum == crc else "changed: its checksum does not fit"
