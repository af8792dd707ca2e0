"""Parts of small images that wait for each other, to be committed as one unit."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from patchloom.engine.singles import Stack
from patchloom.engine.work import ImageWork, UnitPart

__all__ = ["Groups", "Unit"]

Unit = list[UnitPart] | Stack
"""What is committed together."""

PATCHES = 4096
"""Patches of small images that share a unit."""
SECONDS = 5.0
"""Longest that a small image's predictions wait for others to be committed with."""
HELD_BYTES = 16 << 20
"""Encoded maps that are held for a unit."""
MAPS = 1024
"""Images whose maps share a file: a lookup reads its directory, a few hundred bytes an image and level."""


@dataclass
class Groups:
    """What is complete and not committed yet; it may be used by several threads at once.

    Tables have a column for each loop axis: images with other axes make units of their own.
    """

    _waiting: dict[str, list[UnitPart]] = field(default_factory=dict)
    _stacks: list[Stack] = field(default_factory=list)
    _patches: int = 0
    _maps: int = 0
    _bytes: int = 0
    _since: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, work: ImageWork, parts: Sequence[UnitPart], held: int = 0) -> list[Unit]:
        """Have parts of an image wait; those that have waited long enough, as units.

        Parameters
        ----------
        held
            Bytes of the image's encoded maps, where they are in memory.
        """
        with self._lock:
            self._begin()
            self._waiting.setdefault(work.loop_axes, []).extend(parts)
            self._patches += sum(part.patches for part in parts)
            self._bytes += held
            self._maps += held > 0
            return self._due()

    def add_stack(self, stack: Stack) -> list[Unit]:
        """Have images of one patch each wait; see `add`."""
        with self._lock:
            self._begin()
            self._stacks.append(stack)
            self._patches += len(stack.images)
            return self._due()

    def take(self) -> list[Unit]:
        """All that wait, as units."""
        with self._lock:
            return self._all()

    def drop(self, work: ImageWork) -> None:
        """Forget the parts of an image that failed."""
        with self._lock:
            for axes, parts in self._waiting.items():
                self._waiting[axes] = [part for part in parts if part.work is not work]

    def _begin(self) -> None:
        if not self._waiting and not self._stacks:
            self._since = time.monotonic()

    def _due(self) -> list[Unit]:
        full = self._patches >= PATCHES or self._bytes >= HELD_BYTES or self._maps >= MAPS
        return self._all() if full or time.monotonic() - self._since >= SECONDS else []

    def _all(self) -> list[Unit]:
        units: list[Unit] = [*self._waiting.values()]
        if self._stacks:
            units.append(Stack.joined(self._stacks))
        self._waiting, self._stacks = {}, []
        self._patches = self._maps = self._bytes = 0
        return units
