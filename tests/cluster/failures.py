"""Everything that goes wrong on a cluster, one function each; `FAILURES` lists them in the order of the table."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import patchloom
from patchloom.events import Event, ImageFailed, UnitCommitted, WorkerJoined, WorkerLost
from tests.cluster.models import DEADLY, PAUSE
from tests.cluster.stage import Stage, ended, image, is_gone, wait_for_units, worker_pid

__all__ = ["FAILURES", "Failure", "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What became of a run that was disturbed.

    Parameters
    ----------
    run
        The run.
    seconds
        That it took, with all its sessions.
    happened
        For the table.
    failed
        Images that failed, as they had to.
    alike
        Whether models took the time for a patch that they take otherwise.
    """

    run: patchloom.Run
    seconds: float
    happened: str
    failed: tuple[str, ...] = ()
    alike: bool = True


@dataclass(frozen=True)
class Failure:
    """Something that goes wrong.

    Parameters
    ----------
    name
        For the table.
    make
        Makes it happen to a run, with how it blends; raises AssertionError where it did not happen, or left something.
    """

    name: str
    make: Callable[[Stage, str], Outcome]


def nothing(stage: Stage, blend: str) -> Outcome:
    """An undisturbed run."""
    trial = stage.predict(blend=blend)
    assert len(_workers(trial.of(UnitCommitted))) == len(stage.nodes)
    assert not trial.of(WorkerLost)
    return Outcome(trial.run, trial.seconds, "")


def killed(stage: Stage, blend: str) -> Outcome:
    """A worker's process is killed."""
    trial = stage.predict(lambda events: os.kill(worker_pid(events), signal.SIGKILL), blend=blend)
    assert len(trial.of(WorkerLost)) == 1
    return Outcome(trial.run, trial.seconds, "others did its tasks, until another one had begun")


def hung(stage: Stage, blend: str) -> Outcome:
    """A worker's process is stopped, and never goes on."""
    pids: list[int] = []

    def stop(events: Sequence[Event]) -> None:
        pids.append(worker_pid(events))
        os.kill(pids[0], signal.SIGSTOP)

    try:
        trial = stage.predict(stop, blend=blend)
        assert is_gone(pids[0]), "the hung process is still there"
    finally:
        if pids and not is_gone(pids[0], 0):
            os.kill(pids[0], signal.SIGKILL)
    return Outcome(trial.run, trial.seconds, "another worker did its tasks, and it was ended")


def node_removed(stage: Stage, blend: str) -> Outcome:
    """A node goes, and its worker with it."""
    trial = stage.predict(lambda events: stage.nodes.remove(), blend=blend)
    assert len(trial.of(WorkerLost)) == 1
    return Outcome(trial.run, trial.seconds, "workers of other nodes did its tasks")


def node_added(stage: Stage, blend: str) -> Outcome:
    """A node comes, and is used."""
    before = len(stage.nodes)
    # Ray adds nodes in the main thread only; the driver does nothing meanwhile.
    slowly = {"env_vars": {PAUSE: str(max(0.04 * before, stage.nodes.pause))}}
    trial = stage.predict(lambda events: stage.nodes.add(), workers=None, units=1, in_thread=False, blend=blend,
                          runtime_env=slowly)
    joined, used = trial.of(WorkerJoined), _workers(trial.of(UnitCommitted))
    assert len(joined) == before + 1
    units = sum(event.worker == joined[-1].worker for event in trial.of(UnitCommitted))
    assert joined[-1].worker in used, "the new node did nothing"
    return Outcome(trial.run, trial.seconds, f"a worker began there, and did {units} of the units", alike=False)


def driver_killed(stage: Stage, blend: str, before: str = "ray", after: str = "ray") -> Outcome:
    """The driver's process is killed; another one resumes."""
    out = stage.out()
    begin = time.monotonic()
    process = stage.start(out, before, pause=stage.nodes.pause, blend=blend)
    try:
        wait_for_units(out, process)
    finally:
        ended(process, signal.SIGKILL)
    kept = patchloom.open(out).status()
    assert kept.left > 0, "the run ended before it could be disturbed"
    executor = patchloom.Ray(workers=len(stage.nodes)) if after == "ray" else after
    run = patchloom.open(out).resume(executor=executor)
    how = {"ray": "resumed on the cluster", "local": "resumed without the cluster"}[after]
    return Outcome(run, time.monotonic() - begin, how, alike=after == "ray")  # models do not pause in this process


def driver_killed_then_local(stage: Stage, blend: str) -> Outcome:
    """The same, resumed by the local executor."""
    return driver_killed(stage, blend, "ray", "local")


def local_killed_then_ray(stage: Stage, blend: str) -> Outcome:
    """A local run is killed, and resumed on the cluster."""
    return driver_killed(stage, blend, "local", "ray")


def out_of_memory(stage: Stage, blend: str) -> Outcome:
    """The model raises MemoryError in each worker, above some batch."""
    trial = stage.predict(model="tests.cluster.models:hungry", blend=blend)
    assert not trial.of(WorkerLost)
    return Outcome(trial.run, trial.seconds, "each worker halved its batch, and went on")


def deadly_image(stage: Stage, blend: str) -> Outcome:
    """An image ends the process of each worker that predicts it."""
    pixels = image(9, (200, 200))
    pixels[150, 150] = DEADLY
    trial = stage.predict(source=stage.more_images("deadly.npy", pixels), blend=blend)
    (failed,) = trial.of(ImageFailed)
    assert (failed.image, failed.kind) == ("deadly.npy", "worker-died")
    deaths = len(trial.of(WorkerLost))
    return Outcome(trial.run, trial.seconds, f"after {deaths} workers it is a failed image (`worker-died`)",
                   ("deadly.npy",))


def corrupt_image(stage: Stage, blend: str) -> Outcome:
    """An image is cut short."""
    whole = (stage.images / "0.npy").read_bytes()
    trial = stage.predict(source=stage.more_images("corrupt.npy", whole[: len(whole) // 2]), blend=blend)
    (failed,) = trial.of(ImageFailed)
    assert failed.image == "corrupt.npy"
    assert not trial.of(WorkerLost)
    return Outcome(trial.run, trial.seconds, f"it is a failed image (`{failed.kind}`)", ("corrupt.npy",))


def interrupted(stage: Stage, blend: str) -> Outcome:
    """Ctrl-C in the terminal, then `patchloom resume`."""
    out = stage.out()
    begin = time.monotonic()
    process = stage.start(out, pause=stage.nodes.pause, blend=blend)
    wait_for_units(out, process)
    code, said = ended(process, signal.SIGINT)
    assert code == 130, said
    assert "stopped cleanly" in said
    assert "resume with: patchloom resume" in said
    assert patchloom.open(out).verify() == []
    assert patchloom.open(out).status().left > 0, "the run ended before it could be disturbed"
    code, said = ended(stage.resume(out))
    assert code == 0, said
    return Outcome(patchloom.open(out), time.monotonic() - begin, "stopped cleanly (exit code 130) and resumed")


FAILURES = (
    Failure("none", nothing),
    Failure("worker killed (SIGKILL)", killed),
    Failure("worker hung (SIGSTOP)", hung),
    Failure("node lost", node_removed),
    Failure("node added", node_added),
    Failure("driver killed (SIGKILL)", driver_killed),
    Failure("driver killed, no cluster any more", driver_killed_then_local),
    Failure("local run killed", local_killed_then_ray),
    Failure("Ctrl-C", interrupted),
    Failure("out of memory in a worker", out_of_memory),
    Failure("image that ends its worker each time", deadly_image),
    Failure("corrupt image", corrupt_image),
)


def _workers(events: Sequence[UnitCommitted]) -> set[str]:
    return {event.worker for event in events}

