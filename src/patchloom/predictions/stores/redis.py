"""Predictions in Redis: a hash for each image and head.

Keys, all beginning with ``patchloom:<run>:``: ``heads`` is a hash of head -> JSON of its dtype, shape and classes;
``images`` is a set of names; ``maps`` is a hash of image -> JSON of where its maps are, by head;
``<head>:<image>`` is a hash. Its fields are origins, big-endian int32 numbers one after the other (loop axes first):
``struct.pack(">2i", y, x)``. Its values are predictions, little-endian in C order, or empty where the patch was
skipped.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from patchloom.errors import MissingExtraError, StoreError
from patchloom.predictions.patches import UnitRows
from patchloom.predictions.stores.rows import keys_of, skipped_of, unpacked
from patchloom.predictions.stores.server import Server, Trouble
from patchloom.predictions.stores.store import StoredRows, StoredRun
from patchloom.predictions.stores.url import with_password

try:
    import redis
    from redis import exceptions
except ImportError as error:
    raise MissingExtraError.of("redis", "redis", "a store in Redis") from error

__all__ = ["RedisStore"]

BATCH = 4096
"""Rows of a command."""


class RedisStore:
    """A run's predictions in Redis.

    Parameters
    ----------
    url
        ``redis://[user][:password@]host[:port]/number``, ``rediss://…`` with TLS.
    run
        Whose predictions.
    """

    def __init__(self, url: str, run: StoredRun) -> None:
        self._run = run
        url = with_password(url)
        self._server = Server(url, _trouble)
        self._prefix = f"patchloom:{run.id}:".encode()
        self._dtypes = {head.name: head.dtype.newbyteorder("<") for head in run.heads}
        try:
            self._client: Any = redis.Redis.from_url(url, socket_connect_timeout=10, health_check_interval=30)
        except ValueError:
            raise StoreError("the store's URL cannot be understood", "redis://host:6379/0") from None
        self._server(self._client.ping)
        self._described = False

    def put(self, axes: str, rows: Mapping[str, Sequence[UnitRows]]) -> None:
        """As `PredictionStore.put`: one pipeline, which is no transaction."""

        def write() -> None:
            with self._client.pipeline(transaction=False) as pipeline:
                if not self._described:
                    self._describe(pipeline)
                for name, parts in rows.items():
                    for part in parts:
                        pipeline.sadd(self._prefix + b"images", _name(part.image))
                        fields = list(zip(_fields(part), self._packed(name, part), strict=True))
                        for first in range(0, len(fields), BATCH):
                            pipeline.hset(self._key(name, part.image), mapping=dict(fields[first : first + BATCH]))
                pipeline.execute()
            self._described = True

        self._server(write)

    def get(self, head: str, image: str, axes: str, key: tuple[int, ...]) -> Any | None:
        """As `PredictionStore.get`."""
        packed = self._server(lambda: self._client.hget(self._key(head, image), struct.pack(f">{len(key)}i", *key)))
        return self._unpacked(head, packed)

    def rows(self, head: str, image: str, axes: str) -> Iterator[StoredRows]:
        """As `PredictionStore.rows`: all origins at first, predictions as they are asked for."""
        name = self._key(head, image)
        there = self._server(lambda: self._client.hkeys(name))
        keys = sorted(struct.unpack(f">{len(axes)}i", field) for field in there)
        for first in range(0, len(keys), BATCH):
            here = keys[first : first + BATCH]
            fields = [struct.pack(f">{len(axes)}i", *key) for key in here]
            packed = self._server(partial(self._client.hmget, name, fields))
            found = [(key, one) for key, one in zip(here, packed, strict=True) if one is not None]
            if found:  # else somebody has removed them meanwhile
                texts = [one for _, one in found]
                yield StoredRows(np.asarray([key for key, _ in found], np.int64),
                                 unpacked(self._run.head(head), texts), np.asarray([not one for one in texts]))

    def count(self, head: str, image: str | None = None) -> int:
        """As `PredictionStore.count`."""
        if image is not None:
            return int(self._server(lambda: self._client.hlen(self._key(head, image))))
        return sum(sum(self._server(partial(self._lengths, head, names))) for names in self._image_pages())

    def link(self, images: Mapping[str, Mapping[str, str]]) -> None:
        """As `PredictionStore.link`."""
        fields = {_name(image): json.dumps(dict(maps)) for image, maps in images.items()}
        if fields:
            self._server(lambda: self._client.hset(self._prefix + b"maps", mapping=fields))

    def maps(self, image: str) -> dict[str, str]:
        """As `PredictionStore.maps`."""
        found = self._server(lambda: self._client.hget(self._prefix + b"maps", _name(image)))
        return {} if found is None else dict(json.loads(found))

    def delete(self, image: str | None = None) -> None:
        """As `PredictionStore.delete`."""
        names = [_name(image)] if image is not None else None
        for page in [names] if names is not None else self._image_pages():
            self._server(partial(self._remove, page))
        if image is None:
            rest = [self._prefix + name for name in (b"images", b"heads", b"maps")]
            self._server(lambda: self._client.delete(*rest))

    def close(self) -> None:
        """As `PredictionStore.close`."""
        self._client.close()

    def _describe(self, pipeline: Any) -> None:
        pipeline.hset(self._prefix + b"heads", mapping={
            head.name: json.dumps({"dtype": head.dtype.name, "shape": head.shape, "classes": head.classes})
            for head in self._run.heads})

    def _remove(self, names: Sequence[bytes]) -> None:
        with self._client.pipeline(transaction=False) as pipeline:
            for name in names:
                for head in self._run.heads:
                    pipeline.unlink(self._hash(head.name, name))
            pipeline.srem(self._prefix + b"images", *names)
            pipeline.hdel(self._prefix + b"maps", *names)
            pipeline.execute()

    def _lengths(self, head: str, names: Sequence[bytes]) -> list[int]:
        with self._client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.hlen(self._hash(head, name))
            return list(pipeline.execute())

    def _image_pages(self) -> Iterator[list[bytes]]:
        """Names of all images, each once."""
        names = sorted(self._server(lambda: set(self._client.sscan_iter(self._prefix + b"images", count=BATCH))))
        for first in range(0, len(names), BATCH):
            yield names[first : first + BATCH]

    def _key(self, head: str, image: str) -> bytes:
        return self._hash(head, _name(image))

    def _hash(self, head: str, name: bytes) -> bytes:
        return self._prefix + head.encode() + b":" + name

    def _packed(self, head: str, rows: UnitRows) -> Iterator[bytes]:
        values = np.ascontiguousarray(rows.values, self._dtypes[head])
        return (b"" if skipped else value.tobytes() for value, skipped in zip(values, skipped_of(rows), strict=True))

    def _unpacked(self, head: str, packed: Any) -> Any | None:
        if not packed:
            return None
        return unpacked(self._run.head(head), [packed])[0]


def _fields(rows: UnitRows) -> Iterator[bytes]:
    return (row.tobytes() for row in keys_of(rows).astype(">i4"))


def _name(image: str) -> bytes:
    return image.encode("utf-8", "surrogatepass")


def _trouble(error: Exception) -> Trouble | None:
    if isinstance(error, (exceptions.AuthenticationError, exceptions.NoPermissionError)):
        return "password"
    if isinstance(error, (exceptions.BusyLoadingError, exceptions.TryAgainError, exceptions.ReadOnlyError)):
        return "busy"
    if isinstance(error, (exceptions.ConnectionError, exceptions.TimeoutError)):
        return "away"
    return "other" if isinstance(error, exceptions.RedisError) else None
