"""What an executor is that runs workers elsewhere: `patchloom.Ray` is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from patchloom.engine.tasks import Task
from patchloom.engine.worker import Report, Setting
from patchloom.errors import PatchloomError, RunError

__all__ = ["Cluster", "Executor", "Heard", "Joined", "Lost", "check_beginnings"]

BEGINNINGS = 3
"""How many workers may die before the first one begins."""


@dataclass(frozen=True)
class Joined:
    """A worker is there, and can be given tasks."""

    worker: str


@dataclass(frozen=True)
class Heard:
    """What a worker says."""

    worker: str
    report: Report


@dataclass(frozen=True)
class Lost:
    """A worker is gone, and will not come back under this name; one that could not begin has no name.

    Parameters
    ----------
    why
        For people.
    error
        What it raised, where it did.
    """

    worker: str
    why: str
    error: Exception | None = None


def check_beginnings(lost: Sequence[Lost]) -> None:
    """Raise what keeps workers from beginning, where none has begun yet and these are lost.

    Raises
    ------
    PatchloomError
        What one of them raised: the others would raise it, too.
    RunError
        If so many ended that the next ones are not going to fare better.
    """
    for one in lost:
        if isinstance(one.error, PatchloomError):
            raise one.error
    if len(lost) >= BEGINNINGS:
        raise RunError(f"workers end before they begin: {lost[-1].why}", "look at the logs of the cluster")


class Cluster(Protocol):
    """Workers that were started for a run. Those that are lost are replaced, by whoever implements this."""

    def submit(self, worker: str, tasks: Sequence[Task]) -> None:
        """Send tasks to a worker; returns at once."""

    def wait(self, seconds: float) -> list[Joined | Heard | Lost]:
        """What happened, waited for so long at most. Workers that live are heard about once a second."""

    def kill(self, worker: str) -> None:
        """Have a worker ended, hung or not; `Lost` follows."""

    def stop(self) -> None:
        """Have all workers begin nothing new; they say when they have ended."""

    def close(self) -> None:
        """End everything that was started."""


@runtime_checkable
class Executor(Protocol):
    """Who runs the units, as users choose it."""

    def expected(self) -> int:
        """How many workers there are going to be, about."""

    def start(self, setting: Setting) -> Cluster:
        """Start workers for a run.

        Raises
        ------
        PatchloomError
            If there is no such cluster, or it has no room for a single worker.
        """
