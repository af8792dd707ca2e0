"""How far a driver goes: tasks of no work through the real one, its ledger, its journal and its index.

Each task is one image of one unit, as small as there are. Workers answer at once (`--cluster simulated`: in this
process, which is the driver's own speed), or after a sleep in actors on a Ray cluster on this machine (`--cluster
ray`).

    python benchmarks/scale.py [--tasks 1000 10000 100000 1000000] [--cluster simulated|ray] [--workers 2]
"""

from __future__ import annotations

import argparse
import itertools
import queue
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from patchloom.config import Config
from patchloom.engine.assignment import Assignment
from patchloom.engine.cluster import Heard, Joined, Lost
from patchloom.engine.driver import Driver
from patchloom.engine.ray import Ray
from patchloom.engine.tasks import Task
from patchloom.engine.worker import Report
from patchloom.events import ImageDone, ImageStarted, UnitCommitted
from patchloom.images.source import Entry
from patchloom.models.model import Head
from patchloom.predictions.index import Index
from patchloom.predictions.journal import Journal, Record
from patchloom.predictions.layout import PlaneInfo, RunLayout
from patchloom.predictions.lock import Lock

SIDE = 512
INFO = PlaneInfo((SIDE, SIDE), "", ()).to_json()


def done(tasks: Sequence[Task], taken: int) -> Report:
    """What a worker says that did tasks of one image each."""
    names = [task.assignments[0].entry.name for task in tasks]
    began = {"is": "begun", "infos": [INFO], "images": [(name, "1", 0, 1) for name in names]}
    units = [{"is": "unit", "unit": f"u{name}", "parts": [[name, [], [0, 0], [SIDE, SIDE], 1, 0]], "bad": {},
              "files": [(f"patches/scores/u{name}.parquet", 4000, 12345)]} for name in names]
    events = [[ImageStarted(name, 1), UnitCommitted(f"u{name}", (name,), 1), ImageDone(name, 1)] for name in names]
    records = [began, *units, {"is": "completed", "images": names}] if names else []
    return Report(records, list(itertools.chain(*events)), idle=True, taken=taken)


class Simulated:
    """Cluster without processes: each worker has done what it was given when it is asked."""

    def __init__(self, workers: int) -> None:
        self._given: dict[str, list[Task]] = {f"w{i}": [] for i in range(workers)}
        self._taken = dict.fromkeys(self._given, 0)
        self._joined = False

    def submit(self, worker: str, tasks: Sequence[Task]) -> None:
        self._given[worker] += tasks

    def wait(self, seconds: float) -> list[Joined | Heard | Lost]:
        if not self._joined:
            self._joined = True
            return [Joined(name) for name in self._given]
        replies: list[Joined | Heard | Lost] = []
        for name, tasks in self._given.items():
            self._taken[name] += len(tasks)
            replies.append(Heard(name, done(tasks, self._taken[name])))
            self._given[name] = []
        return replies

    def kill(self, worker: str) -> None:
        raise AssertionError(f"{worker} is not slow")

    def stop(self) -> None:
        self._given = {}

    def close(self) -> None:
        self._given = {}


@dataclass(frozen=True)
class SleepSetting:
    """Setting of workers that sleep."""

    seconds: float
    config: Config

    def start(self) -> Sleeping:
        return Sleeping(self.seconds)


class Sleeping:
    """What an actor runs in place of a worker."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._taken = 0

    def submit(self, task: Task) -> None:
        self._tasks.put(task)

    def collect(self, seconds: float) -> Report:
        tasks: list[Task] = []
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            try:
                tasks.append(self._tasks.get(timeout=0.05))
            except queue.Empty:
                break
            time.sleep(self.seconds)
        self._taken += len(tasks)
        return done(tasks, self._taken)


def opened() -> Any:
    raise AssertionError("nothing is read")


class Counted:
    """A journal whose flushes are counted: in object storage each puts an object of up to 256 KB."""

    def __init__(self, journal: Journal) -> None:
        self._journal, self.flushes = journal, 0

    def append(self, record: Record, *, durable: bool = True) -> None:
        self.flushes += durable
        self._journal.append(record, durable=durable)


def tasks(count: int) -> Iterator[Task]:
    for number in range(count):
        yield Task((Assignment(Entry(f"{number:07d}", opened, "1")),), 1)


def measured(count: int, options: argparse.Namespace) -> dict[str, float]:
    """One run of so many tasks."""
    config = Config(patch=(SIDE, SIDE), stride=(SIDE, SIDE), threads=1)
    head = Head("scores", "vector", np.dtype("f4"), (10,), (), ())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        layout = RunLayout(folder, config, 2, (head,), None)
        with Lock(folder / "lock") as lock:
            journal, index = Journal(folder / "journal"), Index(folder)
            log = Counted(journal)
            cluster: Any = Simulated(options.workers)
            if options.cluster == "ray":
                sleeping: Any = SleepSetting(options.sleep, config)
                cluster = Ray("local", workers=options.workers, cpus_per_worker=0.5).start(sleeping)
            driver = Driver(cluster, tasks(count), index, layout, log, lock, lambda event: None)
            wall, cpu = time.perf_counter(), time.process_time()
            driver.run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            journal.close()
            size = sum(path.stat().st_size for path in (folder / "journal").iterdir())
            begin = time.perf_counter()
            index.refresh()
            taken_up = time.perf_counter() - begin
            assert index.counts()["done"] == count
            index.close()
            index_size = (folder / "index.sqlite").stat().st_size
    return {"tasks/s": count / wall, "driver CPU, us a task": 1e6 * cpu / count, "peak memory, MB": peak,
            "flushes": log.flushes, "journal, bytes a task": size / count, "index, us a task": 1e6 * taken_up / count,
            "index, bytes a task": index_size / count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--cluster", choices=("simulated", "ray"), default="simulated")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds of a task, with --cluster ray")
    options = parser.parse_args()
    table = Table("tasks")
    for count in options.tasks:  # the fewest first: the peak of memory is that of the process so far
        found = measured(count, options)
        if not table.row_count:
            for title in found:
                table.add_column(title, justify="right")
        table.add_row(f"{count:,}", *(f"{value:,.0f}" for value in found.values()))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
