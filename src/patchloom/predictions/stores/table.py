"""The table of patches of a run whose predictions are in a store: whatever that is, conditions and sorting are ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import duckdb
import pyarrow as pa

from patchloom.models.model import Head
from patchloom.predictions.index import ImageRow
from patchloom.predictions.layout import PlaneInfo
from patchloom.predictions.lookup import Lookup
from patchloom.predictions.patches import UnitRows, unit_table
from patchloom.predictions.query import Footer, PatchTable, as_type

__all__ = ["StoreTable"]

GROUP = 20_000
"""Patches of images that are read together."""


@dataclass(frozen=True)
class _Group(Footer):
    """Images that are read together."""

    images: tuple[str, ...] = ()


class StoreTable(PatchTable):
    """Rows of a vector head out of a store; every image in question is read as a whole, from the first to the last.

    Parameters
    ----------
    lookup
        Of the run, held as long as rows may be asked for: with it the store is closed.
    head
        Vector head.
    where, sort, limit, image
        See `PatchTable`.
    """

    def __init__(
        self,
        lookup: Lookup,
        head: Head,
        *,
        where: str | None = None,
        sort: str | None = None,
        limit: int | None = None,
        image: str | None = None,
    ) -> None:
        self._lookup, self._only = lookup, image
        super().__init__([], head, lookup.layout.ndim, where=where, sort=sort, limit=limit)

    @cached_property
    def _footers(self) -> list[Footer]:
        rows: Iterable[ImageRow | None] = self._lookup.index.images("done", "partial", "failed")
        if self._only is not None:
            rows = [self._lookup.index.image(self._only)]
        return list(_groups(row for row in rows if row is not None and row.info is not None and row.patches_done))

    def _find_damage(self) -> None:
        """The store raises by itself."""

    def _rows(self, database: duckdb.DuckDBPyConnection, footers: Sequence[Footer]) -> duckdb.DuckDBPyRelation:
        rows = pa.RecordBatchReader.from_batches(self._working_schema, self._batches(footers))
        return database.from_arrow(rows)

    def _batches(self, footers: Sequence[Footer]) -> Iterator[pa.RecordBatch]:
        for group in footers:
            assert isinstance(group, _Group)
            for name in group.images:
                row = self._lookup.index.image(name)
                assert row is not None
                loop_axes = PlaneInfo.from_json(row.info or {}).loop_axes
                for rows in self._lookup.rows(self._head, row):
                    if len(rows.values):
                        yield self._arranged(loop_axes, rows)

    def _arranged(self, loop_axes: str, rows: UnitRows) -> pa.RecordBatch:
        """Rows with all columns of the table."""
        table = unit_table(self._head, loop_axes, self._ndim, [rows])
        columns = [
            as_type(table[field.name].combine_chunks(), field.type)
            if field.name in table.column_names
            else pa.nulls(len(rows.values), field.type)  # a loop axis that this image does not have
            for field in self._working_schema
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self._working_schema)


def _groups(rows: Iterable[ImageRow]) -> Iterator[_Group]:
    names: list[str] = []
    count, gaps = 0, False
    axes: set[str] = set()
    for row in rows:
        names.append(row.name)
        count, gaps = count + row.patches_done, gaps or row.patches_skipped > 0
        axes.update(PlaneInfo.from_json(row.info or {}).loop_axes.lower())
        if count >= GROUP:
            yield _group(names, count, axes, gaps)
            names, count, gaps, axes = [], 0, False, set()
    if names:
        yield _group(names, count, axes, gaps)


def _group(names: Sequence[str], count: int, axes: set[str], gaps: bool) -> _Group:
    return _Group(Path(), count, tuple(sorted(axes)), ((names[0],), (names[-1],)), gaps, tuple(names))
