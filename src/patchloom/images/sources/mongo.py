"""Images that documents of a MongoDB collection hold, or hold the paths of, and files in GridFS.

As with SQL, documents are enumerated in pages in the order of their key, and encoded images are fetched when needed.
"""

from __future__ import annotations

import atexit
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote

from patchloom.errors import ImageError, MissingExtraError, SourceError, UnreadableImageError, UsageError
from patchloom.images.sources.entry import Entry
from patchloom.images.sources.paths import path_entry
from patchloom.images.sources.patience import ENVIRONMENT, Patience
from patchloom.images.sources.stored import OpenStored, Refused, row_name
from patchloom.images.sources.urls import is_mongo_url, without_secrets

try:
    import pymongo
    from pymongo.errors import AutoReconnect, ConfigurationError, InvalidURI, NetworkTimeout, PyMongoError
except ImportError as error:
    raise MissingExtraError.of("pymongo", "mongodb", "a source in MongoDB") from error

__all__ = ["MongoSource"]

T = TypeVar("T")
Document = Mapping[str, Any]

WAIT = 3000
"""Milliseconds that the driver waits for a server before we do."""
PAGE = 1000
NUMBERS = (int, float)


@dataclass(frozen=True)
class MongoSource:
    """Documents of a collection as images, in the order of their key.

    Parameters
    ----------
    url
        ``mongodb://user:password@host``. The password is used and never shown or kept; where the URL has none, that of
        the same URL in the environment variable ``PATCHLOOM_SOURCE`` is taken.
    database, collection
        Where the documents are. With `gridfs`, the collection is the name of the bucket, ``fs`` in most databases.
    query
        Filter of documents, as `find` takes it.
    key
        Field whose values are there in each document, unique and of one type; the image is called ``str(key)``. A field
        within a field is ``outer.inner``.
    image
        Field of the encoded images (PNG, JPEG, TIFF, NPY …), or of their paths. Not needed with `gridfs`.
    gridfs
        Whether images are files in GridFS.
    root, axes
        As for `SQLSource`.

    Raises
    ------
    UsageError
        If `image` is missing, or given with `gridfs`.
    SourceError
        When it is enumerated: if the server cannot be reached, keys are not as said above, or there are no documents.

    Examples
    --------
    >>> MongoSource("mongodb://me:secret@host", "lab", "photos", image="jpeg")
    MongoSource('mongodb://me@host', database='lab', collection='photos', key='_id', image='jpeg')
    """

    url: str = field(repr=False)
    database: str
    collection: str
    query: Document | None = field(default=None, kw_only=True, hash=False)
    key: str = field(default="_id", kw_only=True)
    image: str | None = field(default=None, kw_only=True)
    gridfs: bool = field(default=False, kw_only=True)
    root: str | None = field(default=None, kw_only=True)
    axes: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if (self.image is None) != self.gridfs:
            raise UsageError("MongoDB: which field is the image?", "image='jpeg', or gridfs=True without it")
        given = os.environ.get(ENVIRONMENT, "")
        if is_mongo_url(given) and self.url == without_secrets(given):
            object.__setattr__(self, "url", given)
        if self.root is not None and "://" not in self.root:
            object.__setattr__(self, "root", os.path.abspath(os.path.expanduser(self.root)))

    def __iter__(self) -> Iterator[Entry]:
        """Enumerate; see `Source`."""
        self._check_keys()
        last: Any = None
        while True:
            page = self._aggregated(self._page(last))
            for found in page:
                yield self._entry(found)
            if len(page) < PAGE:
                return
            last = page[-1]["key"]

    def spec(self) -> Mapping[str, Any] | None:
        """All but the password; None where the filter holds what JSON does not. See `Source.spec`."""
        if not _is_plain(self.query):
            return None
        names = ("database", "collection", "query", "key", "image", "gridfs", "root", "axes")
        return {"kind": "mongo", "url": without_secrets(self.url)} | {name: getattr(self, name) for name in names}

    def fetch(self, keys: Sequence[Any]) -> Mapping[Any, Any]:
        """Encoded images of some keys, in one query; see `Blobs`."""
        found = self._read(lambda: list(self._documents.find({self.key: {"$in": list(keys)}}, self._wanted)))
        if self.gridfs:
            return self._read(lambda: self._assembled(found))
        return {_value(one, self.key): _value(one, self.image or "") for one in found}

    @property
    def _wanted(self) -> dict[str, int]:
        return {self.key: 1, "_id": 1, "length": 1} if self.gridfs else {self.key: 1, str(self.image): 1}

    @property
    def _documents(self) -> Any:
        name = f"{self.collection}.files" if self.gridfs else self.collection
        return _client(self.url)[self.database][name]

    def _assembled(self, files: Sequence[Document]) -> dict[Any, bytes | ImageError]:
        """Files out of their chunks, all in one query."""
        chunks = _client(self.url)[self.database][f"{self.collection}.chunks"]
        parts: dict[Any, list[bytes]] = {one["_id"]: [] for one in files}
        for chunk in chunks.find({"files_id": {"$in": list(parts)}}).sort([("files_id", 1), ("n", 1)]):
            parts[chunk["files_id"]].append(bytes(chunk["data"]))
        return {_value(one, self.key): self._complete(one, b"".join(parts[one["_id"]])) for one in files}

    def _complete(self, file: Document, data: bytes) -> bytes | ImageError:
        if len(data) == file["length"]:
            return data
        return UnreadableImageError(f"{_value(file, self.key)}: has {len(data)} of {file['length']} bytes in "
                                    f"{self.collection}.chunks", "store the file again")

    def _page(self, last: Any) -> list[dict[str, Any]]:
        after = [] if last is None else [{"$match": {self.key: {"$gt": last}}}]
        described: dict[str, Any] = {"_id": 0, "key": f"${self.key}"}
        if self.gridfs:
            described |= {"length": 1, "uploadDate": 1}
        else:
            type_ = {"$type": f"${self.image}"}
            described |= {
                "type": type_,
                "text": {"$cond": [{"$eq": [type_, "string"]}, f"${self.image}", None]},
                "size": {"$cond": [{"$eq": [type_, "binData"]}, {"$binarySize": f"${self.image}"}, None]},
            }
        return [{"$match": dict(self.query or {})}, *after, {"$sort": {self.key: 1}}, {"$limit": PAGE},
                {"$project": described}]

    def _entry(self, found: Document) -> Entry:
        key = found["key"]
        name = row_name(key)
        if isinstance(found.get("text"), str):
            return path_entry(name, found["text"], self.axes, root=self.root, base=os.getcwd())
        shown = f"{name} ({self.key} of {self.collection})"
        if self.gridfs:
            size: int | None = found.get("length")
            identity = f"file:{size}:{found.get('uploadDate')}"
        else:
            size, identity = found.get("size"), f"document:{found.get('size')}"
            if found["type"] in ("missing", "null", "undefined"):
                return Entry(name, Refused(f"{shown}: holds no image", "leave it out with query="), "null")
        return Entry(name, OpenStored(self, key, shown, size, self.axes), identity)

    def _check_keys(self) -> None:
        chosen = {"$match": dict(self.query or {})}
        ends = [one for order in (1, -1) for one in self._aggregated(
            [chosen, {"$sort": {self.key: order}}, {"$limit": 1}, {"$project": {"_id": 0, "key": f"${self.key}"}}])]
        if not ends:
            raise SourceError(f"{self._what} holds no such documents", "correct the names or the query")
        least, most = (one.get("key") for one in ends)
        if least is None or most is None:
            raise SourceError(f"{self._what}: the key {self.key} is missing in some document", "choose another key")
        numbers = isinstance(least, NUMBERS) and isinstance(most, NUMBERS)
        if type(least) is not type(most) and not numbers:
            mixed = f"{type(least).__name__} and {type(most).__name__}"
            raise SourceError(f"{self._what}: keys {mixed} are mixed in {self.key}",
                              "choose a field of one type as key")
        if self.key != "_id":
            twice = self._aggregated([chosen, {"$group": {"_id": f"${self.key}", "n": {"$sum": 1}}},
                                      {"$match": {"n": {"$gt": 1}}}, {"$limit": 1}])
            if twice:
                raise SourceError(f"{self._what}: the key {twice[0]['_id']!r} is there more than once",
                                  "choose a field of different values as key")

    def _aggregated(self, stages: list[dict[str, Any]]) -> list[Document]:
        return self._read(lambda: list(self._documents.aggregate(stages, allowDiskUse=True)))

    @property
    def _what(self) -> str:
        return f"collection {self.database}.{self.collection}"

    def _read(self, work: Callable[[], T]) -> T:
        try:
            return _patience(self.url)(work, lambda error: isinstance(error, (AutoReconnect, NetworkTimeout)))
        except PyMongoError as error:
            away = isinstance(error, (AutoReconnect, NetworkTimeout))
            reason = " ".join(str(error).partition(", Timeout:")[0].split())
            hint = "start the server, or correct host and port; then resume the run" if away else (
                f"correct the URL; {ENVIRONMENT} may hold it with its password")
            raise SourceError(f"{without_secrets(self.url)}: {_hidden(reason, self.url)}", hint) from None

    def __repr__(self) -> str:
        names = ("database", "collection", "query", "key", "image", "gridfs", "root", "axes")
        given = [f"{name}={getattr(self, name)!r}" for name in names if getattr(self, name)]
        return f"MongoSource({', '.join([repr(without_secrets(self.url)), *given])})"


def _value(document: Any, name: str) -> Any:
    """Field of a document, ``outer.inner`` for one within another; None where it is not there."""
    for part in name.split("."):
        document = document.get(part) if isinstance(document, Mapping) else None
    return document


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(one) for one in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(one) for one in value)
    return value is None or isinstance(value, (str, int, float, bool))


def _hidden(text: str, url: str) -> str:
    found = re.match(r"mongodb(?:\+srv)?://[^/@:]*:([^@]*)@", url)
    for secret in {found[1], unquote(found[1])} - {""} if found else ():
        text = text.replace(secret, "***")
    return text


_clients: dict[tuple[int, str], tuple[Any, Patience]] = {}
_connecting = threading.Lock()


def _connected(url: str) -> tuple[Any, Patience]:
    """Client of a URL, opened once a process."""
    with _connecting:
        found = _clients.get((os.getpid(), url))
        if found is None:
            try:
                client: Any = pymongo.MongoClient(url, serverSelectionTimeoutMS=WAIT)
            except (InvalidURI, ConfigurationError, ValueError) as error:
                raise SourceError(f"the URL of the database cannot be understood: {_hidden(str(error), url)}",
                                  "mongodb://user@host/") from None
            found = _clients[os.getpid(), url] = client, Patience()
        return found


def _client(url: str) -> Any:
    return _connected(url)[0]


def _patience(url: str) -> Patience:
    return _connected(url)[1]


@atexit.register
def _close_all() -> None:
    for (process, _), (client, _) in _clients.items():
        if process == os.getpid():
            client.close()
