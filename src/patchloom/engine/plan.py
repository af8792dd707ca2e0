"""What a run is going to do, before it does it: patches, units, bytes, memory, device and batch."""

from __future__ import annotations

import math
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from patchloom.config import Config
from patchloom.engine.budget import Limits, allowed_memory, size_text
from patchloom.engine.predictor import Predictor
from patchloom.engine.survey import Survey
from patchloom.engine.tasks import Dealt
from patchloom.models.model import Head, Model
from patchloom.predictions.layout import PlaneInfo, RunLayout

__all__ = ["Plan", "choose_batch", "machine_threads", "make_plan"]

PROBE_BATCHES = (4, 16, 64)
SLOW = 0.02
"""Seconds a patch above which larger batches are not tried on a CPU: workers are equal, and each has a core."""
GAIN = 0.9
PIXELS_A_BATCH = 4 * 512 * 512
"""Pixels of a batch for models that are not probed: plain functions, whose calls a user may count."""


@dataclass(frozen=True)
class Plan:
    """What a run is going to do; numbers beyond some thousand images are estimates.

    Parameters
    ----------
    images, unreadable
        Number of images, and how many of them do not open.
    patches, units
        Over all images that open.
    bytes_out
        Of uncompressed output.
    memory, memory_allowed
        Peak resident bytes projected, and the budget.
    device, batch, threads
        How the model is run.
    heads
        As they are stored.
    estimated
        Whether only a sample of the headers was read.
    hints
        Things that a user may want to know before starting.
    skip
        Filter that is asked about each patch; the numbers count patches as if it skipped none.
    dealt
        How the images are dealt out, where an executor has workers.
    """

    images: int
    unreadable: int
    patches: int
    units: int
    bytes_out: int
    memory: int
    memory_allowed: int
    device: str
    batch: int
    threads: int
    heads: tuple[Head, ...]
    estimated: bool = False
    hints: tuple[str, ...] = ()
    skip: str | None = None
    dealt: Dealt | None = None

    def lines(self) -> list[str]:
        """The plan as people read it."""
        about = "about " if self.estimated else ""
        unreadable = f", {about}{self.unreadable:,} unreadable" if self.unreadable else ""
        lines = [
            f"plan     {self.images:,} image{'s' * (self.images != 1)}{unreadable} · {about}{self.patches:,} patches · "
            f"output about {size_text(self.bytes_out)}",
            f"memory   {size_text(self.memory)} projected of {size_text(self.memory_allowed)} allowed · "
            f"device {self.device} · batch {self.batch} · {self.threads} thread{'s' * (self.threads != 1)}",
        ]
        lines += [_dealt_line(self.dealt, self.patches)] if self.dealt is not None else []
        lines += [f"head     {describe(head)}" for head in self.heads]
        lines += [f"skip     {self.skip}; the numbers count patches as if none were skipped"] if self.skip else []
        return lines + [f"hint     {hint}" for hint in self.hints]

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON can hold it."""
        heads = [
            {
                "name": head.name,
                "kind": head.kind,
                "dtype": head.dtype.name,
                "shape": list(head.shape),
                "scale": [str(s) for s in head.scale],
                "classes": list(head.classes),
            }
            for head in self.heads
        ]
        names = (
            "images",
            "unreadable",
            "patches",
            "units",
            "bytes_out",
            "memory",
            "memory_allowed",
            "device",
            "batch",
            "threads",
            "estimated",
            "skip",
        )
        plan = {name: getattr(self, name) for name in names} | {"heads": heads, "hints": list(self.hints)}
        return plan | {"dealt": None if self.dealt is None else asdict(self.dealt)}


def _dealt_line(dealt: Dealt, patches: int) -> str:
    """How images are dealt out, in a line."""
    sizes = f"{dealt.smallest:,}" + (f" to {dealt.largest:,}" if dealt.largest > dealt.smallest else "")
    twice = f"{dealt.repeated:,} patches ({100 * dealt.repeated / max(1, patches):.1f} %)"
    return (f"workers  {dealt.workers:,} · {dealt.tasks:,} task{'s' * (dealt.tasks != 1)} of {sizes} patches · "
            f"{twice} predicted twice where images are cut")


def describe(head: Head) -> str:
    """One head in a line."""
    shape = "x".join(map(str, head.shape)) or "one number"
    scale = f" at scale {head.scale[0]}" if head.scale and head.scale[0] != 1 else ""
    classes = f" ({', '.join(head.classes)})" if 0 < len(head.classes) <= 12 else ""
    return f"{head.name}: {head.kind}, {head.dtype.name} {shape} a patch{scale}{classes}"


def machine_threads(config: Config) -> int:
    """Workers: as many as cores that this process may use, unless the user says."""
    if config.threads != "auto":
        return config.threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_batch(config: Config, model: Model, predictor: Predictor, memory: int) -> int:
    """Patches a forward pass: what the user or the model says, else what a short probe finds fastest.

    Workers are equal and each has a core, so on a CPU one large patch at a time is as fast as several and takes less
    memory; small patches share the cost of a call. A GPU gets batches as long as they pay.
    """
    if model.info.batch is not None:
        return model.info.batch
    if config.batch != "auto":
        return config.batch
    most = max(1, min(64, memory // 4 // max(1, predictor.bytes_a_patch * predictor.at_once)))
    if not model.info.concurrent and model.info.device == "cpu":
        return int(max(1, min(most, PIXELS_A_BATCH // math.prod(predictor.patch))))
    best, seconds = 1, _seconds(predictor, 1)
    if model.info.device == "cpu" and seconds > SLOW:
        return 1
    for batch in (size for size in PROBE_BATCHES if size <= most):
        try:
            now = _seconds(predictor, batch)
        except MemoryError:
            break
        if now > GAIN * seconds:
            break
        best, seconds = batch, now
    return best


def _seconds(predictor: Predictor, batch: int) -> float:
    array = predictor.empty(batch)
    predictor(array, batch)
    start = time.perf_counter()
    predictor(array, batch)
    return (time.perf_counter() - start) / batch


def make_plan(
    found: Survey,
    layout: RunLayout,
    model: Model,
    predictor: Predictor,
    limits: Limits,
    memory: int,
    hints: tuple[str, ...] = (),
) -> Plan:
    """Add up what the survey found."""
    patches = units = bytes_out = 0
    for size in found.sizes:
        info = PlaneInfo(size.plane)
        number = layout.patches(info) * size.planes
        patches += number
        units += len(layout.units(size.plane)) * size.planes
        for head in layout.heads:
            if head.kind == "vector":
                bytes_out += number * (math.prod(head.shape) * head.dtype.itemsize + 32)
            else:
                pixels = math.prod(math.ceil(n * s) for n, s in zip(size.plane, head.scale, strict=True))
                bytes_out += size.planes * pixels * head.dtype.itemsize * (head.channels or 1)
    factor = found.factor
    return Plan(
        found.images,
        round(found.unreadable * factor),
        round(patches * factor),
        round(units * factor),
        round(bytes_out * factor),
        memory,
        allowed_memory(layout.config),
        model.info.device,
        limits.batch,
        limits.threads,
        layout.heads,
        found.estimated,
        hints,
        _named(layout.config.skip),
    )


def _named(skip: Any) -> str | None:
    """A filter as people know it."""
    if skip is None or isinstance(skip, str):
        return skip
    return str(getattr(skip, "__qualname__", None) or repr(skip))
