"""Rows of several heads side by side."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pyarrow as pa

from patchloom.errors import RunDamagedError, UsageError
from patchloom.export.export import Predictions
from patchloom.models.model import Head
from patchloom.predictions.patches import score_columns
from patchloom.predictions.query import PatchTable

__all__ = ["Rows", "chosen_heads", "runs_of_images"]


def chosen_heads(run: Predictions, name: str | None) -> tuple[Head, ...]:
    """All heads of a run, or the one that was asked for.

    Raises
    ------
    UsageError
        If the run has no such head.
    """
    found = tuple(head for head in run.heads if name in (None, head.name))
    if not found:
        raise UsageError(f"the run has no head {name!r}", f"its heads: {', '.join(head.name for head in run.heads)}")
    return found


class Rows:
    """Tables of vector heads of one run: one row a patch, with the predictions of all heads.

    Parameters
    ----------
    run
        The run.
    heads
        Vector heads, at least one.
    image
        Only this image; None for all.
    """

    def __init__(self, run: Predictions, heads: Sequence[Head], image: str | None) -> None:
        self.heads = tuple(heads)
        self._tables: list[PatchTable] = [run.patches(head=head.name, image=image) for head in heads]

    def __len__(self) -> int:
        return len(self._tables[0])

    @property
    def key_columns(self) -> list[str]:
        """Names of the columns in front of the scores."""
        scores = set(score_columns(self.heads[0]))
        return [name for name in self._tables[0].columns if name not in scores]

    @property
    def columns(self) -> list[str]:
        """Names of the columns; those of several heads have the head's name and a dot in front."""
        return [*self.key_columns, *(name for head in self.heads for name in self._names(head))]

    @property
    def has_gaps(self) -> bool:
        """Whether patches were skipped."""
        return any(self._tables[0].schema.field(name).nullable for name in score_columns(self.heads[0]))

    def by_head(self) -> Iterator[list[pa.RecordBatch]]:
        """Batches of the same rows, one for each head.

        Raises
        ------
        RunDamagedError
            If heads do not have the same rows.
        """
        streams = [table.batches() for table in self._tables]
        left: list[pa.RecordBatch | None] = [None] * len(streams)
        while True:
            left = [next(stream, None) if batch is None else batch for batch, stream in zip(left, streams, strict=True)]
            batches = [batch for batch in left if batch is not None]
            if not batches:
                return
            rows = min(batch.num_rows for batch in batches)
            step = [batch.slice(0, rows) for batch in batches]
            if len(step) < len(left) or any(not self._alike(step[0], other) for other in step[1:]):
                raise RunDamagedError("tables of the run's heads have other rows", "run `patchloom verify`")
            yield step
            left = [batch.slice(rows) if batch.num_rows > rows else None for batch in batches]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Batches with `columns`."""
        for step in self.by_head():
            arrays = [step[0].column(name) for name in self.key_columns]
            for head, batch in zip(self.heads, step, strict=True):
                arrays += [batch.column(name) for name in score_columns(head)]
            yield pa.RecordBatch.from_arrays(arrays, names=self.columns)

    def _names(self, head: Head) -> list[str]:
        names = score_columns(head)
        if len(self.heads) == 1:
            return names
        return [head.name] if names == ["prediction"] else [f"{head.name}.{name}" for name in names]

    def _alike(self, one: pa.RecordBatch, other: pa.RecordBatch) -> bool:
        return all(one.column(name).equals(other.column(name)) for name in self.key_columns)


def runs_of_images(batch: pa.RecordBatch) -> Iterator[tuple[str, int, int]]:
    """Images of a batch with the first and the last row of each, in order."""
    encoded = batch.column("image").dictionary_encode()
    numbers = encoded.indices.to_numpy()
    firsts = [0, *((numbers[1:] != numbers[:-1]).nonzero()[0] + 1).tolist(), len(numbers)]
    names = encoded.dictionary.to_pylist()
    for first, end in itertools.pairwise(firsts):
        if end > first:
            yield names[numbers[first]], first, end
