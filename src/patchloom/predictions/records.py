"""Records of a journal that say the same of many images, as one: small images would fill it with names of fields."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from patchloom.predictions.journal import Record

__all__ = ["began", "begun", "grouped"]


def grouped(records: Sequence[Record]) -> Iterator[Record]:
    """The same records, where those that follow each other and begin or complete images without files are one.

    Examples
    --------
    >>> list(grouped([{"is": "complete", "image": "a", "files": []}, {"is": "complete", "image": "b", "files": []}]))
    [{'is': 'completed', 'images': ['a', 'b']}]
    """
    for kind, following in itertools.groupby(records, _kind):
        some = list(following)
        if kind is None or len(some) == 1:
            yield from some
        elif kind == "complete":
            yield {"is": "completed", "images": [record["image"] for record in some]}
        else:
            yield began((one["image"], one["identity"], one["info"], one["patches"]) for one in some)


def began(images: Iterable[tuple[str, str, Any, int]]) -> Record:
    """Record that images are begun: name, identity, description and number of patches of each.

    Images of a collection have few descriptions; each is there once.
    """
    infos: list[Any] = []
    listed: list[tuple[str, str, int, int]] = []
    for name, identity, info, patches in images:
        if not infos or info != infos[-1]:
            infos.append(info)
        listed.append((name, identity, len(infos) - 1, patches))
    return {"is": "begun", "infos": infos, "images": listed}


def begun(record: Record) -> Iterator[tuple[str, str, Any, int]]:
    """Name, identity, description and number of patches of the images that a record says are begun."""
    infos = record["infos"]
    return ((name, identity, infos[number], patches) for name, identity, number, patches in record["images"])


def _kind(record: Record) -> str | None:
    return record["is"] if record["is"] in ("image", "complete") and not record["files"] else None

