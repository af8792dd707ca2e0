"""What happens in a run, as frozen values that progress bars, logs and tests listen to.

`worker` names the worker that an event comes from; it is empty where the run has none but itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = [
    "Callback",
    "Event",
    "ImageDone",
    "ImageFailed",
    "ImageStarted",
    "PatchesPredicted",
    "PatchesSkipped",
    "RunFinished",
    "RunStarted",
    "RunStopping",
    "UnitCommitted",
    "Warned",
    "WorkerJoined",
    "WorkerLost",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """The pipeline is about to start.

    Parameters
    ----------
    images, done
        Number of images of the source, and how many of them are complete already.
    reused_images, reused_patches
        What an earlier session of this run left: complete images, and patches of images that are not complete.
    partial
        Names of the images that `reused_patches` belong to.
    resumed
        Whether the run existed before.
    """

    images: int
    done: int
    reused_images: int = 0
    reused_patches: int = 0
    partial: tuple[str, ...] = ()
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class ImageStarted(Event):
    """The first patches of an image are about to be read; `patches_done` of them are there already."""

    image: str
    patches: int
    patches_done: int = 0
    worker: str = ""


@dataclass(frozen=True, slots=True)
class PatchesPredicted(Event):
    """Some patches of an image went through the model."""

    image: str
    patches: int
    worker: str = ""


@dataclass(frozen=True, slots=True)
class PatchesSkipped(Event):
    """Some patches of an image were found not worth predicting (`skip`): they are done, too."""

    image: str
    patches: int
    worker: str = ""


@dataclass(frozen=True, slots=True)
class UnitCommitted(Event):
    """A unit is durable: from here on a crash does not lose it."""

    unit: str
    images: tuple[str, ...]
    patches: int
    worker: str = ""


@dataclass(frozen=True, slots=True)
class ImageDone(Event):
    """All of an image is durable; of its `patches` some are not finite, and some may have been skipped."""

    image: str
    patches: int
    nan_patches: int = 0
    skipped: int = 0
    worker: str = ""


@dataclass(frozen=True, slots=True)
class ImageFailed(Event):
    """An image is given up for this session; `resume` tries it again."""

    image: str
    kind: str
    message: str
    worker: str = ""


@dataclass(frozen=True, slots=True)
class WorkerJoined(Event):
    """A worker is there, and takes part from here on."""

    worker: str


@dataclass(frozen=True, slots=True)
class WorkerLost(Event):
    """A worker is gone; others do what it had not finished."""

    worker: str
    why: str


@dataclass(frozen=True, slots=True)
class Warned(Event):
    """Something that the user should know and that stops nothing."""

    message: str


@dataclass(frozen=True, slots=True)
class RunStopping(Event):
    """The user asked to stop; what is in flight is being finished."""


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """The pipeline ended, by itself or because it was stopped.

    Parameters
    ----------
    done, failed, left
        Number of images in each state, over all sessions of the run.
    seconds, patches
        Wall time and number of patches predicted in this session.
    stopped
        Whether the user stopped it.
    partial
        For images that are begun and not complete, their name and the part of their patches that is kept.
    skipped
        Number of patches that were skipped in this session.
    """

    done: int
    failed: int
    left: int
    seconds: float
    patches: int
    stopped: bool = False
    partial: tuple[tuple[str, float], ...] = ()
    skipped: int = 0


class Callback(Protocol):
    """Listener; called from pipeline threads one event at a time, so it is quick and does not raise."""

    def __call__(self, event: Event) -> None:
        """Take notice of `event`."""
