"""What a run is going to do, before it does it: patches, units, bytes, memory, device and batch."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchloom.config import Config
from patchloom.engine.memory import available_memory, resident_memory
from patchloom.engine.pipeline import Limits
from patchloom.engine.predictor import Predictor
from patchloom.engine.reading import BLOCK, BLOCK_DEPTH
from patchloom.engine.survey import Survey
from patchloom.errors import MemoryBudgetError
from patchloom.geometry.units import CHUNK, CHUNKS_A_UNIT, WIDTH, WIDTH_3D
from patchloom.models.model import Head, Model
from patchloom.predictions.layout import PlaneInfo, RunLayout

__all__ = ["Plan", "allowed_memory", "check_memory", "choose_batch", "decoded_bytes", "machine_threads", "make_plan",
           "projected_memory", "unit_width"]

MEBIBYTE = 1 << 20
PROBE_BATCHES = (4, 16, 64)
SLOW = 0.02
"""Seconds a patch above which larger batches are not tried on a CPU: workers are equal, and each has a core."""
GAIN = 0.9
PIXELS_A_BATCH = 4 * 512 * 512
"""Pixels of a batch for models that are not probed: plain functions, whose calls a user may count."""
OVERHEAD = 128 * MEBIBYTE
"""Allowance for the interpreter's and the codecs' own buffers."""


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
        lines += [f"head     {describe(head)}" for head in self.heads]
        return lines + [f"hint     {hint}" for hint in self.hints]

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON can hold it."""
        heads = [{"name": head.name, "kind": head.kind, "dtype": head.dtype.name, "shape": list(head.shape),
                  "scale": [str(s) for s in head.scale], "classes": list(head.classes)} for head in self.heads]
        names = ("images", "unreadable", "patches", "units", "bytes_out", "memory", "memory_allowed", "device", "batch",
                 "threads", "estimated")
        return {name: getattr(self, name) for name in names} | {"heads": heads, "hints": list(self.hints)}


def size_text(size: float) -> str:
    """Bytes as people read them: ``41 GB``, ``6.1 GB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.1f} {unit}" if size < 10 and unit != "B" else f"{size:.0f} {unit}"
        size /= 1000
    raise AssertionError


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


def unit_width(layout: RunLayout, memory: int, fixed: int, channels: int, dtype: np.dtype[Any]) -> int | None:
    """Pixels across a unit so that the run fits into its memory; None where that is no constraint."""
    width = WIDTH if layout.ndim == 2 else WIDTH_3D
    least = CHUNK * CHUNKS_A_UNIT
    while width > least and fixed + _sweep_bytes(layout, width, channels, dtype) > memory:
        width //= 2
    return None if width == (WIDTH if layout.ndim == 2 else WIDTH_3D) else width


def decoded_bytes(layout: RunLayout, width: int, channels: int, dtype: np.dtype[Any]) -> int:
    """Decoded pixels that may be held: what two patch rows across a unit need."""
    depth = BLOCK_DEPTH if layout.ndim == 3 else BLOCK
    rows = layout.patch[0] + layout.stride[0] + 2 * depth
    across = math.prod(width + p + BLOCK for p in layout.patch[1:])
    return rows * across * channels * dtype.itemsize


def _sweep_bytes(layout: RunLayout, width: int, channels: int, dtype: np.dtype[Any]) -> int:
    stitched = 0
    if layout.dense_heads:
        unit = RunLayout(layout.folder, layout.config, layout.ndim, layout.raw_heads, width).units((1,) * layout.ndim).unit
        # A patch row may reach into several units, one more is being written, one kept for the next.
        rows = -(-layout.patch[0] // unit[0]) + 3
        weighted = layout.config.blend != "crop"
        for raw, head in zip(layout.raw_heads, layout.heads, strict=True):
            if head.kind == "dense":
                pixels = math.prod(int(u * s) for u, s in zip(unit, head.scale, strict=True))
                itemsize = 4 * (raw.channels or 1) if weighted else head.dtype.itemsize * (head.channels or 1)
                stitched += rows * pixels * itemsize
    return stitched + decoded_bytes(layout, width, channels, dtype)


def make_plan(
    found: Survey, layout: RunLayout, model: Model, predictor: Predictor, limits: Limits, memory: int,
    hints: tuple[str, ...] = (),
) -> Plan:
    """Add up what the survey found.

    Raises
    ------
    MemoryBudgetError
        If the run would not fit into its memory.
    """
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
        found.images, round(found.unreadable * factor), round(patches * factor), round(units * factor),
        round(bytes_out * factor), memory, allowed_memory(layout.config), model.info.device, limits.batch, limits.threads,
        layout.heads, found.estimated, hints)


def allowed_memory(config: Config) -> int:
    """The budget: what the user says, else a quarter of what the machine has."""
    return config.memory if config.memory is not None else available_memory() // 4


def projected_memory(
    layout: RunLayout, predictor: Predictor, batch: int, call_bytes: int, channels: int, dtype: np.dtype[Any],
    width: int, found: Survey,
) -> int:
    """Peak resident bytes: what the process takes now, the model calls, decoded pixels and unfinished units."""
    calls = predictor.at_once * batch * max(call_bytes, predictor.bytes_a_patch)
    across = min(width, max((max(size.plane[1:]) for size in found.sizes), default=width))
    largest_chunk = max((math.prod(size.chunks) * size.channels * size.dtype.itemsize for size in found.sizes), default=0)
    return resident_memory() + calls + _sweep_bytes(layout, across, channels, dtype) + 2 * largest_chunk + OVERHEAD


def check_memory(projected: int, allowed: int) -> None:
    """Raise MemoryBudgetError where a run would not fit."""
    if projected > allowed:
        raise MemoryBudgetError(
            f"the run would take {size_text(projected)} of memory, and {size_text(allowed)} are allowed",
            "raise --memory, or choose a smaller --batch, fewer --threads or a smaller --patch")

