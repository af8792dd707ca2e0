"""Paths of object storage and of the web: the part of `pathlib.Path` that patchloom uses, through obstore.

``s3://bucket/key``, ``gs://``, ``az://``, and ``https://`` for reading. Credentials, region and endpoint are what
obstore finds in the environment (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL`` and so on); no URL and no message holds
any. Whatever goes wrong is an `OSError`, as with files; see `connections` for what is shown and how long is waited.
"""

from __future__ import annotations

import fnmatch
import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from patchloom.connections import (
    WEB,
    NoSuchRangeError,
    connection,
    explained,
    is_object_url,
    obstore_module,
    reached,
    shown,
    took_apart,
    whole_url,
)

__all__ = ["AnyPath", "ObjectPath", "RangeFile", "Traffic", "as_path", "is_object_url", "traffic"]

SUFFIXES = ("s3", "gs", "http")
"""Whose ranges may count from the end."""
BLOCK = 64 << 10
"""Bytes that a file opened for reading asks for at least."""


def as_path(text: str | os.PathLike[str] | ObjectPath) -> AnyPath:
    """The path that a text names: of a file, or of an object."""
    if isinstance(text, ObjectPath):
        return text
    return ObjectPath(text) if isinstance(text, str) and is_object_url(text) else Path(text)


@dataclass
class Traffic:
    """Requests and bytes of this process since it began."""

    requests: int = 0
    read: int = 0
    written: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def add(self, *, requests: int = 1, read: int = 0, written: int = 0) -> None:
        """Count one request."""
        with self._lock:
            self.requests += requests
            self.read += read
            self.written += written

    def now(self) -> tuple[int, int, int]:
        """Requests, bytes read and bytes written."""
        with self._lock:
            return self.requests, self.read, self.written


traffic = Traffic()
"""What `ObjectPath` has transferred."""


class ObjectPath:
    """An object, or a prefix of objects, with the names of `pathlib.Path`; there are no folders to make.

    Parameters
    ----------
    url
        ``scheme://bucket/key``.

    Raises
    ------
    UsageError
        If the URL of a bucket has a user or password.
    MissingExtraError
        At the first request, if obstore is not installed.
    """

    __slots__ = ("_key", "_root")

    def __init__(self, url: str) -> None:
        self._root, self._key = took_apart(url)

    @classmethod
    def _of(cls, root: str, key: str) -> ObjectPath:
        made = cls.__new__(cls)
        made._root, made._key = root, key
        return made

    def __str__(self) -> str:
        return shown(self.url)

    @property
    def url(self) -> str:
        """With the user, password and query that were given; not to be shown or kept."""
        return whole_url(self._root, self._key)

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and self.url == other.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __lt__(self, other: ObjectPath) -> bool:
        return str(self) < str(other)

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectPath, (self.url,)

    def __truediv__(self, part: str) -> ObjectPath:
        return self.joinpath(part)

    def joinpath(self, *parts: str) -> ObjectPath:
        """As `Path.joinpath`, of relative parts."""
        return self._of(self._root, "/".join(part.strip("/") for part in (self._key, *parts) if part))

    @property
    def name(self) -> str:
        """As `PurePath.name`; of a URL without its query."""
        return self._key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """As `PurePath.stem`."""
        return Path(self.name).stem

    @property
    def suffix(self) -> str:
        """As `PurePath.suffix`."""
        return Path(self.name).suffix

    @property
    def parent(self) -> ObjectPath:
        """As `PurePath.parent`."""
        return self._of(self._root, self._key.rpartition("/")[0])

    def with_name(self, name: str) -> ObjectPath:
        """As `PurePath.with_name`."""
        return self.parent / name

    def relative_to(self, other: ObjectPath) -> Path:
        """As `PurePath.relative_to`."""
        return Path(str(self)).relative_to(str(other))

    def as_posix(self) -> str:
        """The URL."""
        return str(self)

    def resolve(self) -> ObjectPath:
        """Itself: a URL is absolute."""
        return self

    def read_bytes(self) -> bytes:
        """The whole object."""
        return self.read_tagged()[0]

    def read_text(self, encoding: str = "utf-8") -> str:
        """The whole object as text."""
        return self.read_bytes().decode(encoding)

    def read_range(self, start: int, length: int, tag: str | None = None) -> bytes:
        """Bytes of the object; fewer at its end.

        Raises
        ------
        FileExistsError
            If its ETag is not `tag`.
        """
        if length <= 0:
            return b""
        with self._errors():
            if tag is None:
                found = bytes(obstore_module().get_range(self._store, self._key, start=start, length=length))
            else:
                options = {"range": (start, start + length), "if_match": tag}
                found = bytes(obstore_module().get(self._store, self._key, options=options).bytes())
        traffic.add(read=len(found))
        return found

    def read_head(self, length: int) -> tuple[bytes, Any]:
        """The first bytes of the object, or all where it has fewer, and what `stat` says: one request.

        Raises
        ------
        io.UnsupportedOperation
            If a web server gives no parts of files.
        """
        try:
            with self._errors():
                got = obstore_module().get(self._store, self._key, options={"range": (0, length)})
                found, status = bytes(got.bytes()), _status(got.meta)
        except NoSuchRangeError:
            found, status = b"", self._ask()  # an empty object has no first byte
        traffic.add(read=len(found))
        return found, status

    def read_tail(self, length: int) -> tuple[bytes, int]:
        """The last bytes of the object, or all where it has fewer, and its size: one request."""
        try:
            with self._errors():
                got = obstore_module().get(self._store, self._key, options={"range": {"suffix": length}})
                found, size = bytes(got.bytes()), int(got.meta["size"])
        except OSError as error:
            if isinstance(error, (FileNotFoundError, PermissionError)) or self._root.startswith(SUFFIXES):
                raise
            size = self.stat().st_size  # Azure's store has no ranges that count from the end
            return self.read_range(max(0, size - length), min(size, length)), size
        traffic.add(read=len(found))
        return found, size

    def pieces(self, length: int) -> Iterator[bytes]:
        """The whole object, some bytes at a time: one request."""
        with self._errors():
            for piece in obstore_module().get(self._store, self._key).stream(min_chunk_size=length):
                traffic.add(requests=0, read=len(piece))
                yield bytes(piece)
        traffic.add()

    def read_tagged(self) -> tuple[bytes, str | None]:
        """The whole object, and its ETag."""
        with self._errors():
            got = obstore_module().get(self._store, self._key)
            found, tag = bytes(got.bytes()), got.meta["e_tag"]
        traffic.add(read=len(found))
        return found, tag

    def write_bytes(self, data: bytes, *, mode: Any = "overwrite") -> str | None:
        """Put the object as a whole; its ETag.

        Parameters
        ----------
        data
            The object.
        mode
            ``"overwrite"``; ``"create"`` if it must not exist; ``{"e_tag": …}`` if it must be the one that was read.

        Raises
        ------
        FileExistsError
            If `mode` does not hold.
        """
        with self._errors():
            found = obstore_module().put(self._store, self._key, data, mode=mode)
        traffic.add(written=len(data))
        tag: str | None = found["e_tag"]
        return tag

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object."""
        if not missing_ok and not self.is_file():
            raise FileNotFoundError(f"{self}: there is no such object")
        with self._errors():
            obstore_module().delete(self._store, self._key)

    def unlink_all(self, paths: Sequence[ObjectPath]) -> None:
        """Delete objects of the same bucket, many with one request where the store has such a one."""
        if paths:
            with self._errors():
                obstore_module().delete(self._store, [path._key for path in paths])
            traffic.add()

    def stat(self) -> Any:
        """``st_size`` in bytes, ``st_mtime_ns`` and ``e_tag``.

        Raises
        ------
        FileNotFoundError
            If there is no such object.
        """
        if not self.is_on_web:
            return self._ask()
        try:
            return self.read_head(1)[1]  # those who may read an address by its signature may not ask for its HEAD
        except io.UnsupportedOperation:
            return self._ask()

    def _ask(self) -> Any:
        with self._errors():
            found = obstore_module().head(self._store, self._key)
        traffic.add()
        return _status(found)

    def is_file(self) -> bool:
        """Whether there is such an object."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether objects are below this prefix."""
        return not self.is_on_web and next(self.rglob("*"), None) is not None

    def exists(self) -> bool:
        """Whether it is an object or a prefix of some."""
        return self.is_file() or self.is_dir()

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a prefix is there when an object is."""

    def rmdir(self) -> None:
        """Nothing: a prefix is gone when its objects are."""

    def sizes(self) -> dict[ObjectPath, int]:
        """Objects at any depth, with their bytes: one request for each thousand."""
        return {self._of(self._root, each["path"]): each["size"] for each in self._listed()}

    def iterdir(self) -> Iterator[ObjectPath]:
        """Objects and prefixes right below."""
        with self._errors():
            found = obstore_module().list_with_delimiter(self._store, self._key or None)
        traffic.add()
        names = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        yield from (self._of(self._root, name) for name in names)

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """As `Path.glob`, for patterns of names, one a level."""
        first, _, below = pattern.partition("/")
        for path in self.iterdir():
            if fnmatch.fnmatchcase(path.name, first):
                yield from path.glob(below) if below else (path,)

    def rglob(self, pattern: str) -> Iterator[ObjectPath]:
        """Objects at any depth whose name fits."""
        paths = (self._of(self._root, each["path"]) for each in self._listed())
        return (path for path in paths if fnmatch.fnmatchcase(path.name, pattern))

    def open(self, mode: str = "rb", buffering: int = BLOCK) -> io.BufferedReader:
        """The object as a file that reads ranges; it is written as a whole, by `write_bytes`."""
        if mode != "rb":
            raise io.UnsupportedOperation(f"{self}: objects are opened for reading")
        return io.BufferedReader(RangeFile(self.read_range, self.stat().st_size), buffering)

    @property
    def is_on_web(self) -> bool:
        """Whether a web server has it, which lists nothing and takes nothing."""
        return self._root.partition("://")[0] in WEB

    @property
    def _store(self) -> Any:
        return connection(self._root)

    def opened_store(self) -> tuple[Any, str]:
        """Obstore's store of the bucket or server, and the key in it."""
        return self._store, self._key

    def walk(self, after: str = "") -> Iterator[tuple[str, Any]]:
        """Keys of the objects at any depth, relative to this prefix and in order, with what `stat` says of each.

        Parameters
        ----------
        after
            Relative key; those up to it are left out.
        """
        start, offset = len(self._key) + bool(self._key), "/".join(filter(None, (self._key, after))) if after else None
        return ((each["path"][start:], _status(each)) for each in self._listed(offset))

    def _listed(self, offset: str | None = None) -> Iterator[Any]:
        """What obstore says of the objects at any depth, behind a key: a request for each thousand."""
        with self._errors():
            for some in obstore_module().list(self._store, self._key or None, offset=offset, chunk_size=1000):
                traffic.add()
                yield from some

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What obstore raises, as files would."""
        try:
            yield
        except Exception as error:
            if isinstance(error, ValueError) and "parse path" in str(error):
                raise FileNotFoundError(f"{self}: cannot be the name of an object") from None
            if not (isinstance(error, FileNotFoundError) or type(error).__module__.startswith("obstore")):
                raise
            raise explained(error, self) from None
        reached(self._root)


AnyPath = Path | ObjectPath
"""Of a file or of an object."""


class RangeFile(io.RawIOBase):
    """A file made of what reads ranges, for libraries that take files.

    Parameters
    ----------
    read
        Gives bytes from an offset on, at most as many as it is asked for.
    size
        Bytes of the file.

    Examples
    --------
    >>> RangeFile(lambda start, count: b"0123456789"[start : start + count], 10).read()
    b'0123456789'
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size, self._at = read, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Offset of what is read next."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.IOBase.seek`."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase.readinto`."""
        count = max(0, min(len(buffer), self._size - self._at))
        found = self._read(self._at, count) if count else b""
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def _status(found: Any) -> Any:
    modified = found["last_modified"].timestamp()
    return SimpleNamespace(st_size=found["size"], st_mtime=modified, st_mtime_ns=int(modified * 1e9),
                           e_tag=found["e_tag"])
