"""Whatever workers do, and however often they die, hang, or say things twice: each part is journalled once."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from patchloom.config import Config
from patchloom.engine import driver
from patchloom.engine.assignment import Assignment, Place
from patchloom.engine.cluster import Heard, Joined, Lost
from patchloom.engine.driver import Driver
from patchloom.engine.tasks import Task
from patchloom.engine.worker import Report
from patchloom.errors import ModelError, RunError, WorkerDiedError
from patchloom.events import Event, ImageDone, ImageFailed, UnitCommitted, WorkerJoined, WorkerLost
from patchloom.geometry.region import Region
from patchloom.images.source import Entry
from patchloom.models.model import Head
from patchloom.predictions.index import Index
from patchloom.predictions.journal import Journal
from patchloom.predictions.layout import RunLayout

UNITS = 4
"""Units of each image."""
MOST_WAITS = 3000
"""How often a driver waits for its workers in these tests, at most."""
PLACES: list[Place] = [((), Region((row, 0), (1, 8))) for row in range(UNITS)]


def task(*names: str, only: Sequence[int] | None = None, pieces: int = 1) -> Task:
    places = None if only is None else frozenset(PLACES[row] for row in only)
    assigned = tuple(Assignment(Entry(name, lambda: None, name), only=places) for name in names)  # type: ignore[arg-type]
    return Task(assigned, UNITS * len(names), 0, pieces)


@dataclass
class Scripted:
    """A worker without a process: steps of what it was given, one at a time."""

    name: str
    folder: Path
    steps: deque[tuple[str, Callable[[], list[dict[str, Any]]]]] = field(default_factory=deque)
    taken: int = 0
    hung: bool = False
    said: list[dict[str, Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def take(self, given: Task) -> None:
        self.taken += 1
        for one in given.assignments:
            name = one.entry.name
            if one.row is None:
                info = {"plane": [UNITS, 8]}
                self._then(name, {"is": "image", "image": name, "identity": name, "info": info, "patches": UNITS,
                                  "files": []})
            for place in [place for place in PLACES if one.wants(place)]:
                self.steps.append((name, lambda name=name, place=place: [self._unit(name, place)]))
            if one.only is None:
                self._then(name, {"is": "complete", "image": name, "files": []})

    def _then(self, name: str, record: dict[str, Any]) -> None:
        self.steps.append((name, lambda: [record]))

    def _unit(self, name: str, place: Place) -> dict[str, Any]:
        """Write a file that no other worker writes, as shared units of small images are."""
        unit = f"{name}-{place[1].start[0]}-{self.name}"
        path = self.folder / "patches" / f"{unit}.parquet"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        parts = [[name, list(place[0]), list(place[1].start), list(place[1].shape), 1, 0]]
        return {"is": "unit", "unit": unit, "parts": parts, "bad": {}, "files": [[f"patches/{unit}.parquet", 1, 0]]}

    def step(self) -> str:
        """Do one thing; the image that it is of."""
        name, make = self.steps.popleft()
        for record in make():
            self.said.append(record)
            if record["is"] == "unit":
                self.events.append(UnitCommitted(record["unit"], (name,), 1))
            elif record["is"] == "complete":
                self.events.append(ImageDone(name, UNITS))
        return name


class Clock:
    """Time that goes on by a second each time the cluster is waited for."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


CLOCK = Clock()


class Script:
    """A cluster of scripted workers: what happens next is drawn.

    Parameters
    ----------
    draw
        A number below another one.
    deadly
        Images that end each worker that comes to them.
    accidents
        How many workers die or hang of themselves.
    lossy
        Workers that give nothing back of what they were given.
    """

    def __init__(
        self, folder: Path, draw: Callable[[int], int], *, workers: int = 2, deadly: Sequence[str] = (),
        accidents: int = 0, lossy: Sequence[str] = (),
    ) -> None:
        self.folder, self.draw, self.deadly, self.accidents, self.lossy = folder, draw, deadly, accidents, lossy
        self.workers: dict[str, Scripted] = {}
        self.wanted, self.number, self.closed, self.stopped = workers, 0, False, False
        self.killed: list[str] = []
        self.most = self.waits = 0
        self._lost: list[Lost] = []

    def submit(self, worker: str, tasks: Sequence[Task]) -> None:
        if worker in self.workers:
            for one in tasks:
                self.workers[worker].take(one)
            self.most = max(self.most, len(self.workers[worker].steps))

    def wait(self, seconds: float) -> list[Joined | Heard | Lost]:
        CLOCK.now += 1
        self.waits += 1
        assert self.waits < MOST_WAITS, "it does not end"
        lost, self._lost = self._lost, []
        if len(self.workers) < self.wanted and not self.stopped:
            return [*lost, self._join()]
        return [*lost, *(said for worker in list(self.workers.values()) for said in self._turn(worker))]

    def kill(self, worker: str) -> None:
        self.killed.append(worker)
        if self.workers.pop(worker, None) is not None:
            self._lost.append(Lost(worker, "killed"))

    def stop(self) -> None:
        self.stopped = True
        for worker in self.workers.values():
            worker.steps.clear()

    def close(self) -> None:
        self.closed = True

    def _join(self) -> Joined:
        self.number += 1
        self.workers[f"w{self.number}"] = Scripted(f"w{self.number}", self.folder)
        return Joined(f"w{self.number}")

    def _turn(self, worker: Scripted) -> Iterator[Heard | Lost]:
        if worker.hung:
            return
        if self.accidents and worker.steps and not self.draw(4):
            self.accidents -= 1
            if self.draw(2):
                worker.hung = len([one for one in self.workers.values() if not one.hung]) > 1
            else:
                yield self._die(worker, "an accident")
                return
        for _ in range(min(len(worker.steps), 1 + self.draw(3))):
            if worker.steps[0][0] in self.deadly:
                yield self._die(worker, "out of memory")
                return
            if worker.name in self.lossy:
                worker.steps.clear()
                break
            worker.step()
        said, worker.said, events, worker.events = worker.said, [], worker.events, []
        repeated = said[:1] if said and not self.draw(5) else []
        yield Heard(worker.name, Report(said + repeated, events, not worker.steps, worker.taken, self.stopped))

    def _die(self, worker: Scripted, why: str) -> Lost:
        del self.workers[worker.name]
        return Lost(worker.name, why)


class Held:
    """A lease that is never lost."""

    def check(self) -> None:
        pass


@dataclass
class Stand:
    """A run of the driver, and what is there afterwards."""

    folder: Path
    script: Script
    tasks: list[Task]
    events: list[Event] = field(default_factory=list)
    on_error: str = "record"

    def run(self, stop_after: int | None = None) -> Index:
        folder = self.folder
        (folder / "journal").mkdir(exist_ok=True)
        head = Head("score", "vector", np.dtype(np.float64), (1,))
        config = Config(patch=(8, 8), stride=(8, 8), on_error=self.on_error)
        layout = RunLayout(folder, config, 2, (head,), None)
        index = Index(folder)
        with closing(Journal(folder / "journal")) as journal:
            work = Driver(self.script, iter(self.tasks), index, layout, journal, Held(), self._take)
            self._stop = (work.stop, stop_after)
            try:
                work.run()
            finally:
                index.refresh()
        return index

    def _take(self, event: Event) -> None:
        self.events.append(event)
        stop, after = self._stop
        if after is not None and sum(isinstance(one, UnitCommitted) for one in self.events) == after:
            stop()

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever takes longer than nothing is started again by who has nothing to do, and silence is death."""
    monkeypatch.setattr(driver, "time", CLOCK)
    monkeypatch.setattr(driver, "PATIENCE", 2.0)
    monkeypatch.setattr(driver, "SLOW", 0.0)
    monkeypatch.setattr(driver, "SILENT", 8.0)


def first(below: int) -> int:
    return below - 1


def whole_run(stand: Stand, index: Index, names: Sequence[str], failed: Sequence[str] = ()) -> None:
    """Each part once, files of no other units, an end for each image."""
    states = {row.name: row.state for row in index.images()}
    assert states == {name: "failed" if name in failed else "done" for name in names}
    units = stand.of(UnitCommitted)
    assert len({event.unit for event in units}) == len(units)
    committed = Counter((event.images[0], event.unit.split("-")[1]) for event in units)
    assert max(committed.values(), default=1) == 1
    assert {image for image, _ in committed} <= set(names)
    assert sum(image not in failed for image, _ in committed) == UNITS * (len(names) - len(failed))
    assert sorted(event.image for event in stand.of(ImageDone)) == sorted(set(names) - set(failed))
    known = {path for path, *_ in index.files()}
    assert {f"patches/{path.name}" for path in (stand.folder / "patches").glob("*")} <= known
    assert stand.script.closed


def mixed() -> list[Task]:
    """Whole images, alone and together, and one in pieces."""
    cut = [task("c", only=rows, pieces=2) for rows in ((0, 1), (2, 3))]
    return [task("a"), *cut, task("b", "d", "e"), task("f"), task("g", "h")]


NAMES = "abcdefgh"


@settings(max_examples=30)
@example(seed=801, workers=3, accidents=2)
@given(seed=st.integers(0, 10**6), workers=st.integers(2, 4), accidents=st.integers(0, 6))
def test_whatever_happens_each_part_counts_once(
    tmp_path_factory: pytest.TempPathFactory, seed: int, workers: int, accidents: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    drawn = random.Random(seed)
    script = Script(folder, drawn.randrange, workers=workers, accidents=accidents)
    stand = Stand(folder, script, mixed())
    with closing(stand.run()) as index:
        failed = [row.name for row in index.images("failed")]
        whole_run(stand, index, NAMES, failed)
        assert len(failed) <= accidents // 3, "an image fails only after three deaths"


@pytest.mark.parametrize("image", ["a", "c", "d", "h"])
def test_an_image_that_ends_each_worker_fails_and_no_other(tmp_path: Path, image: str) -> None:
    stand = Stand(tmp_path, Script(tmp_path, first, deadly=[image]), mixed())
    with closing(stand.run()) as index:
        whole_run(stand, index, NAMES, [image])
        row = index.image(image)
        assert row is not None
        assert row.kind == WorkerDiedError.kind
    (event,) = stand.of(ImageFailed)
    assert "out of memory" in event.message
    assert driver.DEATHS <= len(stand.of(WorkerLost)) <= 3 * driver.DEATHS


def test_the_first_failed_image_ends_the_run_where_that_is_wanted(tmp_path: Path) -> None:
    stand = Stand(tmp_path, Script(tmp_path, first, deadly=["a"]), mixed(), on_error="raise")
    with pytest.raises(WorkerDiedError, match="a: given to a worker 3 times"):
        stand.run()
    assert stand.script.closed


def test_what_a_worker_gives_nothing_back_for_is_done_by_others(tmp_path: Path) -> None:
    stand = Stand(tmp_path, Script(tmp_path, first, lossy=["w1"]), mixed())
    with closing(stand.run()) as index:
        failed = [row.name for row in index.images("failed")]
        whole_run(stand, index, NAMES, failed)
    assert "w1" not in {event.worker for event in stand.of(UnitCommitted)}


def test_stopping_finishes_cleanly_and_leaves_the_rest(tmp_path: Path) -> None:
    stand = Stand(tmp_path, Script(tmp_path, first), mixed())
    with closing(stand.run(stop_after=3)) as index:
        counts = index.counts()
    assert stand.script.stopped
    assert stand.script.closed
    assert counts["done"] < len(NAMES)
    assert len(stand.of(UnitCommitted)) >= 3


def test_workers_are_given_few_tasks_ahead(tmp_path: Path) -> None:
    script = Script(tmp_path, first, workers=1)
    taken = 0

    def tasks() -> Iterator[Task]:
        nonlocal taken
        for i in range(150):
            taken += 1
            yield task(f"{i}")

    stand = Stand(tmp_path, script, [])
    stand.tasks = tasks()  # type: ignore[assignment]
    stand.run().close()
    assert taken == 150
    assert script.most <= (driver.MOST_AHEAD + 1) * (UNITS + 2)


def test_events_name_the_worker(tmp_path: Path) -> None:
    stand = Stand(tmp_path, Script(tmp_path, first), mixed())
    stand.run().close()
    assert {event.worker for event in stand.of(UnitCommitted)} <= {event.worker for event in stand.of(WorkerJoined)}


class TestBeginnings:
    def lost(self, folder: Path, error: Exception | None) -> Stand:
        script = Script(folder, first)
        script.wait = lambda seconds: [Lost("", "no room", error)]  # type: ignore[method-assign]
        return Stand(folder, script, mixed())

    def test_what_workers_say_is_wrong_with_the_run_is_raised(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="no such model"):
            self.lost(tmp_path, ModelError("no such model")).run()

    def test_workers_that_never_begin_end_the_run(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="no room"):
            self.lost(tmp_path, None).run()
