"""How much memory a run will take, and how wide its units may be so that it takes no more than it is allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from patchloom.config import Config
from patchloom.engine.memory import available_memory
from patchloom.engine.reading import BLOCK, BLOCK_DEPTH
from patchloom.engine.survey import Survey
from patchloom.errors import MemoryBudgetError
from patchloom.geometry.units import CHUNK, CHUNKS_A_UNIT, WIDTH, WIDTH_3D
from patchloom.predictions.layout import RunLayout

__all__ = ["Budget", "Limits", "allowed_memory", "check_memory", "size_text", "usual_width"]

OVERHEAD = 128 << 20
"""Allowance for the interpreter's and the codecs' own buffers."""


@dataclass(frozen=True)
class Limits:
    """How much may be under way.

    Parameters
    ----------
    threads
        Workers.
    batch
        Patches a forward pass; halved when memory runs out.
    decoded_bytes
        Decoded pixels that may be held, beyond what the next patch row needs.
    """

    threads: int
    batch: int
    decoded_bytes: int


@dataclass(frozen=True)
class Budget:
    """Peak memory as a function of the width of units.

    Parameters
    ----------
    layout
        Of the run.
    channels, dtype
        Of decoded pixels.
    fixed
        Bytes that do not depend on the width: the process as it is, and the model calls under way.
    widest
        Extent of the largest image across the sweep; no unit is wider.
    largest_chunk
        Bytes of the largest chunk of any file.
    """

    layout: RunLayout
    channels: int
    dtype: np.dtype[Any]
    fixed: int
    widest: int
    largest_chunk: int

    @classmethod
    def of(cls, layout: RunLayout, channels: int, dtype: np.dtype[Any], fixed: int, found: Survey) -> Budget:
        """Budget for the images that a survey found."""
        widest = max((max(size.plane[1:]) for size in found.sizes), default=usual_width(layout.ndim))
        largest = max((math.prod(size.chunks) * size.channels * size.dtype.itemsize for size in found.sizes), default=0)
        largest = max(largest, max((size.decoded for size in found.sizes), default=0))
        return cls(layout, channels, dtype, fixed, widest, largest)

    def width(self, allowed: int) -> int | None:
        """Widest units with which the run takes no more than `allowed`; None where the usual width does."""
        usual = usual_width(self.layout.ndim)
        width, least = usual, CHUNK * CHUNKS_A_UNIT
        while width > least and self.projected(width) > allowed:
            width //= 2
        return None if width == usual else width

    def projected(self, width: int | None) -> int:
        """Peak resident bytes with units of this width."""
        across = min(width or usual_width(self.layout.ndim), self.widest)
        return self.fixed + OVERHEAD + 2 * self.largest_chunk + self._stitched(across) + self.decoded(across)

    def decoded(self, width: int | None) -> int:
        """Decoded pixels that may be held: what two patch rows across a unit need."""
        layout = self.layout
        rows = layout.patch[0] + layout.stride[0] + 2 * (BLOCK_DEPTH if layout.ndim == 3 else BLOCK)
        across = math.prod((width or usual_width(layout.ndim)) + p + BLOCK for p in layout.patch[1:])
        return rows * across * self.channels * self.dtype.itemsize

    def _stitched(self, width: int) -> int:
        """Parts of maps that are not written yet."""
        layout = replace(self.layout, unit_width=width)
        if not layout.dense_heads:
            return 0
        unit = layout.units((1,) * layout.ndim).unit
        # A patch row may reach into several units, one more is being written, one is kept for the next.
        units = -(-layout.patch[0] // unit[0]) + 3
        total = 0
        for raw, head in zip(layout.raw_heads, layout.heads, strict=True):
            if head.kind == "dense":
                pixels = math.prod(int(u * s) for u, s in zip(unit, head.scale, strict=True))
                weights = layout.config.skip is not None  # of the patches that are predicted
                sums = 4 * ((raw.channels or 1) + weights) if layout.config.blend != "crop" else 0
                total += units * pixels * (sums or head.dtype.itemsize * (head.channels or 1))
        return total


def usual_width(ndim: int) -> int:
    """Pixels across a unit where memory is no constraint."""
    return WIDTH if ndim == 2 else WIDTH_3D


def allowed_memory(config: Config) -> int:
    """The budget: what the user says, else a quarter of what the machine has."""
    return config.memory if config.memory is not None else available_memory() // 4


def check_memory(projected: int, allowed: int) -> None:
    """Raise MemoryBudgetError where a run would not fit."""
    if projected > allowed:
        raise MemoryBudgetError(
            f"the run would take {size_text(projected)} of memory, and {size_text(allowed)} are allowed",
            "raise --memory, or choose a smaller --batch, fewer --threads or a smaller --patch",
        )


def size_text(size: float) -> str:
    """Bytes as people read them: ``41 GB``, ``6.1 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.1f} {unit}" if size < 10 and unit != "B" else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
