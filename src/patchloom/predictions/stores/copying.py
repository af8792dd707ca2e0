"""Copies a run's predictions into another store; what a copy before this one has done is not done again."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from patchloom.errors import OutputError
from patchloom.models.model import Head
from patchloom.objects import AnyPath
from patchloom.predictions.files import write_file
from patchloom.predictions.index import ImageRow
from patchloom.predictions.layout import PlaneInfo
from patchloom.predictions.lookup import Lookup
from patchloom.predictions.patches import UnitRows
from patchloom.predictions.stores.reading import key_axes
from patchloom.predictions.stores.rows import digest
from patchloom.predictions.stores.store import PredictionStore, StoredRun, open_store
from patchloom.predictions.stores.url import without_password

__all__ = ["COPIES", "copy"]

BATCH = 8192
"""Patches that are put together."""
COPIES = "copies"
"""Folder within that of the run with one file for each store that it was copied to."""
SECONDS = 2.0
"""Time between two notes of what is copied, at least; an interruption costs as much."""


def copy(
    lookup: Lookup, run: StoredRun, url: str, folder: AnyPath, callback: Callable[[int, int], None] | None = None
) -> int:
    """Put everything that is predicted of vector heads into another store, and where maps are.

    Parameters
    ----------
    lookup
        Where predictions are.
    run
        Whose they are.
    url
        Of the other store, with its password.
    folder
        Of the run: what is copied is noted there.
    callback
        Told how many patches are copied, and of how many.

    Returns
    -------
    int
        Patches that were not there already.
    """
    there = [row for row in lookup.index.images() if row.patches_done and row.info is not None]
    total = sum(row.patches_done for row in there)
    target = open_store(url, run)
    try:
        of = f"{run.id} {folder.resolve()}" if lookup.layout.dense_heads else run.id  # maps that moved are told anew
        notes = _Notes(folder / COPIES / f"{digest(without_password(url))}.json", of)
        notes.check(target, run)
        for image in notes.outdated(there):
            target.delete(image)
        left = [row for row in there if row.name not in notes.images]
        done = total - sum(row.patches_done for row in left)
        before = done
        for rows in _groups(left):
            for count in _copied(lookup, run.heads, rows, target):
                done += count
                if callback is not None:
                    callback(done, total)
            notes.add(rows)
        if callback is not None and done == before:
            callback(done, total)
        notes.write()
        return done - before
    finally:
        target.close()


class _Notes:
    """Which images are copied, and as what: the identity of the image, and numbers of its patches.

    The store itself is asked whether it has so many rows: whoever removed some gets all of them again.
    """

    def __init__(self, path: AnyPath, run: str) -> None:
        self._path, self._run = path, run
        self.images: dict[str, list[object]] = {}
        self._written = time.monotonic()
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # without it everything is copied
            document = json.loads(path.read_bytes())
            if document["run"] == run:
                self.images = dict(document["images"])

    def check(self, target: PredictionStore, run: StoredRun) -> None:
        """Forget everything where the store has less than it was given."""
        if not self.images:
            return
        given = sum(int(str(about[1])) for about in self.images.values())
        linked = run.heads or all(map(target.maps, self.images))
        if not linked or any(target.count(head.name) < given for head in run.heads):
            self.images.clear()

    def outdated(self, rows: Iterable[ImageRow]) -> list[str]:
        """Images that are other ones now, or are gone; they are not noted any longer."""
        now = {row.name: _about(row) for row in rows}
        gone = [image for image, about in self.images.items() if now.get(image) != about]
        for image in gone:
            del self.images[image]
        return gone

    def add(self, rows: Iterable[ImageRow]) -> None:
        """Note images that are copied."""
        self.images |= {row.name: _about(row) for row in rows}
        if time.monotonic() - self._written >= SECONDS:
            begin = time.monotonic()
            self.write()
            self._written = time.monotonic() + 10 * (time.monotonic() - begin)  # of many images it takes a while

    def write(self) -> None:
        """Write the file; where that is not possible the next copy begins anew."""
        with contextlib.suppress(OutputError, OSError):
            write_file(self._path, json.dumps({"run": self._run, "images": self.images}).encode())


def _about(row: ImageRow) -> list[object]:
    return [row.identity, row.patches_done, row.patches_skipped, row.state]


def _groups(rows: Iterable[ImageRow]) -> Iterator[list[ImageRow]]:
    """Images that have the same axes, so many that a store is worth asking; a large one is alone."""
    group: list[ImageRow] = []
    for row in rows:
        if group and (_axes(row) != _axes(group[0]) or sum(one.patches_done for one in group) >= BATCH):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _axes(row: ImageRow) -> str:
    return key_axes(PlaneInfo.from_json(row.info or {}))


def _copied(
    lookup: Lookup, heads: Sequence[Head], images: Sequence[ImageRow], target: PredictionStore
) -> Iterator[int]:
    """Put some images; after each batch, how many patches that were."""
    for number, head in enumerate(heads):
        for rows in _batches(part for row in images for part in lookup.rows(head, row)):
            target.put(_axes(images[0]), {head.name: rows})
            if number == len(heads) - 1:
                yield sum(len(part.values) for part in rows)
    if lookup.layout.dense_heads:
        target.link({row.name: lookup.map_places(row) for row in images if row.state == "done"})
        if not heads:
            yield sum(row.patches_done for row in images)


def _batches(parts: Iterable[UnitRows]) -> Iterator[list[UnitRows]]:
    waiting: list[UnitRows] = []
    for part in parts:
        waiting.append(part)
        if sum(len(one.values) for one in waiting) >= BATCH:
            yield waiting
            waiting = []
    if waiting:
        yield waiting
