"""Rows as stores keep them: keys of images, names of scores, values as bytes."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.models.model import Head
from patchloom.predictions.patches import UnitRows, score_columns
from patchloom.predictions.stores.store import StoredRows

__all__ = ["AXES", "WORDS", "collected", "coordinates", "digest", "has_columns", "key_of", "keys_of", "printable",
           "score_names", "skipped_of", "unpacked"]

AXES = "STZYX"
"""Columns of a key in tables; those that an image does not have are 0."""
WORDS = {"Z": ("slab", "depth"), "Y": ("row", "height"), "X": ("col", "width")}
"""For each spatial axis, what the place of a patch on its grid is called, and its size in pixels."""
MOST_COLUMNS = 500
"""Scores that become columns or fields of their own; more are one array."""
MEANT = frozenset(".$`\"\\%:?")
"""Letters in names that mean something to some database, or to its driver, whatever is done to quote them."""
LONGEST_NAME = 56
"""Bytes of a column's name: PostgreSQL cuts at 63."""


def digest(text: str, size: int = 16) -> str:
    """Hexadecimal name for any text, also one that no database takes."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()


def printable(text: str) -> str:
    """Text as every database takes it: what is no text, and NUL, are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


def has_columns(head: Head) -> bool:
    """Whether numbers of a prediction are kept one by one, as numbers, and not as one array."""
    number = head.dtype.kind in "fiub" and head.dtype.itemsize <= 8
    columns = score_columns(head)
    return number and (not head.shape or columns != ["prediction"]) and len(columns) <= MOST_COLUMNS


def score_names(head: Head, taken: Sequence[str]) -> list[str]:
    """Names of columns or fields for scores: as `score_columns` gives them, but short, of letters that every database
    takes, and different even where capitals and accents do not count.

    Examples
    --------
    >>> score_names(Head("h", "vector", np.dtype("f4"), (3,), classes=("run", "é", "E")), ["run"])
    ['run_', 'é', 'E_']
    """
    names, used = [], {_folded(name) for name in taken}
    for name in score_columns(head):
        plain = (c if c.isprintable() and ord(c) < 0x10000 and c not in MEANT else "_" for c in printable(name))
        name = "".join(plain)
        name = name.strip() or "_"
        if len(name.encode()) > LONGEST_NAME:
            name = f"{name.encode()[: LONGEST_NAME - 17].decode('utf-8', 'ignore')}_{digest(name, 8)}"
        while _folded(name) in used:
            name += "_"
        used.add(_folded(name))
        names.append(name)
    return names


def _folded(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def coordinates(axes: str, key: Sequence[int]) -> list[int]:
    """A key on all of `AXES`.

    Examples
    --------
    >>> coordinates("TYX", (3, 0, 512))
    [0, 3, 0, 0, 512]
    """
    by_axis = dict(zip(axes, key, strict=True))
    return [int(by_axis.get(axis, 0)) for axis in AXES]


def key_of(axes: str, values: Sequence[int]) -> tuple[int, ...]:
    """What `coordinates` was given."""
    return tuple(values[AXES.index(axis)] for axis in axes)


def keys_of(rows: UnitRows) -> NDArray[np.int64]:
    """Keys of all rows of a part, ``(n, d)``."""
    loops = np.broadcast_to(np.asarray(rows.loops, np.int64), (len(rows.starts), len(rows.loops)))
    return np.concatenate([loops, rows.starts], axis=1)


def skipped_of(rows: UnitRows) -> NDArray[np.bool_]:
    """A mark a row."""
    return np.zeros(len(rows.values), np.bool_) if rows.skipped is None else rows.skipped


def collected(head: Head, found: Sequence[tuple[tuple[int, ...], Any]], width: int) -> Iterator[StoredRows]:
    """One batch of rows out of keys and predictions, which are None where they were skipped.

    Parameters
    ----------
    head
        Of the predictions.
    found
        In order.
    width
        Numbers of a key.
    """
    if found:
        keys = np.asarray([key for key, _ in found], np.int64).reshape(-1, width)
        values = np.zeros((len(found), *head.shape), head.dtype)
        for i, (_, value) in enumerate(found):
            if value is not None:
                values[i] = value
        yield StoredRows(keys, values, np.asarray([value is None for _, value in found], np.bool_))


def unpacked(head: Head, packed: Sequence[bytes]) -> NDArray[Any]:
    """Predictions out of their bytes, ``(n, …)``; zero where these are none, since the patch was skipped."""
    nothing = bytes(head.dtype.itemsize * math.prod(head.shape))
    joined = b"".join(one or nothing for one in packed)
    return np.frombuffer(joined, head.dtype.newbyteorder("<")).astype(head.dtype).reshape(len(packed), *head.shape)
