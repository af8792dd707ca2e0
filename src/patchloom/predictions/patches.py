"""Tables of vector heads: one immutable Parquet file a unit, one row a patch.

Columns: ``image``, the loop axes (``s``, ``t``, ``z``), ``row``, ``col``, ``y``, ``x``, ``height``, ``width`` (3-D:
``slab``, ``z`` and ``depth`` in front of theirs), then the scores: one column a class, or ``prediction`` where there
are no classes or too many of them. Rows are sorted by image, loops and place. Scores of patches that were skipped are
null; only tables that have such rows have columns that can be.

The first and the last key of each row group are also in the metadata of the schema, as text. Statistics hold the same,
but asking pyarrow for those of a damaged footer can end the process.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from patchloom.errors import RunDamagedError, RunError
from patchloom.geometry.axes import spatial_axes
from patchloom.models.model import Head
from patchloom.objects import AnyPath, ObjectPath
from patchloom.predictions.ranges import as_seekable, version

__all__ = ["ImageRows", "PatchFile", "PatchFiles", "UnitRows", "damaged", "encode_unit", "key_columns", "key_ranges",
           "list_values", "schema", "score_columns", "unit_table"]

Key = tuple[Any, ...]
"""Image, loops and first pixel of a row; rows are sorted by it, which is also the order of places."""

ROW_GROUP = 4096
"""Most rows that a lookup reads. Of few scores 4096 are looked up as quickly as 1024, and scanned twice as quickly."""
GROUP_BYTES = 128 << 10
"""Most bytes of predictions that a lookup reads: of 256 float32 numbers, 128 rows take 0.4 ms, 1024 take 2 to 4."""
MOST_COLUMNS = 64
"""Numbers of a prediction that become columns of their own; more are one column of lists, unless they have names."""
PLACE_WORDS = {"Z": "slab", "Y": "row", "X": "col"}
SIZE_WORDS = {"Z": "depth", "Y": "height", "X": "width"}
KEY_WORDS = frozenset({"image", "s", "t", "z", "y", "x", *PLACE_WORDS.values(), *SIZE_WORDS.values()})
"""All names that a column in front of the scores can have."""


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
    skipped
        ``(n,)``: patches that were not predicted, whose values mean nothing; None where all were.
    """

    image: str
    loops: tuple[int, ...]
    places: NDArray[np.int64]
    starts: NDArray[np.int64]
    shapes: NDArray[np.int64]
    values: NDArray[Any]
    skipped: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class ImageRows:
    """Rows of images that are one plane and one patch each, within a unit.

    Parameters
    ----------
    images
        Their names, sorted, each once.
    places, starts, shapes, values
        As for `UnitRows`: a row an image.
    """

    images: Sequence[str]
    places: NDArray[np.int64]
    starts: NDArray[np.int64]
    shapes: NDArray[np.int64]
    values: NDArray[Any]

    def of_each(self) -> list[UnitRows]:
        """The same, image by image."""
        rows = ((i, slice(i, i + 1)) for i in range(len(self.images)))
        return [UnitRows(self.images[i], (), self.places[row], self.starts[row], self.shapes[row], self.values[row])
                for i, row in rows]

    def key_ranges(self, size: int) -> list[tuple[Key, Key]]:
        """First and last key of each row group of so many rows."""
        count = len(self.images)
        ends = ((first, min(count, first + size) - 1) for first in range(0, count, size))
        return [(self._key(first), self._key(last)) for first, last in ends]

    def _key(self, row: int) -> Key:
        return (self.images[row], *map(int, self.starts[row]))


@dataclass(frozen=True)
class _Joined:
    """All rows of a unit: names, of which one a row by number, the integers behind it, predictions, and whether these
    mean nothing.
    """

    names: Sequence[str]
    images: NDArray[np.int32]
    keys: NDArray[np.int32]
    values: NDArray[Any]
    skipped: NDArray[np.bool_] | None


def key_columns(loop_axes: str, ndim: int) -> list[str]:
    """Names of the columns in front of the scores."""
    axes = spatial_axes(ndim)
    return ["image", *loop_axes.lower(), *(PLACE_WORDS[axis] for axis in axes), *axes.lower(),
            *(SIZE_WORDS[axis] for axis in axes)]


def score_columns(head: Head) -> list[str]:
    """Names of the score columns.

    A class gets an underscore at its end where it is called like a key column of any image (also one that this run does
    not have, so that a class has one name in all tables), or like a class before it; SQL knows no capitals.

    Examples
    --------
    >>> score_columns(Head("h", "vector", np.dtype("f4"), (3,), classes=("stroma", "X", "Stroma")))
    ['stroma', 'X_', 'Stroma_']
    """
    if _is_one_column(head):
        return ["prediction"]
    names: list[str] = []
    taken = set(KEY_WORDS)
    for name in head.classes:
        name = name or "_"
        while name.casefold() in taken:
            name = f"{name}_"
        taken.add(name.casefold())
        names.append(name)
    return names


def schema(head: Head, loop_axes: str, ndim: int, *, gaps: bool = False) -> pa.Schema:
    """Columns and types of a head's table; with `gaps` it has patches that were skipped."""
    fields = [pa.field("image", pa.dictionary(pa.int32(), pa.string()), nullable=False)]
    fields += [pa.field(name, pa.int32(), nullable=False) for name in key_columns(loop_axes, ndim)[1:]]
    kind = pa.from_numpy_dtype(head.dtype)
    if head.shape and _is_one_column(head):
        kind = pa.list_(kind, head.shape[0])
    fields += [pa.field(name, kind, nullable=gaps) for name in score_columns(head)]
    about = {"name": head.name, "dtype": head.dtype.name, "shape": head.shape, "classes": head.classes}
    return pa.schema(fields, {"patchloom.head": json.dumps(about)})


def encode_unit(head: Head, loop_axes: str, ndim: int, rows: Sequence[UnitRows] | ImageRows) -> bytes:
    """A whole Parquet file; equal rows give equal bytes.

    Parameters
    ----------
    head
        Vector head, as it is stored.
    loop_axes, ndim
        Axes that the model does not see, and number of those that it does.
    rows
        Of all parts of the unit, in the order in which they are stored; at least one part, which may have no rows.
    """
    joined = _joined(rows)
    listed = bool(head.shape) and _is_one_column(head)
    row_bytes = max(1, joined.values.dtype.itemsize * int(np.prod(joined.values.shape[1:])))
    size = max(1, min(ROW_GROUP, GROUP_BYTES // row_bytes))
    ranges = rows.key_ranges(size) if isinstance(rows, ImageRows) else _ranges(rows, size)
    marks = {"patchloom.rows": json.dumps(ranges)}
    if joined.skipped is not None:
        marks["patchloom.skipped"] = str(int(joined.skipped.sum()))
    table = _table(head, loop_axes, ndim, joined)
    table = table.replace_schema_metadata({**table.schema.metadata, **marks})
    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, row_group_size=size, compression="zstd", compression_level=1, use_dictionary=["image"],
        write_page_checksum=True,
        use_byte_stream_split=["prediction.list.element"] if listed and head.dtype.kind == "f" else False)
    return bytes(sink.getvalue())


def unit_table(head: Head, loop_axes: str, ndim: int, rows: Sequence[UnitRows]) -> pa.Table:
    """Rows as an Arrow table with the columns of `schema`; parameters are those of `encode_unit`."""
    return _table(head, loop_axes, ndim, _joined(rows))


def _table(head: Head, loop_axes: str, ndim: int, rows: _Joined) -> pa.Table:
    columns: list[Any] = [pa.DictionaryArray.from_arrays(_array(rows.images), _strings(rows.names))]
    columns += [_array(column) for column in rows.keys.T]
    columns += _score_arrays(rows.values, head, rows.skipped)
    return pa.Table.from_arrays(columns, schema=schema(head, loop_axes, ndim, gaps=rows.skipped is not None))


def key_ranges(metadata: Mapping[bytes, bytes] | None) -> list[tuple[Key, Key]]:
    """First and last key of each row group of a table, out of the metadata of its schema.

    Raises
    ------
    ValueError
        If they are not there.
    """
    try:
        found = json.loads((metadata or {})[b"patchloom.rows"])
        return [(tuple(first), tuple(last)) for first, last in found]
    except (KeyError, TypeError) as error:
        raise ValueError("its footer is damaged") from error


def damaged(path: AnyPath, error: BaseException) -> RunError:
    """What a table that cannot be read is to the user."""
    if isinstance(error, RunError):
        return error
    what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {str(error).splitlines()[0]}"
    return RunDamagedError(f"{path} {what}", "`patchloom verify` names everything that is damaged")


class PatchFile:
    """One table, kept open; a lookup reads one row group, and none where that of the lookup before it serves.

    Parameters
    ----------
    path
        Of the file.
    head, loop_axes, ndim
        As it was written.

    Raises
    ------
    RunDamagedError
        If the file is missing or is not what was written; so do all methods.
    """

    def __init__(self, path: AnyPath, head: Head, loop_axes: str, ndim: int) -> None:
        self.path, self._head = path, head
        self._lock = threading.Lock()
        self._origin = [*loop_axes.lower(), *spatial_axes(ndim).lower()]
        self._keys = key_columns(loop_axes, ndim)
        self._scores = score_columns(head)
        self._last: tuple[int, _Group] | None = None
        with _Damage(path):
            ahead = isinstance(path, ObjectPath)  # columns of a row group with one request
            self._file = pq.ParquetFile(as_seekable(path), page_checksum_verification=True, pre_buffer=ahead)
            metadata = self._file.metadata
            self._ranges = key_ranges(metadata.metadata)
            group_rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            found = self._file.schema_arrow
            as_written = any(found.equals(schema(head, loop_axes, ndim, gaps=gaps)) for gaps in (False, True))
            if len(self._ranges) != len(group_rows) or not as_written:
                raise ValueError("its footer is damaged")
        self._ends = list(itertools.accumulate(group_rows))

    def row(self, image: str, loops: tuple[int, ...], start: tuple[int, ...], near: int = 0) -> Any | None:
        """Prediction of one patch: ``(K,)`` or a number of the head's dtype; None where the table has no such row, or
        one of a patch that was skipped.

        Parameters
        ----------
        image, loops, start
            Which patch.
        near
            Row from which on it is looked for first.
        """
        key = (image, *loops, *start)
        near = next((i for i, end in enumerate(self._ends) if near < end), 0)
        candidates = [i for i, (first, last) in enumerate(self._ranges) if first <= key <= last]
        with self._lock, _Damage(self.path):
            for number in sorted(candidates, key=lambda i: (i < near, i)):
                group = self._group(number)
                index = group.find(key)
                if index is not None:
                    return None if group.skipped[index] else group.values[index].copy()
        return None

    def rows(self, image: str, loops: tuple[int, ...]) -> UnitRows:
        """All rows of one plane of an image, as `encode_unit` takes them."""
        parts = []
        with self._lock, _Damage(self.path):
            for number, (first, last) in enumerate(self._ranges):
                if first[: 1 + len(loops)] <= (image, *loops) <= last[: 1 + len(loops)]:
                    table = self._file.read_row_group(number, use_threads=False)
                    group = _Group.of(table, self._keys[1:], self._values(table), self._scores[0])
                    here = group.matches((image, *loops))
                    parts.append((group.keys[here, len(loops) :], group.values[here], group.skipped[here]))
        ndim = len(self._origin) - len(loops)
        keys = np.concatenate([np.empty((0, 3 * ndim), np.int64), *(part[0] for part in parts)])
        values = np.concatenate([np.empty((0, *self._head.shape), self._head.dtype), *(part[1] for part in parts)])
        skipped = np.concatenate([np.empty(0, np.bool_), *(part[2] for part in parts)])
        places, starts, shapes = np.split(keys, 3, axis=1)
        return UnitRows(image, loops, places, starts, shapes, values, skipped if skipped.any() else None)

    def _group(self, number: int) -> _Group:
        if self._last is None or self._last[0] != number:
            columns = ["image", *self._origin, *self._scores]
            table = self._file.read_row_group(number, columns=columns, use_threads=False)
            self._last = number, _Group.of(table, self._origin, self._values(table), self._scores[0])
        return self._last[1]

    def _values(self, table: pa.Table) -> NDArray[Any]:
        columns = [table[name].combine_chunks() for name in self._scores]
        if self._head.shape and _is_one_column(self._head):
            columns = [list_values(columns[0])]
        nothing = np.zeros((), self._head.dtype)[()]
        columns = [c.fill_null(pa.scalar(nothing, c.type)) if c.null_count else c for c in columns]
        arrays = [column.to_numpy(zero_copy_only=False) for column in columns]
        values = arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=1)
        return values.astype(self._head.dtype, copy=False).reshape(table.num_rows, *self._head.shape)


class PatchFiles:
    """Open tables, the least recently used of which is closed when there are too many."""

    def __init__(self, capacity: int = 32) -> None:
        self._capacity = capacity
        self._open: OrderedDict[AnyPath, tuple[tuple[Any, ...], PatchFile]] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, path: AnyPath, head: Head, loop_axes: str, ndim: int) -> PatchFile:
        """The table at `path`, opened if it is not, or if another file is there now: a unit that was predicted again.

        Raises
        ------
        RunDamagedError
            If the file is missing or is not what was written.
        """
        with self._lock:
            with _Damage(path):
                there = version(path)
            found, file = self._open.pop(path, (None, None))
            if file is None or found != there:
                file = PatchFile(path, head, loop_axes, ndim)
            self._open[path] = there, file
            while len(self._open) > self._capacity:
                self._open.popitem(last=False)  # closed when its last lookup is done with it
            return file


@dataclass(frozen=True)
class _Group:
    """Decoded rows: names of images with a number a row, the other keys ``(n, k)``, predictions ``(n, …)``, and whether
    these mean nothing.
    """

    names: list[str]
    images: NDArray[np.int32]
    keys: NDArray[np.int64]
    values: NDArray[Any]
    skipped: NDArray[np.bool_]

    @classmethod
    def of(cls, table: pa.Table, columns: Sequence[str], values: NDArray[Any], score: str) -> _Group:
        image = table["image"].combine_chunks()
        keys = np.stack([table[name].to_numpy() for name in columns], axis=1)
        skipped = table[score].combine_chunks().is_null().to_numpy(zero_copy_only=False)
        return cls(image.dictionary.to_pylist(), image.indices.to_numpy(), keys.astype(np.int64), values, skipped)

    def matches(self, key: tuple[Any, ...]) -> NDArray[np.bool_]:
        """Rows whose keys begin with `key`."""
        image, *rest = key
        if image not in self.names:
            return np.zeros(len(self.images), np.bool_)
        found: NDArray[np.bool_] = self.images == self.names.index(image)
        return found & (self.keys[:, : len(rest)] == rest).all(axis=1)

    def find(self, key: tuple[Any, ...]) -> int | None:
        """Row of `key`."""
        found = np.flatnonzero(self.matches(key))
        return int(found[0]) if len(found) else None


class _Damage:
    """Turns whatever a damaged file makes of its reader into one error that names the file."""

    def __init__(self, path: AnyPath) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, (OSError, pa.ArrowException, ValueError, OverflowError)):
            raise damaged(self._path, error) from error


def _is_one_column(head: Head) -> bool:
    """Whether predictions are one column, ``prediction``, of numbers or of lists."""
    numbered = head.classes == tuple(map(str, range(len(head.classes))))
    return not head.shape or not head.classes or (numbered and len(head.classes) > MOST_COLUMNS)


def list_values(column: Any) -> Any:
    """Elements of a column of lists of one size, also of those that are null."""
    size = column.type.list_size
    return column.values.slice(column.offset * size, len(column) * size)


def _joined(rows: Sequence[UnitRows] | ImageRows) -> _Joined:
    if isinstance(rows, ImageRows):
        keys = np.concatenate([rows.places, rows.starts, rows.shapes], axis=1).astype(np.int32)
        return _Joined(rows.images, np.arange(len(rows.images), dtype=np.int32), keys, rows.values, None)
    counts = [len(part.values) for part in rows]
    names = list(dict.fromkeys(part.image for part in rows))
    numbers = {name: i for i, name in enumerate(names)}
    images = np.repeat(np.asarray([numbers[part.image] for part in rows], np.int32), counts)
    loops = np.repeat(np.asarray([part.loops for part in rows], np.int32).reshape(len(rows), -1), counts, axis=0)
    integers = [np.concatenate([getattr(part, name) for part in rows]) for name in ("places", "starts", "shapes")]
    keys = np.concatenate([loops, *integers], axis=1).astype(np.int32)
    values = rows[0].values if len(rows) == 1 else np.concatenate([part.values for part in rows])
    return _Joined(names, images, keys, values, _skipped(rows))


def _skipped(rows: Sequence[UnitRows]) -> NDArray[np.bool_] | None:
    if all(part.skipped is None for part in rows):
        return None
    return np.concatenate([np.zeros(len(p.values), np.bool_) if p.skipped is None else p.skipped for p in rows])


def _score_arrays(values: NDArray[Any], head: Head, skipped: NDArray[np.bool_] | None) -> Iterator[Any]:
    if not _is_one_column(head):
        yield from (_array(column, skipped) for column in values.T)
    elif head.shape:
        numbers = _array(values.reshape(-1))
        mask = None if skipped is None else _array(skipped)
        yield pa.FixedSizeListArray.from_arrays(numbers, head.shape[0], mask=mask)
    else:
        yield _array(values, skipped)


def _array(values: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> Any:
    """Column of numbers; `pyarrow.array` does the same, and imports pandas where it is installed."""
    data = _bits(values) if values.dtype == np.bool_ else np.ascontiguousarray(values)
    there = None if missing is None else pa.py_buffer(_bits(~missing))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [there, pa.py_buffer(data)])


def _bits(values: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.packbits(values, bitorder="little")


def _strings(texts: Sequence[str]) -> Any:
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(texts), buffers)


def _ranges(rows: Sequence[UnitRows], size: int) -> list[tuple[Key, Key]]:
    """Smallest and largest key of each row group; a part that it holds rows of gives its first and last of them."""
    ranges: list[tuple[Key, Key]] = []
    first = 0
    for part in rows:
        stop = first + len(part.starts)
        for number in range(first // size, -(-stop // size)):
            ends = (max(first, number * size), min(stop, (number + 1) * size) - 1)
            low, high = ((part.image, *part.loops, *map(int, part.starts[end - first])) for end in ends)
            if number < len(ranges):
                ranges[number] = min(ranges[number][0], low), max(ranges[number][1], high)
            else:
                ranges.append((low, high))
        first = stop
    return ranges
