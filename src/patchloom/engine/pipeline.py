"""Equal workers that take whatever is most downstream and ready: finish a unit, predict a batch, test patches, decode.

Nobody waits for anybody while there is something to do, and no core is asked for twice: there are as many workers as
cores, each with a single-threaded model call. Backpressure is the order of choice; memory is bounded by how far
decoding may run ahead.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from patchloom.engine.budget import Limits
from patchloom.engine.predictor import Predictor
from patchloom.engine.singles import Single, Stack
from patchloom.engine.work import ImageWork, ReadyRow, Sweep, UnitPart
from patchloom.errors import ImageError, MemoryBudgetError
from patchloom.events import Callback, ImageStarted, PatchesPredicted, PatchesSkipped
from patchloom.images.filters import Filter, inside

__all__ = ["Images", "Limits", "Pipeline", "Units"]

Task = Callable[[], None]
Patches = list[tuple[Sweep, tuple[int, ...]]]
Images = Iterator[Iterator[Sweep | Single]]
"""For each image its sweeps, or itself if it is one patch."""
T = TypeVar("T")
TESTED_AT_ONCE = 16
"""Patches that a worker tests before it looks for something more urgent."""


class Units(Protocol):
    """What becomes of units that are complete, and of images that are not."""

    def begin_all(self, images: Sequence[Single]) -> None:
        """Record that images of one patch each are begun; that others are is known before their sweeps are given."""

    def finish(self, part: UnitPart | Stack) -> list[Task]:
        """Tasks that write a complete part, or a stack of images."""

    def fail(self, work: ImageWork | Single, error: ImageError) -> None:
        """Record that an image is given up."""

    def flush(self) -> list[Task]:
        """Tasks that commit what is complete and was held back to be committed with more."""


class Pipeline:
    """Runs sweeps until there are no more.

    Parameters
    ----------
    images
        The work: for each image its sweeps, or itself if it is one patch, opened only when there is room, several at
        once; raises nothing.
    predictor
        The model.
    units
        What becomes of the results.
    limits
        How much may be under way.
    emit
        Told of progress.
    filter_
        Which patches are skipped, before the model sees them; None where all are predicted.
    lasting
        Whether more may come after all that was there is done: it then waits for `more` or `stop`.
    """

    def __init__(
        self,
        images: Images,
        predictor: Predictor,
        units: Units,
        limits: Limits,
        emit: Callback,
        filter_: Filter | None = None,
        *,
        lasting: bool = False,
    ) -> None:
        self._lasting = lasting
        self._images, self._predictor, self._units, self._emit = images, predictor, units, emit
        self._limits, self._batch, self._filter = limits, limits.batch, filter_
        self._changed = threading.Condition()
        self._finishing: deque[Task] = deque()
        self._untested: deque[ReadyRow] = deque()
        self._untested_count = 0
        self._ready: deque[ReadyRow] = deque()
        self._ready_count = 0
        self._singles: deque[Single] = deque()
        self._postponed: deque[Single] = deque()
        self._opened: deque[Iterator[Sweep | Single]] = deque()
        self._enumerating = threading.Lock()
        self._active: deque[Sweep] = deque()
        self._decoded_bytes = 0
        self._running = {"finish": 0, "predict": 0, "test": 0, "decode": 0, "open": 0}
        self._more = True
        self._stopping = False
        self._flushed = False
        self._error: BaseException | None = None
        self._local = threading.local()

    def run(self, wait: Callable[[threading.Thread], None]) -> None:
        """Work until everything is done, or until `stop` is called and what was begun is finished.

        Parameters
        ----------
        wait
            Waits for a thread to end; where the caller listens to signals.
        """
        workers = [threading.Thread(target=self._work, name=f"patchloom-{i}") for i in range(self._limits.threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            wait(worker)

    def raise_error(self) -> None:
        """Raise what ended the run, if anything did; errors may still come while the last units are acknowledged."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Begin nothing new; units that are complete are still committed."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def more(self) -> None:
        """Say that `images` has more to give, after it had none."""
        with self._enumerating, self._changed:  # whoever just found that it has none has noted that
            self._more, self._flushed = True, False
            self._changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether all that there was is done, and handed to `units`."""
        with self._changed:
            busy = self._more or self._finishing or any(self._running.values())
            return self._flushed and not busy

    def abort(self, error: BaseException) -> None:
        """End as soon as possible with `error`."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def _work(self) -> None:
        done: str | None = None
        while (chosen := self._take(done)) is not None:
            done, task = chosen
            try:
                task()
            except BaseException as error:
                self.abort(error)

    def _take(self, done: str | None) -> tuple[str, Task] | None:
        """What to do next, after a task of the kind `done`."""
        with self._changed:
            if done is not None:
                self._running[done] -= 1
                self._changed.notify_all()
            while True:
                if self._error is not None:
                    return None
                chosen = self._choose()
                if chosen is not None:
                    self._running[chosen[0]] += 1
                    return chosen
                if not any(self._running.values()):
                    if not self._flushed:
                        self._flushed = True
                        self._finishing.extend(self._units.flush())
                        self._changed.notify_all()
                        continue
                    if self._stopping or not self._lasting:
                        return None
                self._changed.wait()

    def _choose(self) -> tuple[str, Task] | None:
        if self._finishing:
            return "finish", self._finishing.popleft()
        if self._stopping:
            return None
        sweep = next(iter(self._active), None)
        room = self._room(self._next_bytes(sweep))
        can_decode = sweep is not None and room
        can_open = sweep is None and room and (self._more or bool(self._opened or self._postponed))
        if self._running["predict"] < self._predictor.at_once:
            filling = can_decode or can_open or any(self._running[kind] for kind in ("test", "decode", "open"))
            enough = self._batch if filling or self._untested else 1
            if self._ready_count >= enough:
                return "predict", partial(self._predict, self._pop_patches())
            if len(self._singles) >= enough:
                return "predict", partial(self._predict_stack, self._pop_singles())
        if self._untested:
            return "test", partial(self._test, self._pop_untested())
        if can_decode:
            assert sweep is not None
            key = sweep.next_block()
            if sweep.exhausted:
                self._active.popleft()
            if key is not None:
                return "decode", partial(self._decode, sweep, key)
        if can_open:
            return "open", self._open
        return None

    def _next_bytes(self, sweep: Sweep | None) -> int:
        """What is going to be decoded next takes, as far as that is known."""
        if sweep is not None:
            return sweep.blocks.block_bytes
        return self._postponed[0].shape.nbytes if self._postponed else 0

    def _room(self, nbytes: int = 0, others: int = 0) -> bool:
        """Whether so many bytes may be decoded; `others` are images that this worker holds."""
        waiting = self._ready_count + self._untested_count + len(self._singles) + others
        if not waiting and not self._running["predict"] and not self._running["test"]:
            return True
        if waiting >= max(4 * self._batch * self._predictor.at_once, 64):
            return False
        return self._decoded_bytes + nbytes <= self._limits.decoded_bytes

    def _open(self) -> None:
        """Get one more sweep; of images that are one block each, as many as make a batch, and decode them."""
        singles: list[Single] = []
        while len(singles) < self._batch:
            found = self._next_sweep()
            if isinstance(found, Single):
                if not self._reserve(found, len(singles)):
                    break
                self._emit(ImageStarted(found.name, 1))
                found.decode()
                singles.append(found)
            elif found is None or not self._open_sweep(found):
                break
            if self._is_urgent() or not self._room(others=len(singles)):
                break
        if singles:
            self._hold(singles)

    def _reserve(self, single: Single, others: int) -> bool:
        """Whether there is room for one more image of one patch; what it is going to take is counted, or it waits."""
        with self._changed:
            room = self._room(single.shape.nbytes, others)
            if room:
                self._decoded_bytes += single.shape.nbytes
            else:
                self._postponed.append(single)
            return room

    def _open_sweep(self, sweep: Sweep) -> bool:
        """Decode what is one block; False where it is not, or there is no room."""
        with self._changed:
            if sweep.work.failed:
                return False
            sweep.work.sweeps.append(sweep)
            if not (sweep.shape.is_one_block and self._room(sweep.blocks.block_bytes)):
                self._active.append(sweep)
                return False
            key = sweep.next_block()
        if key is not None:
            self._decode(sweep, key)
        return True

    def _is_urgent(self) -> bool:
        """Whether there is something to do that is more downstream than opening images."""
        can_predict = self._running["predict"] < self._predictor.at_once
        ready = can_predict and max(self._ready_count, len(self._singles)) >= self._batch
        return bool(ready or self._finishing or self._untested or self._active or self._stopping or self._error)

    def _hold(self, singles: Sequence[Single]) -> None:
        """Have images of one patch, decoded, wait for the model."""
        self._units.begin_all(singles)
        failed = [single for single in singles if single.error is not None]
        with self._changed:
            self._singles.extend(single for single in singles if single.error is None)
            self._decoded_bytes -= sum(single.shape.nbytes for single in failed)
        for single in failed:
            assert single.error is not None
            self._units.fail(single, single.error)

    def _next_sweep(self) -> Sweep | Single | None:
        """One more sweep, out of an image that is open or out of the next one; None where there are no more images."""
        while True:
            if (postponed := _popped(self._postponed)) is not None:
                return postponed
            image = _popped(self._opened)
            if image is None:
                with self._enumerating:
                    following = next(self._images, None)
                    if following is None:
                        self._more = False
                        return None
                image = following
            sweep = next(image, None)
            if sweep is not None:
                if not isinstance(sweep, Single):
                    self._opened.appendleft(image)
                return sweep

    def _decode(self, sweep: Sweep, key: tuple[int, ...]) -> None:
        try:
            nbytes = 0 if sweep.work.failed else sweep.blocks.decode(key)
        except ImageError as error:
            self._fail(sweep.work, error)
            nbytes = 0
        with self._changed:
            if sweep.work.failed:
                return
            self._decoded_bytes += nbytes
            rows = sweep.decoded(key)
            if self._filter is None:
                self._ready.extend(rows)
                self._ready_count += sum(row.left for row in rows)
            else:
                self._untested.extend(rows)
                self._untested_count += sum(row.left for row in rows)

    def _pop_untested(self) -> Patches:
        row = self._untested[0]
        patches = [row.pop() for _ in range(min(row.left, TESTED_AT_ONCE))]
        if not row.left:
            self._untested.popleft()
        self._untested_count -= len(patches)
        return patches

    def _test(self, patches: Patches) -> None:
        """Ask the filter about patches of one row; what it keeps is ready."""
        sweep, (row, *_) = patches[0]
        kept: list[tuple[int, ...]] = []
        skipped = 0
        for _, place in patches:
            if sweep.work.failed:
                return
            try:
                skips = self._skips(sweep, place)
            except ImageError as error:
                self._fail(sweep.work, error)
                return
            if skips:
                self._skip(sweep, place)
                skipped += 1
            else:
                kept.append(place[1:])
        with self._changed:
            if kept and not sweep.work.failed:
                self._ready.append(ReadyRow(sweep, row, iter(kept), len(kept)))
                self._ready_count += len(kept)
        if skipped:
            self._emit(PatchesSkipped(sweep.work.name, skipped))

    def _skips(self, sweep: Sweep, place: tuple[int, ...]) -> bool:
        assert self._filter is not None
        plane = sweep.work.shape
        region = inside(sweep.shape.patch(place), plane)
        return self._filter.skips(sweep.blocks.cut(region), sweep.work.name, region, plane)

    def _skip(self, sweep: Sweep, place: tuple[int, ...]) -> None:
        """Nobody needs the pixels of a patch any more, and its units do not wait for it."""
        with self._changed:
            self._decoded_bytes -= sweep.blocks.drop(sweep.read(place[0]))
            parts = sweep.parts_of(place[0])
        self._finish(sweep, [part for part in parts if part.skip(place)])

    def _pop_patches(self) -> Patches:
        patches: Patches = []
        while self._ready and len(patches) < self._batch:
            row = self._ready[0]
            patches.append(row.pop())
            if not row.left:
                self._ready.popleft()
        self._ready_count -= len(patches)
        return patches

    def _predict(self, patches: Patches) -> None:
        self._call(self._fill(patches), patches, self._place)

    def _call(
        self, batch: NDArray[Any], patches: list[T], place: Callable[[list[T], dict[str, NDArray[Any]]], None]
    ) -> None:
        try:
            heads = self._predictor(batch, len(patches))
        except MemoryError as error:
            half = self._halved(len(patches), error)
            for i in range(0, len(patches), half):
                part = patches[i : i + half]
                self._call(self._predictor.part(batch, i, len(part)), part, place)
        else:
            place(patches, heads)

    def _pop_singles(self) -> list[Single]:
        return [self._singles.popleft() for _ in range(min(self._batch, len(self._singles)))]

    def _predict_stack(self, singles: list[Single]) -> None:
        batch, slots = self._predictor.batch(self._local, len(singles))
        for single, slot in zip(singles, slots, strict=False):
            single.deliver(slot, self._predictor.preprocess)
        with self._changed:
            self._decoded_bytes -= sum(single.shape.nbytes for single in singles)
        self._call(batch, singles, self._finish_stack)

    def _finish_stack(self, singles: list[Single], heads: dict[str, NDArray[Any]]) -> None:
        for single in singles:
            self._emit(PatchesPredicted(single.name, 1))
        bad = self._predictor.bad(heads, len(singles))
        self._add_tasks(self._units.finish(Stack(singles, heads, bad)))

    def _fill(self, patches: Patches) -> NDArray[Any]:
        batch, slots = self._predictor.batch(self._local, len(patches))
        copied: Patches = []
        for (sweep, place), slot in zip(patches, slots, strict=False):  # a fixed batch may have room for more
            if sweep.work.failed:
                slot[...] = 0
                continue
            patch = sweep.shape.patch(place)
            sweep.blocks.fill(patch, slot, sweep.padding, self._predictor.preprocess)
            copied.append((sweep, place))
        with self._changed:
            self._decoded_bytes -= sum(sweep.blocks.drop(sweep.read(place[0])) for sweep, place in copied)
        return batch

    def _place(self, patches: Patches, heads: dict[str, NDArray[Any]]) -> None:
        counts: dict[str, int] = {}
        bad = self._predictor.bad(heads, len(patches))
        for i, (sweep, place) in enumerate(patches):
            if sweep.work.failed:
                continue
            values = {name: head[i] for name, head in heads.items()}
            counts[sweep.work.name] = counts.get(sweep.work.name, 0) + 1
            with self._changed:
                parts = sweep.parts_of(place[0])
            complete = [part for part in parts if part.place(place, values, bad=bad[i])]
            self._finish(sweep, complete)
        for name, count in counts.items():
            self._emit(PatchesPredicted(name, count))

    def _finish(self, sweep: Sweep, complete: Sequence[UnitPart]) -> None:
        for part in complete:
            tasks = self._units.finish(part)
            with self._changed:
                if sweep.finished(part) and sweep in sweep.work.sweeps:
                    sweep.work.sweeps.remove(sweep)  # what waits to be committed is not to hold its pixels
            self._add_tasks(tasks)

    def _add_tasks(self, tasks: Sequence[Task]) -> None:
        if tasks:
            with self._changed:
                self._finishing.extend(tasks)
                self._changed.notify_all()

    def then(self, tasks: Sequence[Task]) -> None:
        """Have more tasks done, before anything else."""
        with self._changed:
            self._flushed = False
            self._finishing.extend(tasks)
            self._changed.notify_all()

    def _fail(self, work: ImageWork, error: ImageError) -> None:
        with self._changed:
            if work.failed:
                return
            work.failed = True
            self._ready = deque(row for row in self._ready if row.sweep.work is not work)
            self._ready_count = sum(row.left for row in self._ready)
            self._untested = deque(row for row in self._untested if row.sweep.work is not work)
            self._untested_count = sum(row.left for row in self._untested)
            self._active = deque(sweep for sweep in self._active if sweep.work is not work)
            self._decoded_bytes -= sum(sweep.blocks.abandon() for sweep in work.sweeps)
        self._units.fail(work, error)

    def _halved(self, patches: int, error: MemoryError) -> int:
        """Smaller batch from here on, after one of so many `patches` did not fit."""
        if patches == 1:
            raise MemoryBudgetError(
                "the model runs out of memory with a single patch",
                "choose a smaller patch, or a device with more memory",
            ) from error
        with self._changed:
            self._batch = min(self._batch, max(1, patches // 2))
        return max(1, patches // 2)


def _popped(queue: deque[T]) -> T | None:
    """First element; other threads may take it, too."""
    try:
        return queue.popleft()
    except IndexError:
        return None
