"""What a run acknowledges: append-only logs of JSON records, each line with its own checksum.

One log a writer. A torn last line, as a crash leaves it, is no record; any other line that does not check out is
damage. A unit without a record does not exist, whatever files it left behind.

Objects cannot be appended to: there a log is put again with each durable batch of records, on the condition that it is
what this writer put before, and the next object is begun when it has grown to `LOG_BYTES`. Either way a log only grows.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from patchloom.errors import RunDamagedError, RunLockedError
from patchloom.objects import AnyPath, ObjectPath
from patchloom.predictions.files import flush, output_error, write_file

__all__ = ["Journal", "Log", "Record", "append_all", "check_logs", "compact", "encode", "logs", "read_log"]

Record = Mapping[str, Any]
COMPACT_ABOVE = 16
"""Logs that a journal may have before it is compacted."""
LOG_BYTES = 256 << 10
"""Bytes of an object with records above which the next one is begun."""
MOST = 1 << 40


def logs(folder: AnyPath) -> dict[AnyPath, int]:
    """Logs of a journal and their bytes, in the order in which they were begun."""
    found: Mapping[Any, int] = {}
    if isinstance(folder, ObjectPath):
        found = folder.sizes()
    elif folder.is_dir():
        found = {path: _size(path) for path in folder.glob("*.jsonl")}
    return {path: found[path] for path in sorted(found, key=lambda path: path.name)}


def _size(path: Path) -> int:
    with path.open("rb") as file:  # when a file is opened a shared file system asks for what other machines appended
        return os.fstat(file.fileno()).st_size


def encode(record: Record) -> bytes:
    """One line."""
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogateescape")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_log(path: AnyPath, offset: int = 0, *, strict: bool = True) -> Iterator[tuple[int, Record]]:
    """Records of one log from byte `offset` on, each with the offset that follows it.

    Raises
    ------
    RunDamagedError
        At a line, not the last, whose checksum does not fit; where not `strict` it is passed over.
    """
    with _opened(path, offset) as file:
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


def _opened(path: AnyPath, offset: int) -> IO[bytes]:
    """A log from `offset` on; of an object only that is transferred."""
    if isinstance(path, ObjectPath):
        return io.BytesIO(path.read_range(offset, MOST) if offset else path.read_bytes())
    file = path.open("rb")
    file.seek(offset)
    return file


def _decode(line: bytes) -> Record | None:
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    record: Record = json.loads(text.decode("utf-8", "surrogateescape"))
    return record


def check_logs(folder: AnyPath) -> None:
    """Raise RunDamagedError if any log is damaged; whoever is going to write looks first."""
    for path in logs(folder):
        for _ in read_log(path):
            pass


class Log(Protocol):
    """Where records of what is committed go."""

    def append(self, record: Record, *, durable: bool = True) -> None:
        """Take one record; with `durable`, return only when it and all before it are safe."""


def append_all(log: Log, records: Sequence[Record]) -> None:
    """Have a log take records in order; returns when all are safe, for which it is asked once."""
    for i, record in enumerate(records, 1):
        log.append(record, durable=i == len(records))


class Journal:
    """One writer's log.

    Parameters
    ----------
    folder
        ``run/journal``.
    """

    def __init__(self, folder: AnyPath) -> None:
        number = 1 + max((int(path.name[:6]) for path in logs(folder)), default=0)
        self._log: _Log = _ObjectLog(folder, number) if isinstance(folder, ObjectPath) else _FileLog(folder, number)

    def append(self, record: Record, *, durable: bool = True) -> None:
        """Write one record; with `durable`, return only when it and all before it are durable."""
        self._log.write(encode(record))
        if durable:
            self._log.sync()

    def publish(self) -> None:
        """Have others see what was written, if they do not yet."""
        self._log.publish()

    def close(self) -> None:
        """Close the log; an empty one is removed."""
        self._log.close()


class _Log(Protocol):
    """Where lines are appended."""

    def write(self, line: bytes) -> None: ...

    def publish(self) -> None: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


class _FileLog:
    """A log that is a file."""

    def __init__(self, folder: Path, number: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{number:06d}-{secrets.token_hex(4)}.jsonl"
        self._file = self._path.open("xb", buffering=0)

    def write(self, line: bytes) -> None:
        try:
            self._file.write(line)
        except OSError as error:
            raise output_error(error, self._path) from error

    def publish(self) -> None:
        pass  # nothing is buffered

    def sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise output_error(error, self._path) from error

    def close(self) -> None:
        self._file.close()
        if self._path.exists() and self._path.stat().st_size == 0:
            self._path.unlink()


class _ObjectLog:
    """A log that is one object after the other, each put again until it is large enough."""

    def __init__(self, folder: ObjectPath, number: int) -> None:
        self._folder, self._number = folder, number
        self._path, self._lines, self._stored = folder, bytearray(), 0
        self._tag: str | None = None
        self._away = False
        self._begin()

    def write(self, line: bytes) -> None:
        self._lines += line
        if len(self._lines) - self._stored > LOG_BYTES:
            self.sync()

    def publish(self) -> None:
        self.sync()

    def sync(self) -> None:
        if len(self._lines) == self._stored:
            return
        lines = bytes(self._lines)
        try:
            self._tag = self._path.write_bytes(lines, mode={"e_tag": self._tag} if self._tag else "create")
        except (FileExistsError, FileNotFoundError) as error:
            if not self._tag and isinstance(error, FileNotFoundError):
                raise output_error(error, self._path) from error
            self._tag = self._tag_of(lines)
        except OSError as error:
            self._away = True
            raise output_error(error, self._path) from error
        self._stored, self._away = len(lines), False
        if self._stored >= LOG_BYTES:
            self._number += 1
            self._begin()

    def close(self) -> None:
        if not self._away:  # else it was waited for long enough, and whoever did was told
            self.sync()

    def _begin(self) -> None:
        # Names are never used again: who knows one knows what the object began with.
        self._path = self._folder / f"{self._number:06d}-{secrets.token_hex(4)}.jsonl"
        self._lines, self._stored, self._tag = bytearray(), 0, None

    def _tag_of(self, lines: bytes) -> str | None:
        """ETag of the log if it is what was put, and only the answer was lost."""
        try:
            found, tag = self._path.read_tagged()
        except FileNotFoundError:
            found, tag = b"", None
        except OSError as error:
            raise output_error(error, self._path) from error
        if found != lines:
            raise RunLockedError(f"another process has taken over {self._folder.parent}",
                                 "was this process suspended? `patchloom resume` goes on once the other has ended")
        return tag


def compact(folder: AnyPath) -> None:
    """Put all logs into one where there are many; whoever calls this holds the run's lock.

    The new log takes the place of the last one before the others are removed: a crash in between leaves records twice,
    and reading a record twice is reading it once.
    """
    paths = list(logs(folder))
    if len(paths) <= COMPACT_ABOVE:
        return
    lines = b"".join(encode(record) for path in paths for _, record in read_log(path))
    merged = paths[-1].with_name(f"{int(paths[-1].name[:6]) + 1:06d}-compacted-{secrets.token_hex(4)}.jsonl")
    write_file(merged, lines)
    flush({merged})
    for path in paths:
        path.unlink(missing_ok=True)
