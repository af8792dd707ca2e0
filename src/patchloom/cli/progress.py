"""Progress of a run on standard error: bars on a terminal, one plain line an image otherwise."""

from __future__ import annotations

import shlex
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from patchloom.cli.errors import say
from patchloom.events import (
    Event,
    ImageDone,
    ImageFailed,
    ImageStarted,
    PatchesPredicted,
    PatchesSkipped,
    RunFinished,
    RunStarted,
    RunStopping,
    Warned,
    WorkerJoined,
    WorkerLost,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["Bars", "Lines", "Progress", "Silence", "following", "resumed_line", "stopped_lines"]

SHOWN = 4
"""Images that have a bar of their own at a time."""
NAMES = 3
"""Names that a sentence lists."""
REFRESH = 8
"""Frames a second."""


class Progress:
    """Keeps what is needed at the end, and says what must be said in any case: what may be wrong."""

    def __init__(self) -> None:
        self.finished: RunFinished | None = None

    def __call__(self, event: Event) -> None:
        """Take notice of an event."""
        match event:
            case RunFinished():
                self.finished = event
            case Warned(message):
                self.say(f"warning: {message}")
            case WorkerLost(worker, why):
                self.say(f"warning: worker {worker} is gone, others go on with its work: {why}")
            case ImageDone(image, _, bad) if bad:
                self.say(f"warning: {counted(bad, 'patch', 'patches')} of {image} "
                         f"{'has' if bad == 1 else 'have'} non-finite predictions")

    def say(self, line: str) -> None:
        """Write a line."""
        say(line)


class Silence(Progress):
    """``--quiet``."""


class Lines(Progress):
    """For logs and pipes."""

    def __call__(self, event: Event) -> None:
        """Write one line for an image that ended."""
        super().__call__(event)
        match event:
            case RunStarted(resumed=True):
                self.say(resumed_line(event))
            case WorkerJoined(worker):
                self.say(f"worker {worker} joined")
            case ImageDone(image, patches, _, skipped, worker):
                of_them = f", {skipped:,} skipped" if skipped else ""
                self.say(f"{image}  done  {counted(patches, 'patch', 'patches')}{of_them}{_at(worker)}")
            case ImageFailed(image, kind, message, worker):
                self.say(f"{image}  failed  [{kind}] {message}{_at(worker)}")
            case RunStopping():
                self.say("stopping: finishing what is in flight")


@dataclass
class Running:
    """An image in flight."""

    patches: int
    done: int
    before: int
    since: float = field(default_factory=time.monotonic)

    @property
    def rate(self) -> float:
        """Patches a second."""
        return (self.done - self.before) / max(1e-3, time.monotonic() - self.since)

    @property
    def part(self) -> float:
        """Of its patches that are done."""
        return min(1.0, self.done / max(1, self.patches))


class Bars(Progress):
    """For terminals: the images in flight and the whole run, drawn a few times a second by rich."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self._lock = threading.Lock()
        self._running: dict[str, Running] = {}
        self._images = self._before = self._ended = 0
        self._since: float | None = None

    def __call__(self, event: Event) -> None:
        """Count; drawing happens elsewhere."""
        super().__call__(event)
        with self._lock:
            self._count(event)
        match event:
            case RunStarted(resumed=True):
                self.say(resumed_line(event))
            case ImageFailed(image, kind, message):
                self.say(f"{image}  failed  [{kind}] {message}")
            case RunStopping():
                self.say("stopping: finishing what is in flight")

    def _count(self, event: Event) -> None:
        match event:
            case RunStarted(images, done):
                self._images, self._before, self._ended, self._since = images, done, done, time.monotonic()
            case ImageStarted(image, patches, done):
                self._running.setdefault(image, Running(patches, done, done))
            case (PatchesPredicted(image, patches) | PatchesSkipped(image, patches)) if image in self._running:
                self._running[image].done += patches
            case ImageDone(image) | ImageFailed(image):
                self._running.pop(image, None)
                self._ended += 1

    def say(self, line: str) -> None:
        """Write a line above the bars."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def render(self) -> RenderableType:
        """One frame."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        for justify in ("left", "left", "right", "left", "left"):
            table.add_column(justify=justify, no_wrap=True, overflow="ellipsis")
        with self._lock:
            if self._since is None:
                return table
            for name, image in list(self._running.items())[:SHOWN]:
                table.add_row(f"  {shortened(name)}", ProgressBar(1.0, image.part, width=20), f"{image.part:.0%}",
                              f"{image.done:,}/{image.patches:,} patches", f"{image.rate:,.0f} patch/s")
            part = self._part()
            table.add_row("  total", ProgressBar(1.0, part, width=20), f"{part:.0%}",
                          f"{self._ended:,}/{self._images:,} images", self._eta(part))
        return table

    def _part(self) -> float:
        return min(1.0, (self._ended + sum(image.part for image in self._running.values())) / max(1, self._images))

    def _eta(self, part: float) -> str:
        assert self._since is not None
        before = self._before / max(1, self._images)
        if part <= before or part >= 1:
            return ""
        return f"ETA {duration((time.monotonic() - self._since) * (1 - part) / (part - before))}"


@contextmanager
def following(*, quiet: bool) -> Iterator[Progress]:
    """Listener of a run that fits where standard error goes."""
    if quiet:
        yield Silence()
        return
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.live import Live

    bars = Bars(Console(stderr=True))
    with Live(get_renderable=bars.render, console=bars.console, refresh_per_second=REFRESH, redirect_stdout=False,
              redirect_stderr=False):
        yield bars


def resumed_line(event: RunStarted) -> str:
    """What an earlier session of the run left."""
    reused = counted(event.reused_images, "image")
    if event.reused_patches:
        reused += f" and {counted(event.reused_patches, 'patch', 'patches')} of {listed(event.partial)}"
    return f"resumed: {reused} reused, {counted(event.images - event.done, 'image')} left"


def stopped_lines(event: RunFinished, run: str) -> str:
    """Where a run stands that was stopped, and how to go on."""
    at = [f"{name} at {part:.0%}".replace("%", " %") for name, part in event.partial]
    more = [f"{len(at) - NAMES} more begun"] if len(at) > NAMES else []
    stands = ", ".join([f"{counted(event.done, 'image')} complete", *at[:NAMES], *more])
    return f"stopped cleanly: {stands}\nresume with: patchloom resume {shlex.quote(run)}"


def _at(worker: str) -> str:
    """Which worker it was, where there are any."""
    return f"  ({worker})" if worker else ""


def counted(number: int, one: str, many: str = "") -> str:
    """``1 image``, ``1,430 images``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(names: Sequence[str]) -> str:
    """``a, b, c and 4 more``."""
    if len(names) > NAMES:
        return f"{', '.join(names[:NAMES])} and {len(names) - NAMES} more"
    return ", ".join(names)


def shortened(name: str, width: int = 24) -> str:
    """The end of a long name, which tells images apart better than its beginning."""
    return name if len(name) <= width else f"…{name[1 - width:]}"


def duration(seconds: float) -> str:
    """``14m``, ``42s``, ``2h 05m``."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60)
    return f"{minutes}m" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02}m"
