"""A Ray cluster on this machine, images, what a local run makes of them, and runs that may be disturbed."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import patchloom
from patchloom.engine import driver
from patchloom.events import Event, UnitCommitted
from tests.cluster.models import PAUSE
from tests.maps import dense_files

ROOT = Path(__file__).parents[2]
MODEL = "tests.cluster.models:predict"
SHAPES = [(2700, 200), (1300, 200), (90, 70), (1100, 130), (40, 200), (64, 64), (700, 90)]
OPTIONS: dict[str, Any] = {"patch": 64, "overlap": 16, "batch": 8, "model_id": "work"}
STORE = 80 << 20
"""Bytes of a node's object store, which stays empty."""

Act = Callable[[Sequence[Event]], None]


def image(number: int, shape: tuple[int, int]) -> np.ndarray:
    """Image number `number`: pixels differ from those of the others."""
    return (number * 10**6 + np.arange(shape[0] * shape[1], dtype=np.uint32)).reshape(shape)


@dataclass
class Nodes:
    """Nodes of a cluster on this machine, of one CPU each; the first one stays.

    Parameters
    ----------
    pause
        Seconds that models take for a patch there.
    """

    pause: float

    def __post_init__(self) -> None:
        from ray.cluster_utils import Cluster

        with self._environment():
            first = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": STORE, "include_dashboard": False}
            self._cluster = Cluster(initialize_head=True, head_node_args=first)
        self._others: list[Any] = []

    def __len__(self) -> int:
        return 1 + len(self._others)

    @property
    def address(self) -> str:
        """Of the cluster."""
        return str(self._cluster.address)

    def have(self, count: int) -> None:
        """Add or remove nodes until there are so many."""
        while len(self._others) < count - 1:
            self.add()
        while len(self._others) > count - 1:
            self.remove()

    def add(self) -> None:
        """One more node."""
        with self._environment():
            self._others.append(self._cluster.add_node(num_cpus=1, num_gpus=0, object_store_memory=STORE))

    def remove(self) -> None:
        """End a node at once, as a machine that loses power."""
        self._cluster.remove_node(self._others.pop(), allow_graceful=False)

    def close(self) -> None:
        """End all."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        """What processes of nodes find: modules that lie here, and the pause."""
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with environment(**{PAUSE: str(self.pause), "PYTHONPATH": paths}):
            yield


@dataclass
class Trial:
    """A run that was disturbed, and what there is to say of it."""

    run: patchloom.Run
    seconds: float
    events: list[Event] = field(default_factory=list)

    def of(self, kind: type[Event]) -> list[Any]:
        """Events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]


class Stage:
    """Where runs are disturbed.

    Parameters
    ----------
    folder
        For images and runs.
    nodes
        Of the cluster.
    """

    def __init__(self, folder: Path, nodes: Nodes) -> None:
        import ray

        self.folder, self.nodes = folder, nodes
        self.images = folder / "images"
        self.images.mkdir()
        for i, shape in enumerate(SHAPES):
            np.save(self.images / f"{i}.npy", image(i, shape))
        self._local: dict[str, patchloom.Run] = {}
        self._runs = 0
        ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.ERROR)

    def local(self, **options: Any) -> patchloom.Run:
        """What this process makes of the images."""
        key = repr(sorted(options.items()))
        if key not in self._local:
            self._local[key] = patchloom.predict(self.images, MODEL, self.out(), **OPTIONS, **options)
        return self._local[key]

    def out(self) -> Path:
        """Folder for another run."""
        self._runs += 1
        return self.folder / f"run{self._runs}"

    def more_images(self, name: str, content: np.ndarray | bytes) -> Path:
        """A folder with the images, and one more."""
        folder = self.folder / f"images{self._runs + 1}"
        shutil.copytree(self.images, folder)
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            np.save(folder / name, content)
        return folder

    def predict(
        self, act: Act | None = None, *, units: int = 2, source: Path | None = None, out: Path | None = None,
        model: Any = MODEL, workers: Any = 0, in_thread: bool = True,
        events: list[Event] | None = None, **options: Any,
    ) -> Trial:
        """Predict on the cluster; after some units are committed `act` is called, in a thread of its own or not.

        There are as many workers as nodes, unless something else is said; `events` is what events are put into.
        """
        workers = len(self.nodes) if workers == 0 else workers
        executor = patchloom.Ray(workers=workers, runtime_env=options.pop("runtime_env", {}))
        disturbance = Disturbance(act, units, in_thread, events if events is not None else [])
        begin = time.monotonic()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="1 image failed")
            run = patchloom.predict(source or self.images, model, out or self.out(), executor=executor,
                                    callbacks=[disturbance], **OPTIONS | options)
        seconds = time.monotonic() - begin
        disturbance.join()
        return Trial(run, seconds, disturbance.events)

    def start(
        self, out: Path, executor: str = "ray", *, pause: float = 0, blend: str = "crop",
        address: str | None = None,
    ) -> subprocess.Popen[bytes]:
        """The command line's run, in a process of its own."""
        workers = ["--workers", str(len(self.nodes))] if executor == "ray" else []
        command = [sys.executable, "-m", "patchloom", "predict", str(self.images), "-m", MODEL, "-o", str(out),
                   "--executor", executor, "--blend", blend, "--patch", "64", "--overlap", "16", "--batch", "8",
                   "--model-id", "work", *workers]
        return self._command(command, pause, address)

    def resume(self, out: Path) -> subprocess.Popen[bytes]:
        """The same for `resume`."""
        return self._command([sys.executable, "-m", "patchloom", "resume", str(out)])

    def _command(
        self, command: list[str], pause: float = 0, address: str | None = None
    ) -> subprocess.Popen[bytes]:
        more = {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": address or self.nodes.address, PAUSE: str(pause)}
        return subprocess.Popen(command, env=os.environ | more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


class Disturbance:
    """Listens to a run, and does something to it after some units are committed."""

    def __init__(self, act: Act | None, units: int, in_thread: bool, events: list[Event]) -> None:
        self._act, self._units, self._in_thread, self.events = act, units, in_thread, events
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if self._act is None or self._thread is not None:
            return
        if sum(isinstance(one, UnitCommitted) for one in self.events) >= self._units:
            self._thread = threading.Thread(target=self._do, args=(self._act,))
            if self._in_thread:
                self._thread.start()
            else:
                self._do(self._act)

    def _do(self, act: Act) -> None:
        try:
            act(tuple(self.events))
        except BaseException as error:
            self._error = error

    def join(self) -> None:
        """Wait until it is done; raises what went wrong."""
        assert self._act is None or self._thread is not None, "the run ended before it could be disturbed"
        if self._thread is not None and self._in_thread:
            self._thread.join()
        if self._error is not None:
            raise self._error


def worker_pid(events: Sequence[Event]) -> int:
    """Process of the worker that the last unit came from."""
    worker = [event.worker for event in events if isinstance(event, UnitCommitted)][-1]
    return int(worker.rpartition("/")[2])


def is_gone(pid: int, seconds: float = 30) -> bool:
    """Whether a process ends within some seconds."""
    limit = time.monotonic() + seconds
    while _runs(pid):
        if time.monotonic() > limit:
            return False
        time.sleep(0.05)
    return True


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def units_in(out: Path) -> int:
    """Units that are journalled."""
    return sum(path.read_bytes().count(b'"is":"unit"') for path in (out / "journal").glob("*.jsonl"))


def wait_for_units(out: Path, process: subprocess.Popen[bytes], count: int = 2, seconds: float = 90) -> None:
    """Wait until a run in another process has so many units."""
    limit = time.monotonic() + seconds
    while units_in(out) < count:
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < limit, "nothing happened"
        time.sleep(0.02)


def ended(process: subprocess.Popen[bytes], number: signal.Signals | None = None) -> tuple[int, str]:
    """Exit code of a process, and what it said; it may be sent a signal first."""
    if number is not None:
        process.send_signal(number)
    try:
        said = process.communicate(timeout=120)[0].decode()
    finally:
        if process.poll() is None:
            process.kill()
    return process.returncode, said


@contextlib.contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Have drivers in this process be less patient than they are."""
    before = driver.PATIENCE, driver.SILENT
    driver.PATIENCE, driver.SILENT = seconds, 6 * seconds
    try:
        yield
    finally:
        driver.PATIENCE, driver.SILENT = before


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def check_same(run: patchloom.Run, expected: patchloom.Run, *, exact: bool = True, failed: Sequence[str] = ()) -> None:
    """Raise AssertionError unless a run is whole and equal to another one; `failed` are images that only it has."""
    assert run.verify() == []
    assert [failure.image for failure in run.failures()] == list(failed)
    status = run.status()
    assert (status.done, status.failed, status.left) == (len(expected), len(failed), 0)
    assert list(run) == list(expected)
    for name in run:
        for head in run.heads:
            if head.kind == "dense":
                np.testing.assert_allclose(np.asarray(run[name].stitched(head.name)),
                                           np.asarray(expected[name].stitched(head.name)), rtol=0 if exact else 1e-5,
                                           err_msg=f"{name} {head.name}")
    assert run.patches().to_arrow().equals(expected.patches().to_arrow())
    if exact:
        assert dense_files(run) == dense_files(expected)
    check_files(run)


def check_files(run: patchloom.Run) -> None:
    """Raise AssertionError where the folder holds tables that are no part of the run, or what was not finished."""
    known = {path for path in run.path.rglob("*.parquet") if run.path / "patches" in path.parents}
    rows = sum(len(_rows(path)) for path in known)
    assert rows == len(run.patches().to_arrow()), "rows of tables without a record"
    assert not list(run.path.rglob("*.tmp"))


def _rows(path: Path) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path, partitioning=None)
