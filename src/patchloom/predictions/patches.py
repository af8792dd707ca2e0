"""Tables of vector heads: one immutable Parquet file a unit, one row a patch.

Columns: ``image``, the loop axes (``s``, ``t``, ``z``), ``row``, ``col``, ``y``, ``x``, ``height``, ``width`` (3-D: ``slab``, ``z`` and
``depth`` in front of theirs), then the scores: one column a class, or ``prediction`` where there are no classes or too many of
them. Rows are sorted by image, loops and place.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from patchloom.errors import RunDamagedError
from patchloom.geometry.axes import spatial_axes
from patchloom.models.model import Head

__all__ = ["PatchFile", "PatchFiles", "UnitRows", "encode_unit", "key_columns", "schema", "score_columns"]

ROW_GROUP = 1024
"""Rows that a lookup reads."""
MOST_COLUMNS = 64
"""Numbers of a prediction that become columns of their own; more are one column of lists, unless they have names."""
PLACE_WORDS = {"Z": "slab", "Y": "row", "X": "col"}
SIZE_WORDS = {"Z": "depth", "Y": "height", "X": "width"}


@dataclass(frozen=True)
class UnitRows:
    """Rows of one image's plane within a unit.

    Parameters
    ----------
    image
        Its name.
    loops
        Index on each loop axis.
    places, starts, shapes
        ``(n, d)`` integers: place in the grid, first pixel, extent clipped to the image; sorted by place.
    values
        ``(n,)`` or ``(n, K)`` of the head's dtype.
    """

    image: str
    loops: tuple[int, ...]
    places: NDArray[np.int64]
    starts: NDArray[np.int64]
    shapes: NDArray[np.int64]
    values: NDArray[Any]


def key_columns(loop_axes: str, ndim: int) -> list[str]:
    """Names of the columns in front of the scores."""
    axes = spatial_axes(ndim)
    return ["image", *loop_axes.lower(), *(PLACE_WORDS[axis] for axis in axes), *axes.lower(),
            *(SIZE_WORDS[axis] for axis in axes)]


def score_columns(head: Head, loop_axes: str, ndim: int) -> list[str]:
    """Names of the score columns; a class that is called like a key column gets an underscore."""
    numbered = head.classes == tuple(map(str, range(len(head.classes))))
    if not head.classes or (numbered and len(head.classes) > MOST_COLUMNS):
        return ["prediction"]
    keys = set(key_columns(loop_axes, ndim))
    return [f"{name}_" if name in keys else name for name in head.classes]


def schema(head: Head, loop_axes: str, ndim: int) -> pa.Schema:
    """Columns and types of a head's table."""
    fields = [pa.field("image", pa.dictionary(pa.int32(), pa.string()), nullable=False)]
    fields += [pa.field(name, pa.int32(), nullable=False) for name in key_columns(loop_axes, ndim)[1:]]
    kind = pa.from_numpy_dtype(head.dtype)
    names = score_columns(head, loop_axes, ndim)
    if names == ["prediction"] and head.shape:
        kind = pa.list_(kind, head.shape[0])
    fields += [pa.field(name, kind, nullable=False) for name in names]
    about = {"name": head.name, "dtype": head.dtype.name, "shape": head.shape, "classes": head.classes}
    return pa.schema(fields, {"patchloom.head": json.dumps(about)})


def encode_unit(head: Head, loop_axes: str, ndim: int, rows: Sequence[UnitRows]) -> bytes:
    """A whole Parquet file; equal rows give equal bytes.

    Parameters
    ----------
    head
        Vector head, as it is stored.
    loop_axes, ndim
        Axes that the model does not see, and number of those that it does.
    rows
        Of all parts of the unit, in the order in which they are stored.
    """
    counts = [len(part.values) for part in rows]
    names = list(dict.fromkeys(part.image for part in rows))
    numbers = {name: i for i, name in enumerate(names)}
    image = np.repeat(np.asarray([numbers[part.image] for part in rows], np.int32), counts)
    columns: list[Any] = [pa.DictionaryArray.from_arrays(pa.array(image), pa.array(names, pa.string()))]
    loops = np.repeat(np.asarray([part.loops for part in rows], np.int32).reshape(len(rows), -1), counts, axis=0)
    integers = [np.concatenate([getattr(part, name) for part in rows]) for name in ("places", "starts", "shapes")]
    keys = np.concatenate([loops, *integers], axis=1).astype(np.int32)
    columns += [pa.array(np.ascontiguousarray(column)) for column in keys.T]
    columns += _score_arrays(np.concatenate([part.values for part in rows]), head, loop_axes, ndim)
    table = pa.Table.from_arrays(columns, schema=schema(head, loop_axes, ndim))
    floats = head.dtype.kind == "f"
    scores = score_columns(head, loop_axes, ndim)
    listed = scores == ["prediction"] and bool(head.shape)
    split = ["prediction.list.element"] if listed else scores
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=ROW_GROUP, compression="zstd", use_dictionary=["image"],
                   use_byte_stream_split=split if floats else False, write_page_checksum=True)
    return bytes(sink.getvalue())


def _score_arrays(values: NDArray[Any], head: Head, loop_axes: str, ndim: int) -> list[Any]:
    if score_columns(head, loop_axes, ndim) != ["prediction"]:
        return [pa.array(np.ascontiguousarray(column)) for column in values.T]
    if head.shape:
        return [pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), head.shape[0])]
    return [pa.array(values)]


class PatchFile:
    """One table, kept open; lookups read one row group of the columns that they need.

    Parameters
    ----------
    path
        Of the file.
    head, loop_axes, ndim
        As it was written.
    """

    def __init__(self, path: Path, head: Head, loop_axes: str, ndim: int) -> None:
        self.path, self._head, self._loop_axes, self._ndim = path, head, loop_axes, ndim
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise RunDamagedError(f"{path} cannot be read: {error}", "run `patchloom verify`") from error
        self._lock = threading.Lock()
        self._origin = [*loop_axes.lower(), *spatial_axes(ndim).lower()]
        self._scores = score_columns(head, loop_axes, ndim)

    def row(self, image: str, loops: tuple[int, ...], start: tuple[int, ...], near: int = 0) -> Any | None:
        """Prediction of one patch: ``(K,)`` or a number of the head's dtype; None where the table has no such row.

        Parameters
        ----------
        image, loops, start
            Which patch.
        near
            Row from which on it is looked for first.
        """
        groups = self._file.metadata.num_row_groups
        first = min(near // ROW_GROUP, max(0, groups - 1))
        for group in itertools.chain(range(first, groups), range(first)):
            found = self._in_group(group, image, (*loops, *start))
            if found is not None:
                return found
        return None

    def close(self) -> None:
        """Give the file handle back."""
        self._file.close()

    def _in_group(self, group: int, image: str, key: tuple[int, ...]) -> Any | None:
        with self._lock:
            table = self._read(group, ["image", *self._origin, *self._scores])
        match = pc.equal(table["image"], image)
        for name, value in zip(self._origin, key, strict=True):
            match = pc.and_(match, pc.equal(table[name], value))
        index = pc.index(match, True).as_py()
        return None if index < 0 else self._values(table.slice(index, 1))[0]

    def _read(self, group: int, columns: list[str]) -> pa.Table:
        try:
            return self._file.read_row_group(group, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise RunDamagedError(f"{self.path} cannot be read: {error}", "run `patchloom verify`") from error

    def _values(self, table: pa.Table) -> NDArray[Any]:
        if self._scores != ["prediction"]:
            return np.stack([table[name].to_numpy() for name in self._scores], axis=1).astype(self._head.dtype, copy=False)
        column = table["prediction"].combine_chunks()
        if not self._head.shape:
            return np.asarray(column.to_numpy(zero_copy_only=False), self._head.dtype)
        return np.asarray(column.flatten().to_numpy(zero_copy_only=False), self._head.dtype).reshape(
            -1, *self._head.shape)

    def rows(self, image: str, loops: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Any]]:
        """Origins and predictions of one plane of an image, a row group in memory at a time."""
        for group in range(self._file.metadata.num_row_groups):
            with self._lock:
                table = self._read(group, ["image", *self._origin, *self._scores])
            match = pc.equal(table["image"], image)
            for name, value in zip(self._origin, loops, strict=False):
                match = pc.and_(match, pc.equal(table[name], value))
            table = table.filter(match)
            starts = zip(*(table[name].to_pylist() for name in self._origin[len(loops) :]), strict=True)
            yield from zip(starts, self._values(table), strict=True)


class PatchFiles:
    """Open tables, the least recently used of which is closed when there are too many."""

    def __init__(self, capacity: int = 32) -> None:
        self._capacity = capacity
        self._open: OrderedDict[Path, PatchFile] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, path: Path, head: Head, loop_axes: str, ndim: int) -> PatchFile:
        """The table at `path`, opened if it is not."""
        with self._lock:
            file = self._open.pop(path, None) or PatchFile(path, head, loop_axes, ndim)
            self._open[path] = file
            while len(self._open) > self._capacity:
                self._open.popitem(last=False)  # closed when its last lookup is done with it
            return file
