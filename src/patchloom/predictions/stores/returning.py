"""Brings a run's rows back from its store into tables in its folder.

Unit by unit: the tables, then a record in the journal. The last step is to write ``run.json`` without the store: until
then the run lives in the store, and whoever brings it back once more goes on behind the units that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from patchloom.errors import RunDamagedError, RunLockedError
from patchloom.models.model import Head
from patchloom.predictions.files import FileRecord, flush, write_file
from patchloom.predictions.folder import RunDocument
from patchloom.predictions.index import Part
from patchloom.predictions.journal import Journal, Record
from patchloom.predictions.layout import PlaneInfo
from patchloom.predictions.leases import writer_lease
from patchloom.predictions.lookup import Lookup
from patchloom.predictions.patches import UnitRows, encode_unit
from patchloom.predictions.skipped import unpack
from patchloom.predictions.stores.rows import keys_of, skipped_of

__all__ = ["bring_back"]


def bring_back(lookup: Lookup, document: RunDocument, callback: Callable[[int, int], None] | None = None) -> int:
    """Write tables of everything that the journal has acknowledged; the store keeps what it has.

    Parameters
    ----------
    lookup
        Of the run, which reads from the store.
    document
        Of the run.
    callback
        Told how many patches are there, and of how many.

    Returns
    -------
    int
        Patches that were not there already.

    Raises
    ------
    RunLockedError
        If another process writes the run.
    RunDamagedError
        If the store has lost rows.
    """
    index, layout = lookup.index, lookup.layout
    folder = layout.folder
    with writer_lease(folder) as lock:
        if RunDocument.read(folder).id != document.id:
            raise RunLockedError(f"{folder} is another run by now", "open it again")
        index.refresh()
        total, done, brought = sum(row.patches_done for row in index.images()), 0, 0
        rows = _Rows(lookup)
        journal = Journal(folder / "journal")
        try:
            for unit, parts in index.unit_parts():
                count = sum(part.patches for part in parts)
                names = [layout.table_name(head, unit) for head in layout.vector_heads]
                if not all(map(index.knows_file, names)):
                    files = [_table(lookup, head, unit, parts, rows) for head in layout.vector_heads]
                    lock.check()
                    flush({record.path for record in files})
                    journal.append(_record(unit, parts, files, names))
                    brought += count
                done += count
                if callback is not None:
                    callback(done, total)
            replace(document, config=document.config.replace(store=None)).write(folder)
        finally:
            journal.close()
    index.refresh()
    return brought


class _Rows:
    """Rows of parts; those of the last image are kept, since a large one has many parts."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._image, self._found = "", dict[str, list[UnitRows]]()

    def of(self, head: Head, part: Part) -> UnitRows:
        """Rows of a head that start in a part, in order."""
        if part.image != self._image:
            self._image, self._found = part.image, {}
        if head.name not in self._found:
            row = self._lookup.index.image(part.image)
            assert row is not None
            self._found[head.name] = list(self._lookup.rows(head, row))
        pieces = [piece for rows in self._found[head.name] if rows.loops == part.loops
                  for piece in _within(rows, part)]
        if sum(len(piece.values) for piece in pieces) != part.patches:
            raise RunDamagedError(f"the store has lost predictions of {part.image!r}",
                                  "`patchloom verify` names what is lost")
        return _joined(head, part, pieces)


def _within(rows: UnitRows, part: Part) -> Iterator[UnitRows]:
    here = ((rows.starts >= part.region.start) & (rows.starts < part.region.stop)).all(axis=1)
    if here.any():
        yield UnitRows(rows.image, rows.loops, rows.places[here], rows.starts[here], rows.shapes[here],
                       rows.values[here], skipped_of(rows)[here])


def _joined(head: Head, part: Part, pieces: Sequence[UnitRows]) -> UnitRows:
    ndim = len(part.region.start)
    nothing = np.zeros((0, ndim), np.int64)
    empty = UnitRows(part.image, part.loops, nothing, nothing, nothing, np.zeros((0, *head.shape), head.dtype))
    every = [empty, *pieces]
    places, starts, shapes, values = (
        np.concatenate([getattr(rows, name) for rows in every]) for name in ("places", "starts", "shapes", "values"))
    skipped = np.concatenate([skipped_of(rows) for rows in every])
    joined = UnitRows(part.image, part.loops, places, starts, shapes, values, skipped if skipped.any() else None)
    assert len(np.unique(keys_of(joined), axis=0)) == part.patches
    return joined


def _table(lookup: Lookup, head: Head, unit: str, parts: Sequence[Part], rows: _Rows) -> FileRecord:
    image = lookup.index.image(parts[0].image)
    assert image is not None
    loop_axes = PlaneInfo.from_json(image.info or {}).loop_axes
    table = encode_unit(head, loop_axes, lookup.layout.ndim, [rows.of(head, part) for part in parts])
    return write_file(lookup.layout.folder / lookup.layout.table_name(head, unit), table)


def _record(unit: str, parts: Sequence[Part], files: Sequence[FileRecord], names: Sequence[str]) -> Record:
    """The unit once more, with its tables; rows of images that were predicted again elsewhere are in it no longer."""
    offsets = np.cumsum([0, *(part.patches for part in parts)]).tolist()
    described = [[part.image, part.loops, part.region.start, part.region.shape, part.patches, offset]
                 for part, offset in zip(parts, offsets, strict=False)]
    skipped = [(number, int(unpack(part.skipped, part.patches).sum()), part.skipped)
               for number, part in enumerate(parts) if part.skipped is not None]
    sizes = [(name, record.size, record.crc32c) for name, record in zip(names, files, strict=True)]
    record: Record = {"is": "unit", "unit": unit, "parts": described, "bad": {}, "files": sizes}
    return {**record, "skipped": skipped} if skipped else record
