"""Writes complete units and acknowledges them: outputs, flushed, then one journal record."""

from __future__ import annotations

import hashlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from patchloom.engine.groups import Groups, Unit
from patchloom.engine.singles import Single, Stack
from patchloom.engine.stitch import UnitMap
from patchloom.engine.work import ImageWork, UnitPart
from patchloom.errors import ImageError
from patchloom.events import Callback, Event, ImageDone, ImageFailed, UnitCommitted
from patchloom.geometry.axes import spatial_axes
from patchloom.geometry.region import Region
from patchloom.predictions.dense import DenseMap
from patchloom.predictions.files import FileRecord, flush, remove_tree, write_file
from patchloom.predictions.journal import Log, Record, append_all
from patchloom.predictions.layout import PlaneInfo, RunLayout, indices, member_name
from patchloom.predictions.lock import Lease
from patchloom.predictions.members import write_members
from patchloom.predictions.patches import ImageRows, UnitRows, encode_unit
from patchloom.predictions.records import began, grouped
from patchloom.predictions.skipped import pack
from patchloom.predictions.stores.store import PredictionStore

if TYPE_CHECKING:
    from patchloom.predictions.write_back import WriteBack

__all__ = ["Commits", "forget"]

Task = Callable[[], None]
HELD = 512
"""Images without files whose beginning is recorded together, with what is committed next at the latest."""
WAITING = 8
"""Submissions that may wait for the disk before workers do."""


@dataclass
class Submission:
    """Files to flush, then records to write, then events to tell; one that is not `urgent` waits for the next."""

    files: list[FileRecord] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    written: threading.Event | None = None
    urgent: bool = True


class Commits:
    """Everything that is written during a run.

    Encoding and writing are tasks for the pipeline's workers; waiting for the disk is left to one thread, so that no
    worker does. Submissions are acknowledged in the order in which they are made.

    Parameters
    ----------
    layout
        Of the run.
    journal, lock
        Of this session.
    emit
        Told of units and images that are durable.
    store
        Where rows of vector heads go; None for tables in the run's folder.
    also
        Table of the source's database that gets the predictions, too.
    then, abort
        The pipeline's: takes more tasks; ends the run with an error.
    """

    def __init__(
        self, layout: RunLayout, journal: Log, lock: Lease, emit: Callback, *, raise_failures: bool,
        store: PredictionStore | None = None, also: WriteBack | None = None,
    ) -> None:
        self._layout, self._journal, self._lease, self._emit = layout, journal, lock, emit
        self._store, self._also = store, also
        self._raise_failures = raise_failures
        self.then: Callable[[Sequence[Task]], None] = lambda tasks: None
        self.abort: Callable[[BaseException], None] = lambda error: None
        self._queue: queue.Queue[Submission | None] = queue.Queue(WAITING)
        self._lock = threading.Lock()
        self._groups = Groups()
        self._submitting = threading.Lock()
        self._held: list[Submission] = []
        self._broken = False
        self._thread = threading.Thread(target=self._acknowledge, name="patchloom-commit")
        self._thread.start()

    def close(self) -> None:
        """Wait until everything submitted is acknowledged."""
        self._submit(Submission())
        self._queue.put(None)
        self._thread.join()

    def settle(self) -> None:
        """Wait until everything submitted so far is acknowledged, or cannot be any more."""
        self._submit(Submission())
        self._queue.join()

    def begin(self, work: ImageWork, identity: str, info: PlaneInfo) -> None:
        """Make an image's maps, unless they are going to share files, and record that it was begun."""
        files = [] if work.held else [record for layout in work.maps.values() for record in layout.create()]
        self._submit(
            Submission(
                files,
                [
                    {
                        "is": "image",
                        "image": work.name,
                        "identity": identity,
                        "info": info.to_json(),
                        "patches": work.patches,
                        "files": self._named(files),
                    }
                ],
                urgent=bool(files),
            )
        )

    def begin_all(self, images: Sequence[Single]) -> None:
        """Record that images of one patch each were begun."""
        record = began((image.name, image.identity, image.shape.described, 1) for image in images)
        self._submit(Submission(records=[record], urgent=False))

    def forget(self, image: str) -> None:
        """Record that an image changed: what was predicted of it counts no more, and its maps are removed."""
        written = threading.Event()
        self._submit(Submission(records=[{"is": "forgotten", "image": image}], written=written))
        while not written.wait(1.0) and not self._broken:
            pass
        forget(self._layout, image, (self._store, self._also))

    def fail_unopened(self, image: str, error: ImageError) -> None:
        """Record that an image could not be opened."""
        failed = {"is": "failed", "image": image, "kind": error.kind, "message": error.message}
        self._submit(Submission(records=[failed], events=[ImageFailed(image, error.kind, error.message)]))
        if self._raise_failures:
            self.abort(error)

    def fail(self, work: ImageWork | Single, error: ImageError) -> None:
        """Record that an image is given up."""
        if isinstance(work, ImageWork):
            self._groups.drop(work)
        self.fail_unopened(work.name, error)

    def finish(self, part: UnitPart | Stack) -> list[Task]:
        """Tasks that write a complete part, shard by shard, or what waited with a stack."""
        if isinstance(part, Stack):
            kept = part.kept(self._layout.vector_heads)
            return [partial(self._commit, unit) for unit in self._groups.add_stack(kept)]
        if part.work.held:
            return [partial(self._hold, part)]
        shards = [
            (unit_map, index) for unit_map in part.maps.values() for index in unit_map.layout.shards(0, unit_map.region)
        ]
        if not shards:
            return [partial(self._commit, group) for group in self._waited(part)]
        left = itertools.count(len(shards) - 1, -1)
        records: list[FileRecord] = []
        return [self._shard_task(part, unit_map, index, records, left) for unit_map, index in shards]

    def flush(self) -> list[Task]:
        """Tasks that commit what was held back."""
        return [partial(self._commit, group) for group in self._groups.take()]

    def complete(self, work: ImageWork) -> None:
        """Finish an image whose parts are all submitted: the upper levels of its pyramids, then its record."""
        if not work.completes:
            work.image.close()
            return
        if work.held:
            self._gather(work)
            return
        self._next_level(work, 2, _levels(work), [])

    def _shard_task(
        self, part: UnitPart, unit_map: UnitMap, index: tuple[int, ...], records: list[FileRecord], left: Iterator[int]
    ) -> Task:
        def write() -> None:
            if part.work.failed:
                return
            layout, loops = unit_map.layout, part.loops
            written = layout.write_shard(0, loops, index, _blocks(unit_map, index))
            with self._lock:
                records.extend(written)
                last = next(left) == 0
            if last:
                self._written(part, records)

        return write

    def _written(self, part: UnitPart, records: list[FileRecord]) -> None:
        part.records = records
        part.release_maps()
        for group in self._waited(part):
            self._commit(group)

    def _waited(self, part: UnitPart) -> list[Unit]:
        """What is to be committed now that a part is written."""
        return [[part]] if part.alone else self._groups.add(part.work, [part])

    def _hold(self, part: UnitPart) -> None:
        """Encode a plane of a small image, which stays in memory until the image is complete."""
        if part.work.failed:
            return
        for unit_map in part.maps.values():
            for index in unit_map.layout.shards(0, unit_map.region):
                unit_map.layout.write_shard(0, part.loops, index, _blocks(unit_map, index))
        part.release_maps()
        with part.work.lock:
            part.work.encoded.append(part)
        if part.work.part_written():
            self.complete(part.work)

    def _gather(self, work: ImageWork) -> None:
        """Have a small image that is complete committed with others; one without a single patch has nothing to hold."""
        if not work.encoded:
            self._complete(work, [])
            return
        for layout in work.maps.values():
            layout.finish()
        for group in self._groups.add(work, work.encoded, sum(files.size for files in work.held.values())):
            self._commit(group)

    def _commit(self, waited: Unit) -> None:
        if isinstance(waited, Stack):
            self._commit_stack(waited)
            return
        parts = sorted((p for p in waited if not p.work.failed), key=lambda p: (p.work.name, p.loops, p.region.start))
        if not parts:
            return
        unit = _unit_name([(p.work.name, p.loops, p.region.start, p.region.shape) for p in parts])
        files = [record for part in parts for record in part.records]
        rows = {head.name: [part.rows_of(head) for part in parts] for head in self._layout.vector_heads}
        files += self._put(unit, parts[0].work.loop_axes, rows)
        held = {part.work.name: part.work for part in parts if part.work.held}
        files += self._write_members(unit, list(held.values()))
        submission = self._unit_submission(unit, parts, files)
        unfinished = []
        for part in parts:
            part.release()
            if part.work.held or not part.work.part_written():
                continue
            if _levels(part.work) > 2 or not part.work.completes:
                unfinished.append(part.work)
            else:
                self._add_complete(part.work, submission)
        self._link(list(held.values()), unit)
        for work in held.values():
            self._add_complete(work, submission)
        self._submit(submission)
        for work in unfinished:
            self.complete(work)

    def _commit_stack(self, stack: Stack) -> None:
        names, places = stack.names, stack.parts
        unit = _unit_name(places)
        files = list(self._put(unit, "", {head.name: stack.rows(head.name) for head in self._layout.vector_heads}))
        record = {
            "is": "unit",
            "unit": unit,
            "parts": [[*place, 1, number] for number, place in enumerate(places)],
            "bad": {name: 1 for name, bad in zip(names, stack.bad, strict=True) if bad},
            "files": self._named(files),
        }
        done = (ImageDone(name, 1, int(bad)) for name, bad in zip(names, stack.bad, strict=True))
        events = [UnitCommitted(unit, tuple(names), len(names)), *done]
        self._submit(Submission(files, [record, {"is": "completed", "images": names}], events))

    def _put(
        self, unit: str, loop_axes: str, rows: Mapping[str, Sequence[UnitRows] | ImageRows]
    ) -> Iterator[FileRecord]:
        """Put a unit's rows where they are to be; the tables that this makes."""
        others = [rows for rows in (self._also, self._store) if rows is not None]
        if others and rows:
            each = {name: part.of_each() if isinstance(part, ImageRows) else part for name, part in rows.items()}
            for other in others:
                other.put(loop_axes + spatial_axes(self._layout.ndim), each)
        if self._store is not None:
            return
        for name, parts in rows.items():
            head = self._layout.head(name)
            table = encode_unit(head, loop_axes, self._layout.ndim, parts)
            yield write_file(self._layout.folder / self._layout.table_name(head, unit), table)

    def _write_members(self, unit: str, works: Sequence[ImageWork]) -> Iterator[FileRecord]:
        """Write the maps of small images, a file a head; they are not held any longer."""
        for head in self._layout.dense_heads if works else ():
            contents = [(member_name(work.name), work.held[head.name].content) for work in works]
            members = (
                (f"{folder}/{name}", content.pop(name)) for folder, content in contents for name in sorted(content)
            )
            yield write_members(self._layout.folder / self._layout.members_name(head, unit), members)

    def _unit_submission(self, unit: str, parts: Sequence[UnitPart], files: list[FileRecord]) -> Submission:
        offset = 0
        described: list[Any] = []
        bad: dict[str, int] = {}
        skipped: list[tuple[int, int, str]] = []
        for number, part in enumerate(parts):
            described.append([part.work.name, part.loops, part.region.start, part.region.shape, part.patches, offset])
            offset += part.patches
            if part.bad_patches:
                bad[part.work.name] = bad.get(part.work.name, 0) + part.bad_patches
                with part.work.lock:
                    part.work.bad_patches += part.bad_patches
            if part.skipped is not None:
                skipped.append((number, int(part.skipped.sum()), pack(part.skipped)))
                with part.work.lock:
                    part.work.skipped += skipped[-1][1]
        record = {"is": "unit", "unit": unit, "parts": described, "bad": bad, "files": self._named(files)}
        record |= {"skipped": skipped} if skipped else {}
        images = tuple(dict.fromkeys(part.work.name for part in parts))
        return Submission(files, [record], [UnitCommitted(unit, images, offset)])

    def _next_level(self, work: ImageWork, level: int, levels: int, records: list[FileRecord]) -> None:
        shards = [
            (layout, loops, index)
            for layout in work.maps.values()
            if level < len(layout.levels)
            for loops in indices(layout.loop_shape)
            for index in layout.shards(level, Region.whole(layout.levels[level]))
        ]
        if level >= levels or not shards:
            self._complete(work, records)
            return
        left = itertools.count(len(shards) - 1, -1)

        def task(layout: DenseMap, loops: tuple[int, ...], index: tuple[int, ...]) -> Task:
            def write() -> None:
                written = layout.write_level_shard(level, loops, index)
                with self._lock:
                    records.extend(written)
                    last = next(left) == 0
                if last:
                    self._next_level(work, level + 1, levels, records)

            return write

        self.then([task(*shard) for shard in shards])

    def _complete(self, work: ImageWork, records: list[FileRecord]) -> None:
        submission = Submission(list(records))
        self._add_complete(work, submission, records)
        self._submit(submission)

    def _add_complete(self, work: ImageWork, submission: Submission, records: Sequence[FileRecord] = ()) -> None:
        """Add what says that an image is complete."""
        work.image.close()
        if not work.held:
            self._link([work])
        submission.records.append({"is": "complete", "image": work.name, "files": self._named(records)})
        submission.events.append(ImageDone(work.name, work.patches, work.bad_patches, work.skipped))

    def _link(self, works: Sequence[ImageWork], unit: str | None = None) -> None:
        """Tell whoever gets predictions where the maps of images are: in a unit's file, or in folders of their own."""
        told = [rows for rows in (self._store, self._also) if rows is not None]
        places = {work.name: self._layout.map_places(work.name, unit) for work in works if work.maps} if told else {}
        for rows in told if places else ():
            rows.link(places)

    def _submit(self, submission: Submission) -> None:
        with self._submitting:
            if not submission.urgent:
                self._held.append(submission)
                if len(self._held) < HELD:
                    return
                submission = self._held.pop()
            held, self._held = self._held, []
            if not self._broken:
                self._queue.put(_together([*held, submission]))

    def _acknowledge(self) -> None:
        last = False
        while not last:
            waiting = [self._queue.get()]
            while not self._queue.empty():
                waiting.append(self._queue.get())
            last = None in waiting
            try:
                if not self._broken:  # what comes after an error is not acknowledged
                    self._write([submission for submission in waiting if submission is not None])
            except BaseException as error:
                self._broken = True
                self.abort(error)
            for _ in waiting:
                self._queue.task_done()

    def _write(self, submissions: Sequence[Submission]) -> None:
        records = list(grouped([record for submission in submissions for record in submission.records]))
        if not records:
            return
        self._lease.check()
        flush(record.path for submission in submissions for record in submission.files)
        append_all(self._journal, records)
        for submission in submissions:
            if submission.written is not None:
                submission.written.set()
            for event in submission.events:
                self._emit(event)

    def _named(self, files: Sequence[FileRecord]) -> list[tuple[str, int, int]]:
        folder: Any = self._layout.folder
        return [(record.path.relative_to(folder).as_posix(), record.size, record.crc32c) for record in files]


def forget(layout: RunLayout, image: str, rows: Iterable[PredictionStore | WriteBack | None]) -> None:
    """Remove the maps of an image, and its rows out of whatever has rows beside the run's folder."""
    for one in rows:
        if one is not None:
            one.delete(image)
    for head in layout.dense_heads:
        remove_tree(layout.folder / layout.map_name(head, image))


def _unit_name(parts: Sequence[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]]]) -> str:
    """Name of a unit, after its content."""
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()


def _levels(work: ImageWork) -> int:
    return max((len(layout.levels) for layout in work.maps.values()), default=0)


def _together(submissions: Sequence[Submission]) -> Submission:
    """Submissions as one, in order; the last one may be waited for."""
    *before, last = submissions
    for earlier in before:
        assert earlier.written is None
    return Submission(
        [file for submission in submissions for file in submission.files],
        [record for submission in submissions for record in submission.records],
        [event for submission in submissions for event in submission.events],
        last.written,
    )


def _blocks(unit_map: UnitMap, index: tuple[int, ...]) -> Callable[[tuple[int, ...]], NDArray[Any] | None]:
    """What gives the chunks of one shard out of a unit's map."""
    layout = unit_map.layout
    counts = layout.shard_counts(0)
    first = [i * n - a // c for i, n, a, c in zip(index, counts, unit_map.region.start, layout.chunk, strict=True)]
    return lambda place: unit_map.block(tuple(f + p for f, p in zip(first, place, strict=True)))
