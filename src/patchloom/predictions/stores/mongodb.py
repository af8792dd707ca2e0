"""Predictions in MongoDB: one document a patch, in the collection ``patchloom_predictions``.

Fields: ``run``, ``head``, ``image`` (readable) and ``image_key`` (a digest of the name, exact), ``s``, ``t``, ``z``,
``y``, ``x``, ``slab``, ``row``, ``col``, ``depth``, ``height``, ``width``, ``skipped``; then ``scores``, a document of
numbers named after the classes, or ``value``, the prediction as bytes (little-endian, C order), with ``dtype`` and
``shape``. ``_id`` is made of run, head, image and origin: writing a patch twice is writing it once.
``patchloom_maps`` has one document an image with ``run``, ``image``, ``image_key`` and ``maps``, a list of ``head`` and
``location``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from patchloom.errors import MissingExtraError, StoreError
from patchloom.models.model import Head
from patchloom.predictions.patches import UnitRows
from patchloom.predictions.stores.rows import (
    AXES,
    WORDS,
    collected,
    coordinates,
    digest,
    has_columns,
    key_of,
    keys_of,
    printable,
    score_names,
    skipped_of,
)
from patchloom.predictions.stores.server import Server, Trouble
from patchloom.predictions.stores.store import StoredRows, StoredRun
from patchloom.predictions.stores.url import with_password

try:
    import pymongo
    from pymongo import WriteConcern, errors
except ImportError as error:
    raise MissingExtraError.of("pymongo", "mongodb", "a store in MongoDB") from error

__all__ = ["MongoStore"]

BATCH = 2000
"""Documents of a command."""
COLLECTION, MAPS = "patchloom_predictions", "patchloom_maps"
WAIT = 3000
"""Milliseconds that the driver waits for a server before we do."""
ORDER = ("run", "head", "image_key", *AXES.lower())
ASKED = (*AXES.lower(), "skipped", "scores", "value")
"""Fields that a prediction is made of."""


class MongoStore:
    """A run's predictions in MongoDB; what is put is in the server's journal, unless the URL says ``journal=false``.

    Parameters
    ----------
    url
        ``mongodb://[user:password@]host[:port]/database``; without a database it is ``patchloom``.
    run
        Whose predictions.
    """

    def __init__(self, url: str, run: StoredRun) -> None:
        self._run = run
        url = with_password(url)
        self._server = Server(url, _trouble)
        try:
            self._client: Any = pymongo.MongoClient(url, serverSelectionTimeoutMS=WAIT, connectTimeoutMS=WAIT)
            concern = WriteConcern(**{"j": True, **self._client.write_concern.document})
            database = self._client.get_default_database("patchloom", write_concern=concern)
            self._documents, self._maps = database[COLLECTION], database[MAPS]
        except (errors.InvalidURI, errors.ConfigurationError, ValueError) as error:
            if "password is required" in str(error):  # of the user whom a run's URL names
                raise self._server.error(error, "password") from None
            raise StoreError("the store's URL cannot be understood", "mongodb://host:27017/name") from None
        self._names = {head.name: score_names(head, ()) for head in run.heads if has_columns(head) and _exact(head)}
        try:
            self._server(lambda: self._documents.create_index([(name, 1) for name in ORDER], unique=True))
        except StoreError:
            self._client.close()
            raise

    def put(self, axes: str, rows: Mapping[str, Sequence[UnitRows]]) -> None:
        """As `PredictionStore.put`."""
        self._replace(self._documents, (
            document for name, parts in rows.items() for part in parts for document in self._made(name, axes, part)))

    def get(self, head: str, image: str, axes: str, key: tuple[int, ...]) -> Any | None:
        """As `PredictionStore.get`."""
        wanted = {"_id": self._id(head, digest(image), coordinates(axes, key))}
        found = self._server(lambda: self._documents.find_one(wanted, ASKED))
        return None if found is None else self._value(head, found)

    def rows(self, head: str, image: str, axes: str) -> Iterator[StoredRows]:
        """As `PredictionStore.rows`: pages of the index."""
        of = {"run": self._run.id, "head": head, "image_key": digest(image)}
        order = [(axis, 1) for axis in AXES.lower()]
        after: dict[str, Any] = {}
        while True:
            found = self._server(partial(self._page, of | after, order))
            places = [[document[axis] for axis in AXES.lower()] for document in found]
            keyed = [(key_of(axes, place), self._value(head, one)) for place, one in zip(places, found, strict=True)]
            yield from collected(self._run.head(head), keyed, len(axes))
            if len(found) < BATCH:
                return
            after = {"$or": [_behind(places[-1], i) for i in range(len(AXES))]}

    def count(self, head: str, image: str | None = None) -> int:
        """As `PredictionStore.count`."""
        wanted = self._of(image) | {"head": head}
        return int(self._server(lambda: self._documents.count_documents(wanted)))

    def link(self, images: Mapping[str, Mapping[str, str]]) -> None:
        """As `PredictionStore.link`."""
        self._replace(self._maps, (
            {"_id": f"{self._run.id}/{digest(image)}", "run": self._run.id, "image": printable(image),
             "image_key": digest(image),
             "maps": [{"head": head, "location": printable(location)} for head, location in maps.items()]}
            for image, maps in images.items()))

    def maps(self, image: str) -> dict[str, str]:
        """As `PredictionStore.maps`."""
        found = self._server(lambda: self._maps.find_one({"_id": f"{self._run.id}/{digest(image)}"}))
        return {} if found is None else {each["head"]: each["location"] for each in found["maps"]}

    def delete(self, image: str | None = None) -> None:
        """As `PredictionStore.delete`."""
        linked = self._of(None) if image is None else {"_id": f"{self._run.id}/{digest(image)}"}
        self._server(lambda: self._maps.delete_many(linked))
        for head in self._run.heads:  # the index begins with run and head
            wanted = self._of(image) | {"head": head.name}
            self._server(partial(self._documents.delete_many, wanted))

    def close(self) -> None:
        """As `PredictionStore.close`."""
        self._client.close()

    def _replace(self, collection: Any, documents: Iterable[dict[str, Any]]) -> None:
        """Put documents, each in place of that with the same ``_id``."""
        writes = [pymongo.ReplaceOne({"_id": document["_id"]}, document, upsert=True) for document in documents]
        for first in range(0, len(writes), BATCH):
            here = writes[first : first + BATCH]
            self._server(partial(collection.bulk_write, here, ordered=False))

    def _page(self, wanted: Mapping[str, Any], order: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
        return list(self._documents.find(wanted, ASKED).sort(order).limit(BATCH))

    def _of(self, image: str | None) -> dict[str, Any]:
        return {"run": self._run.id} | ({} if image is None else {"image_key": digest(image)})

    def _id(self, head: str, image_key: str, place: Sequence[int]) -> str:
        return f"{self._run.id}/{head}/{image_key}/{'.'.join(map(str, place))}"

    def _made(self, name: str, axes: str, rows: UnitRows) -> Iterator[dict[str, Any]]:
        head, image_key = self._run.head(name), digest(rows.image)
        names = self._names.get(name)
        little = np.ascontiguousarray(rows.values, head.dtype.newbyteorder("<"))
        about = {"run": self._run.id, "head": name, "image": printable(rows.image), "image_key": image_key}
        spatial = axes[len(rows.loops) :]
        words = [WORDS[axis][i] for i in (0, 1) for axis in spatial]
        sizes = np.concatenate([rows.places, rows.shapes], axis=1).tolist()
        for key, numbers, value, skipped in zip(
            keys_of(rows).tolist(), sizes, little, skipped_of(rows).tolist(), strict=True
        ):
            place = coordinates(axes, key)
            document = {"_id": self._id(name, image_key, place), **about, **dict(zip(AXES.lower(), place, strict=True)),
                        **dict(zip(words, numbers, strict=True)), "skipped": skipped}
            if skipped:
                yield document
            elif names is None:
                yield document | {"value": value.tobytes(), "dtype": head.dtype.name, "shape": list(head.shape)}
            else:
                yield document | {"scores": dict(zip(names, value.reshape(-1).tolist(), strict=True))}

    def _value(self, name: str, document: Mapping[str, Any]) -> Any | None:
        head = self._run.head(name)
        if document["skipped"]:
            return None
        if "value" in document:
            found = np.frombuffer(document["value"], head.dtype.newbyteorder("<")).astype(head.dtype)
        else:
            found = np.asarray([document["scores"][score] for score in self._names[name]], head.dtype)
        return found.reshape(head.shape)[()]


def _exact(head: Head) -> bool:
    """Whether MongoDB has numbers for all values: its integers have a sign."""
    return head.dtype != np.uint64


def _behind(last: Sequence[int], i: int) -> dict[str, Any]:
    """Documents that agree with `last` on the first i axes and are behind it on the next one."""
    axes = AXES.lower()
    return {**dict(zip(axes[:i], last[:i], strict=True)), axes[i]: {"$gt": last[i]}}


def _trouble(error: Exception) -> Trouble | None:
    if not isinstance(error, errors.PyMongoError):
        return None
    code = getattr(error, "code", None)
    if code in (13, 18) or "authentication failed" in str(error).lower():
        return "password"
    if isinstance(error, (errors.AutoReconnect, errors.NetworkTimeout, errors.ServerSelectionTimeoutError)):
        return "away"
    duplicate = isinstance(error, errors.BulkWriteError) and all(
        found.get("code") == 11000 for found in (error.details or {}).get("writeErrors", [])) and bool(
        (error.details or {}).get("writeErrors"))  # fmt: skip
    return "busy" if duplicate or isinstance(error, errors.DuplicateKeyError) else "other"
