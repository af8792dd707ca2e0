"""Filtering and sorting the tables of a run with SQL conditions."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from patchloom.errors import MissingExtraError, QueryError, UsageError
from patchloom.models.model import Head
from patchloom.objects import AnyPath, ObjectPath
from patchloom.predictions.conditions import check_condition, connection, parse_sort, query_error, quoted
from patchloom.predictions.patches import Key, damaged, key_columns, key_ranges, list_values, schema, score_columns
from patchloom.predictions.ranges import as_seekable, version

if TYPE_CHECKING:
    import pandas
    import polars

__all__ = ["Footer", "PatchTable", "as_type"]

BATCH = 10_000
SPAN_BYTES = 64 << 20
"""Rows that are sorted at once where rows come in their own order."""
AT_ONCE = 16
"""Objects whose footers are asked for at once."""
SKIPPED = "patchloom.skipped"
"""Column of our own, while rows are chosen: patches that were skipped."""
PLACE_COLUMNS = ("image", "s", "t", "z", "slab", "row", "col")
"""Columns that rows are ordered by where nothing else is asked for."""


class PatchTable:
    """Rows of a vector head, read when they are asked for; ``image`` first, then place, then the scores.

    In `where` and `sort` a score that is not a number counts as missing: ``tumour > 0.9`` does not hold, ``tumour is
    null`` does, and it is sorted last. In the rows it is NaN. Scores of skipped patches are missing in the rows, too.

    Parameters
    ----------
    files
        Tables of the units.
    head, ndim
        As they were written.
    where, sort, limit
        Condition in SQL, columns (``-`` in front for descending), most rows. Without `sort` rows are ordered by image,
        then by place.
    image
        Only rows of this image.
    current
        For tables that hold rows that do not count any more: the images that still do.

    Raises
    ------
    QueryError
        If `where` or `sort` cannot be understood; for what only the rows show, while they are read.
    RunDamagedError
        If a table is missing or is not what was written.
    """

    def __init__(
        self,
        files: Sequence[AnyPath],
        head: Head,
        ndim: int,
        *,
        where: str | None = None,
        sort: str | None = None,
        limit: int | None = None,
        image: str | None = None,
        current: Mapping[AnyPath, set[str]] | None = None,
    ) -> None:
        self._files, self._head, self._ndim = list(files), head, ndim
        self._where, self._limit, self._image = where, limit, image
        self._current = current or {}
        if limit is not None and limit < 0:
            raise QueryError(f"limit {limit} is below 0", "give the number of rows that you want")
        self._sort = parse_sort(sort, self.columns) if sort else []
        if where is not None:  # errors belong where the table is asked for
            check_condition(where, self.columns)
            with connection() as database:
                self._chosen(database.from_arrow(self._working_schema.empty_table()))

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.schema.names)

    @cached_property
    def score_columns(self) -> list[str]:
        """Names of the columns with predictions."""
        return score_columns(self._head)

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns and types of the rows."""
        found = {name for footer in self._footers for name in footer.loop_columns}
        loops = [name for name in ("s", "t", "z") if name in found]
        own = schema(self._head, "".join(loops).upper(), self._ndim, gaps=self._gaps)
        fields = [pa.field("image", pa.string(), nullable=False)]
        fields += [pa.field(name, pa.int32()) for name in loops]  # images without such an axis have none
        return pa.schema([*fields, *list(own)[len(fields) :]])

    def to_arrow(self) -> pa.Table:
        """All rows."""
        return pa.Table.from_batches(self.batches(), self.schema)

    def to_pandas(self) -> pandas.DataFrame:
        """All rows; needs the extra `pandas`."""
        try:
            import pandas  # noqa: F401
        except ImportError:
            raise MissingExtraError.of("pandas", "pandas", "to_pandas()") from None
        return self.to_arrow().to_pandas()

    def to_polars(self) -> polars.DataFrame:
        """All rows; needs the extra `polars`."""
        try:
            import polars
        except ImportError:
            raise MissingExtraError.of("polars", "polars", "to_polars()") from None
        frame = polars.from_arrow(self.to_arrow())
        assert isinstance(frame, polars.DataFrame)
        return frame

    def batches(self, size: int = BATCH) -> Iterator[pa.RecordBatch]:
        """Rows, at most `size` at a time.

        In their own order they are read some tables at a time, however many there are; to `sort`, all rows that meet
        the condition are sorted, through temporary files where they are many.
        """
        if size < 1:
            raise UsageError(f"batches of {size} rows are not possible", "give a number of at least 1")
        left = self._limit
        for files in [self._footers] if self._sort else self._spans():
            if left == 0:
                return
            for batch in self._read(files, left, size):
                left = left if left is None else left - batch.num_rows
                for first in range(0, batch.num_rows, size):
                    yield batch.slice(first, size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.batches():
            yield from batch.to_pylist()

    def __len__(self) -> int:
        if self._where is None and self._image is None and not self._current:
            rows = sum(footer.rows for footer in self._footers)
        else:
            with connection() as database:
                counted = self._chosen(self._rows(database, self._footers)).aggregate("count(*)")
                rows = next(self._fetched(counted, BATCH)).column(0)[0].as_py()
        return rows if self._limit is None else min(rows, self._limit)

    def __bool__(self) -> bool:
        return next(self.batches(1), None) is not None

    def __repr__(self) -> str:
        return f"<PatchTable {', '.join(self.columns)}>"

    @property
    def _gaps(self) -> bool:
        return any(footer.gaps for footer in self._footers)

    @cached_property
    def _footers(self) -> list[Footer]:
        if not any(isinstance(path, ObjectPath) for path in self._files):
            return [_footer(path) for path in self._files]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(_footer, self._files))

    def _spans(self) -> Iterator[list[Footer]]:
        """Tables in the order of their rows; those whose rows lie between one another's are together."""
        row_bytes = sum(_width(field.type) for field in self.schema)
        enough = SPAN_BYTES if self._limit is None else min(SPAN_BYTES, self._limit * row_bytes)
        span: list[Footer] = []
        for footer in sorted((footer for footer in self._footers if footer.ends), key=lambda footer: footer.first):
            apart = all(other.last < footer.first for other in span)
            if span and apart and sum(other.rows for other in span) * row_bytes >= enough:
                yield span
                span, enough = [], min(SPAN_BYTES, 4 * enough)
            span.append(footer)
        if span:
            yield span

    def _read(self, footers: Sequence[Footer], limit: int | None, size: int) -> Iterator[pa.RecordBatch]:
        with connection() as database:
            relation = self._chosen(self._rows(database, footers)).order(self._order())
            for batch in self._fetched(relation if limit is None else relation.limit(limit), size):
                yield self._as_stored(batch)

    def _chosen(self, relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
        """The rows that meet the condition, scores that are no numbers as NULL."""
        floats = [quoted(name) for name in self._floats]
        missing = ", ".join(f"case when isnan({name}) then null else {name} end as {name}" for name in floats)
        columns = "*" + (f" replace ({missing})" if missing else "")
        if self._gaps:
            columns += f", {quoted(self.score_columns[0])} is null as {quoted(SKIPPED)}"
        relation = relation.project(columns) if columns != "*" else relation
        if self._where is None:
            return relation
        try:
            return relation.filter(self._where)
        except duckdb.Error as error:
            raise query_error(self._where, str(error), self.columns) from None

    def _fetched(self, relation: duckdb.DuckDBPyRelation, size: int) -> Iterator[pa.RecordBatch]:
        try:
            yield from relation.to_arrow_reader(size)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            self._find_damage()
            if self._where is None:
                raise
            raise query_error(self._where, str(error), self.columns) from None

    def _find_damage(self) -> None:
        """Raise RunDamagedError if the tables are why rows could not be read."""
        for path in self._files:
            try:
                with pq.ParquetFile(as_seekable(path), page_checksum_verification=True) as file:
                    footer = _footer(path)
                    loops = "".join(footer.loop_columns).upper()
                    if not file.schema_arrow.equals(schema(self._head, loops, self._ndim, gaps=footer.gaps)):
                        raise pa.ArrowInvalid("its footer is damaged")
                    for _ in file.iter_batches():
                        pass
            except (OSError, pa.ArrowException) as error:
                raise damaged(path, error) from None

    def _rows(self, database: duckdb.DuckDBPyConnection, footers: Sequence[Footer]) -> duckdb.DuckDBPyRelation:
        """All rows that count."""
        mixed = [footer.path for footer in footers if footer.path in self._current]
        whole = [footer.path for footer in footers if footer.path not in self._current]
        relation = database.from_arrow(self._dataset(whole) if whole else self._working_schema.empty_table())
        if mixed:
            rows = pa.RecordBatchReader.from_batches(self._working_schema, self._counting(mixed))
            relation = relation.union(database.from_arrow(rows))
        return relation if self._image is None else relation.filter(f"image = {_text(self._image)}")

    def _dataset(self, paths: Sequence[AnyPath]) -> ds.Dataset:
        scan = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
        kind = ds.ParquetFileFormat(default_fragment_scan_options=scan)
        try:
            if not any(isinstance(path, ObjectPath) for path in paths):
                return ds.dataset(list(map(str, paths)), schema=self._working_schema, format=kind)
            fragments = [kind.make_fragment(as_seekable(path)) for path in paths]
            return ds.FileSystemDataset(fragments, self._working_schema, kind)
        except FileNotFoundError:
            self._find_damage()
            raise

    def _counting(self, paths: Sequence[AnyPath]) -> Iterator[pa.RecordBatch]:
        """Rows of tables in which some images do not count any more."""
        for path in paths:
            counts = pc.field("image").isin(pa.array(sorted(self._current[path]), pa.string()))
            yield from self._dataset([path]).to_batches(filter=counts)

    @cached_property
    def _working_schema(self) -> pa.Schema:
        """Types that conditions work on: float16 has no arithmetic there."""
        return pa.schema([pa.field(field.name, _workable(field.type)) for field in self.schema])

    @property
    def _floats(self) -> list[str]:
        return [name for name in self.score_columns if pa.types.is_floating(self.schema.field(name).type)]

    def _as_stored(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = []
        skipped = batch.column(SKIPPED) if self._gaps else None
        for field in self.schema:
            column = batch.column(field.name)
            if field.name in self._floats:
                numbers = pc.fill_null(column, pa.scalar(np.nan, column.type))
                column = numbers if skipped is None else pc.if_else(skipped, column, numbers)
            columns.append(as_type(column, field.type))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _order(self) -> str:
        terms = [f"{quoted(name)} {'desc' if descends else 'asc'} nulls last" for name, descends in self._sort]
        wanted = {name for name, _ in self._sort}
        own = [quoted(name) for name in PLACE_COLUMNS if name in self.columns and name not in wanted]
        return ", ".join([*terms, *own])


@dataclass(frozen=True)
class Footer:
    """What is known of a table without reading its rows."""

    path: AnyPath
    rows: int
    loop_columns: tuple[str, ...]
    ends: tuple[Key, Key] | None
    gaps: bool

    @property
    def first(self) -> Key:
        assert self.ends is not None
        return self.ends[0]

    @property
    def last(self) -> Key:
        assert self.ends is not None
        return self.ends[1]


def _footer(path: AnyPath) -> Footer:
    try:
        return _read_footer(path, *version(path))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise damaged(path, error) from None


@functools.lru_cache(maxsize=1 << 16)
def _read_footer(path: AnyPath, *version: Any) -> Footer:
    """Footer of one version of a file, which does not change."""
    metadata = pq.read_metadata(as_seekable(path))
    ranges = key_ranges(metadata.metadata)
    names = metadata.schema.names
    place = next((name for name in key_columns("", 3) if name in names[1:]), "")
    if not place:
        raise ValueError("its footer is damaged")
    first_place = min(names.index(name) for name in ("slab", "row") if name in names)
    ends = (min(first for first, _ in ranges), max(last for _, last in ranges)) if ranges else None
    gaps = b"patchloom.skipped" in metadata.metadata
    return Footer(path, metadata.num_rows, tuple(names[1:first_place]), ends, gaps)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _workable(kind: Any) -> Any:
    """Type that DuckDB takes for a stored one."""
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_workable(kind.value_type), kind.list_size)
    return kind


def as_type(column: Any, kind: Any) -> Any:
    """The same values as another Arrow type."""
    if column.type == kind:
        return column
    if pa.types.is_fixed_size_list(kind):
        numbers = as_type(list_values(column), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(numbers, kind.list_size, mask=column.is_null())
    return column.cast(kind)


def _width(kind: Any) -> int:
    """Bytes of a value, about."""
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size * _width(kind.value_type))
    return 32 if pa.types.is_string(kind) else max(1, kind.bit_width // 8)
