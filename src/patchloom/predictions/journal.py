"""What a run acknowledges: append-only logs of JSON records, each line with its own checksum.

One log a writer. A torn last line, as a crash leaves it, is no record; any other line that does not check out is
damage. A unit without a record does not exist, whatever files it left behind.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from patchloom.errors import RunDamagedError
from patchloom.predictions.files import PARTIAL, flush, output_error, write_file

__all__ = ["Journal", "Record", "check_logs", "compact", "encode", "logs", "read_log", "sweep_partial"]

Record = Mapping[str, Any]
COMPACT_ABOVE = 16
"""Logs that a journal may have before it is compacted."""


def logs(folder: Path) -> list[Path]:
    """Logs of a journal, in the order in which they were begun."""
    return sorted(folder.glob("*.jsonl")) if folder.is_dir() else []


def encode(record: Record) -> bytes:
    """One line."""
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogateescape")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_log(path: Path, offset: int = 0, *, strict: bool = True) -> Iterator[tuple[int, Record]]:
    """Records of one log from byte `offset` on, each with the offset that follows it.

    Raises
    ------
    RunDamagedError
        At a line, not the last, whose checksum does not fit; where not `strict` it is passed over.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            offset += len(line)
            record = _decode(line)
            if record is None:
                if not strict:
                    continue
                if file.read(1):
                    raise RunDamagedError(f"{path}: damaged record before byte {offset}", "run `patchloom verify`")
                return
            yield offset, record


def _decode(line: bytes) -> Record | None:
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    record: Record = json.loads(text.decode("utf-8", "surrogateescape"))
    return record


def check_logs(folder: Path) -> None:
    """Raise RunDamagedError if any log is damaged; whoever is going to write looks first."""
    for path in logs(folder):
        for _ in read_log(path):
            pass


class Journal:
    """One writer's log.

    Parameters
    ----------
    folder
        ``run/journal``.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(path.name[:6]) for path in logs(folder)), default=0)
        self._path = folder / f"{number:06d}-{os.getpid()}.jsonl"
        self._file = self._path.open("xb", buffering=0)

    def append(self, record: Record, *, durable: bool = True) -> None:
        """Write one record; with `durable`, return only when it and all before it are on the disk."""
        try:
            self._file.write(encode(record))
            if durable:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise output_error(error, self._path) from error

    def close(self) -> None:
        """Close the log; an empty one is removed."""
        self._file.close()
        if self._path.exists() and self._path.stat().st_size == 0:
            self._path.unlink()


def compact(folder: Path) -> None:
    """Put all logs into one where there are many; whoever calls this holds the run's lock.

    The new log takes the place of the last one before the others are removed: a crash in between leaves records twice,
    and reading a record twice is reading it once.
    """
    paths = logs(folder)
    if len(paths) <= COMPACT_ABOVE:
        return
    lines = b"".join(encode(record) for path in paths for _, record in read_log(path))
    merged = paths[-1].with_name(f"{int(paths[-1].name[:6]) + 1:06d}-compacted.jsonl")
    write_file(merged, lines)
    flush({merged})
    for path in paths:
        path.unlink()


def sweep_partial(folder: Path) -> None:
    """Remove files that a crash left half-written."""
    for path in folder.rglob(f"*{PARTIAL}"):
        path.unlink(missing_ok=True)
