"""Filtering and sorting the tables of a run with SQL conditions, pushed down into the Parquet files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from patchloom.errors import MissingExtraError, QueryError
from patchloom.models.model import Head
from patchloom.predictions.patches import schema

if TYPE_CHECKING:
    import pandas
    import polars

__all__ = ["PatchTable"]

BATCH = 10_000
PLACE_COLUMNS = ("image", "s", "t", "z", "slab", "row", "col")
"""Columns that rows are ordered by where nothing else is asked for, except that Z as a pixel follows the slab."""


class PatchTable:
    """Rows of a vector head, read when they are asked for.

    Parameters
    ----------
    files
        Tables of the units.
    head, ndim
        As they were written.
    where, sort, limit
        Condition in SQL, columns (``-`` in front for descending), most rows.
    image
        Only rows of this image.
    current
        For tables that hold rows that do not count any more: the images that still do.
    """

    def __init__(
        self,
        files: Sequence[Path],
        head: Head,
        ndim: int,
        *,
        where: str | None = None,
        sort: str | None = None,
        limit: int | None = None,
        image: str | None = None,
        current: Mapping[Path, set[str]] | None = None,
    ) -> None:
        self._files, self._head, self._ndim = list(files), head, ndim
        self._where, self._sort, self._limit, self._image = where, sort, limit, image
        self._current = current or {}
        if limit is not None and limit < 0:
            raise QueryError(f"limit {limit} is below 0", "give the number of rows that you want")
        self._order()  # errors belong where the table is asked for
        if where is not None:
            self._relation().close()

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self._schema.names)

    @property
    def schema(self) -> pa.Schema:
        """Columns and types of what is read."""
        return self._plain_schema

    @cached_property
    def score_columns(self) -> list[str]:
        """Names of the columns with predictions."""
        sizes = {"height", "width"}
        return self.columns[max(i for i, name in enumerate(self.columns) if name in sizes) + 1 :]

    def to_arrow(self) -> pa.Table:
        """All rows."""
        return pa.Table.from_batches(self.batches(), self._plain_schema)

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
        """Rows, some thousand at a time."""
        relation = self._relation()
        try:
            for batch in _execute(relation, size):
                yield self._as_stored(batch)
        finally:
            relation.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.batches():
            yield from batch.to_pylist()

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self.batches())

    def __repr__(self) -> str:
        return f"<PatchTable {', '.join(self.columns)}>"

    @cached_property
    def _schema(self) -> pa.Schema:
        own = schema(self._head, "", self._ndim)
        found = [pq.read_schema(path) for path in self._files]
        names = {name for one in found for name in one.names}
        kinds = {field.name: field.type for one in (own, *found) for field in one}
        lead = [name for name in ("image", "s", "t") if name in names or name == "image"]
        lead += ["z"] if "z" in names and "z" not in own.names else []
        ordered = lead + [name for name in own.names if name not in lead]
        return pa.schema([pa.field(name, kinds[name]) for name in ordered])

    @cached_property
    def _plain_schema(self) -> pa.Schema:
        fields = [pa.field(field.name, pa.string()) if field.name == "image" else field for field in self._schema]
        return pa.schema(fields)

    def _as_stored(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = [batch.column(field.name).cast(field.type) for field in self._plain_schema]
        return pa.RecordBatch.from_arrays(columns, schema=self._plain_schema)

    def _relation(self) -> _Relation:
        return _Relation(self._datasets(), self._where, self._order(), self._limit, self.columns)

    def _datasets(self) -> list[Any]:
        """The tables: those that count as a whole, then each of which only some images count."""
        plain = [str(path) for path in self._files if path not in self._current]
        sets = [ds.dataset(plain, schema=self._query_schema, format="parquet")] if plain else []
        image = pc.field("image")
        for path in self._files:
            if path in self._current:
                counts = image.isin(pa.array(sorted(self._current[path]), pa.string()))
                sets.append(ds.dataset([str(path)], schema=self._query_schema, format="parquet").filter(counts))
        if self._image is not None:
            sets = [one.filter(image == self._image) for one in sets]
        return sets or [ds.dataset(self._query_schema.empty_table())]

    @cached_property
    def _query_schema(self) -> pa.Schema:
        """Types that conditions work on: float16 has no arithmetic there."""
        return pa.schema([pa.field(field.name, _workable(field.type)) for field in self._schema])

    def _order(self) -> str:
        wanted = [text.strip() for text in (self._sort or "").split(",") if text.strip()]
        terms = []
        for text in wanted:
            name = text.lstrip("-+")
            if name not in self.columns:
                raise QueryError(f"sort: there is no column {name!r}", f"columns are {', '.join(self.columns)}")
            terms.append(f"{_quoted(name)} {'desc' if text.startswith('-') else 'asc'} nulls last")
        terms += [_quoted(name) for name in PLACE_COLUMNS if name in self.columns and name not in wanted]
        return ", ".join(terms)


class _Relation:
    """One query: nothing in it can reach beyond the tables."""

    def __init__(
        self, datasets: list[Any], where: str | None, order: str, limit: int | None, columns: list[str]
    ) -> None:
        self._connection = duckdb.connect(config={"threads": 2})
        try:
            self._connection.execute("set enable_external_access = false")
            self._connection.execute("set lock_configuration = true")
            relation = self._connection.from_arrow(datasets[0])
            for dataset in datasets[1:]:
                relation = relation.union(self._connection.from_arrow(dataset))
            if where is not None:
                relation = relation.filter(where)
            relation = relation.order(order)
            self.relation = relation if limit is None else relation.limit(limit)
        except duckdb.Error as error:
            self._connection.close()
            raise _query_error(error, where, columns) from None

    def close(self) -> None:
        """Give memory back."""
        self._connection.close()


def _workable(kind: Any) -> Any:
    """Type that DuckDB takes for a stored one."""
    if pa.types.is_dictionary(kind):
        return pa.string()
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_workable(kind.value_type), kind.list_size)
    return kind


def _execute(relation: _Relation, size: int) -> Iterator[pa.RecordBatch]:
    try:
        yield from relation.relation.to_arrow_reader(size)
    except duckdb.Error as error:
        raise QueryError(
            f"where: {_first_line(error)}", "see the columns with `patchloom query RUN --limit 1`"
        ) from None


def _query_error(error: duckdb.Error, where: str | None, columns: list[str]) -> QueryError:
    hint = f"columns are {', '.join(columns)}"
    special = [name for name in columns if not re.fullmatch(r"[A-Za-z_]\w*", name)]
    if special:
        hint += f"; names such as {special[0]} are written in double quotes: {_quoted(special[0])} > 0.5"
    return QueryError(f"where: {where!r} cannot be understood: {_first_line(error)}", hint)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
