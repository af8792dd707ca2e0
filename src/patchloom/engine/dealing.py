"""Deals a run out to shards: images by a hash of their names, and large ones in pieces where there are few images.

How a run is dealt is recorded when the first shard begins, so that all of them, and those who ask what is missing, deal
alike even if the source grows. What is not as it was then, a new image or one that changed, is not cut.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from patchloom.engine.assignment import Assignment, Place, assignments
from patchloom.engine.pieces import pieces
from patchloom.engine.survey import SAMPLE, Survey
from patchloom.images.source import Entry
from patchloom.parsing import Shard
from patchloom.predictions.index import ImageRow, Index
from patchloom.predictions.layout import RunLayout
from patchloom.predictions.verify import Damage

__all__ = ["Dealing", "Share", "deal", "missing", "owner"]

ENOUGH = 8
"""Images that are left for each shard from which on none is cut: that they are of different sizes evens out."""


@dataclass(frozen=True)
class Large:
    """An image that is cut.

    Parameters
    ----------
    identity
        Of the image.
    plane, loop_shape
        Pixels of its planes, and how many of them there are on each loop axis.
    """

    identity: str
    plane: tuple[int, ...]
    loop_shape: tuple[int, ...]


@dataclass(frozen=True)
class Dealing:
    """Who predicts what.

    Parameters
    ----------
    of
        Number of shards.
    large
        Images that are cut.
    number
        How often the run was dealt out before, to other numbers of shards.
    """

    of: int
    large: Mapping[str, Large] = field(default_factory=dict)
    number: int = 0

    @classmethod
    def recorded(cls, index: Index) -> Dealing | None:
        """The last dealing; None of a run that was never dealt out."""
        record = index.dealt()
        if record is None:
            return None
        large = {
            name: Large(identity, tuple(plane), tuple(loop_shape))
            for name, identity, plane, loop_shape in record["large"]
        }
        return cls(record["shards"], large, record["number"])

    def record(self) -> dict[str, Any]:
        """For the journal."""
        large = [[name, one.identity, one.plane, one.loop_shape] for name, one in self.large.items()]
        return {"is": "dealt", "shards": self.of, "large": large, "number": self.number}

    def cuts(self, name: str, identity: str | None) -> bool:
        """Whether an image is cut; the identity may be unknown."""
        large = self.large.get(name)
        return large is not None and identity in (None, large.identity)

    def shards(self, name: str, identity: str | None, layout: RunLayout) -> dict[int, frozenset[Place] | None]:
        """Numbers of the shards that predict parts of an image, and which; None: all of it."""
        first = owner(name, self.of)
        if not self.cuts(name, identity):
            return {first: None}
        large = self.large[name]
        cut = pieces(layout, large.plane, large.loop_shape, self.of)
        return {(first - 1 + i) % self.of + 1: frozenset(piece.places) for i, piece in enumerate(cut)}


def owner(name: str, of: int) -> int:
    """Number of the shard, from 1 on, that an image belongs to; the same on every machine."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % of + 1


def deal(of: int, found: Survey, layout: RunLayout, before: Dealing | None) -> Dealing:
    """Deal out what was found to be left.

    Parameters
    ----------
    before
        The last dealing.
    """
    large = {}
    if found.looked_at < min(ENOUGH * of, SAMPLE):  # those that are done are not looked at
        for size in found.sizes:
            if size.entry is not None and len(layout.units(size.plane)) > 1 and len(layout.grid(size.plane)):
                large[size.entry.name] = Large(size.entry.identity, size.plane, size.loop_shape)
    return Dealing(of, large, 0 if before is None else before.number + 1)


@dataclass(frozen=True)
class Share:
    """What one shard predicts.

    Parameters
    ----------
    shard
        Which.
    dealing, layout
        Of the run.
    """

    shard: Shard
    dealing: Dealing
    layout: RunLayout

    def has(self, name: str, identity: str | None = None) -> bool:
        """Whether any of an image is in it."""
        if self.dealing.cuts(name, identity):
            return name in self._pieces
        return self.owns(name)

    def owns(self, name: str) -> bool:
        """Whether an image belongs to it that is not cut."""
        return owner(name, self.dealing.of) == self.shard.number

    def assignments(self, entries: Iterator[Entry], index: Index) -> Iterator[Assignment]:
        """What is not done of it, in order of the source."""
        ours = (entry for entry in entries if self.has(entry.name, entry.identity))
        for assignment in assignments(ours, index, self.layout):
            name = assignment.entry.name
            if assignment.changed or not self.dealing.cuts(name, assignment.entry.identity):
                if self.owns(name):
                    yield assignment
            elif name in self._pieces and not self._pieces[name] <= assignment.done:
                yield replace(assignment, only=self._pieces[name])

    def complete(self, entries: Iterator[Entry], index: Index) -> Iterator[Assignment]:
        """Images that were cut, all of whose parts are done by now, by whomever: they are to be completed."""
        if not self._pieces:
            return
        ours = (entry for entry in entries if entry.name in self._pieces)
        for assignment in assignments(ours, index, self.layout):
            name, identity = assignment.entry.name, assignment.entry.identity
            if assignment.changed or not self.dealing.cuts(name, identity):
                continue
            if all(places is not None and places <= assignment.done for places in self._cut[name].values()):
                yield assignment

    def counts(self, index: Index, failed: Collection[str] = ()) -> dict[str, int]:
        """Number of its images in each state; one that is cut is done when this share of it is.

        Parameters
        ----------
        failed
            Images that failed here, whatever others say who predict other parts of them.
        """
        counts = Counter(index.counts(lambda name: name not in self.dealing.large and self.owns(name)))
        for name in self.dealing.large:
            row = index.image(name)
            if row is not None and self.has(name, row.identity):
                counts["failed" if name in failed else self._state(row, index)] += 1
        return dict(counts)

    def images(self, index: Index, *states: str) -> Iterator[ImageRow]:
        """Its images in some states."""
        ours = (row for row in index.images(*states) if self.has(row.name, row.identity))
        return (row for row in ours if self._state(row, index) in states)

    def _state(self, row: ImageRow, index: Index) -> str:
        if row.state == "done" or not self.dealing.cuts(row.name, row.identity):
            return row.state
        done = index.places(row.name)
        if self._pieces[row.name] <= done:
            return "done"
        return "failed" if row.state == "failed" else "partial" if self._pieces[row.name] & done else "left"

    @cached_property
    def _cut(self) -> dict[str, dict[int, frozenset[Place] | None]]:
        """Who predicts what of images that are cut."""
        return {name: self.dealing.shards(name, None, self.layout) for name in self.dealing.large}

    @cached_property
    def _pieces(self) -> dict[str, frozenset[Place]]:
        """Our parts of images that are cut."""
        ours = {name: shards.get(self.shard.number) for name, shards in self._cut.items()}
        return {name: places for name, places in ours.items() if places is not None}


def missing(index: Index, layout: RunLayout) -> Iterator[Damage]:
    """Shards of a run that was dealt out that have not done their share, for `verify`.

    Parameters
    ----------
    index, layout
        Of the run.
    """
    dealing = Dealing.recorded(index)
    if dealing is None:
        return
    lacking: Counter[int] = Counter()
    incomplete: list[list[int]] = []
    for row in index.images("left", "partial"):
        shards = dealing.shards(row.name, row.identity, layout)
        done = index.places(row.name) if len(shards) > 1 else frozenset()
        late = [number for number, places in shards.items() if places is None or not places <= done]
        lacking.update(late)
        if not late:
            incomplete.append(list(shards))
    # Where all parts are there, any of the image's shards completes it: best one that has to run anyway.
    lacking.update([next((number for number in shards if number in lacking), shards[0]) for shards in incomplete])
    for number, images in sorted(lacking.items()):
        are = "image is" if images == 1 else "images are"
        yield Damage(f"shard {Shard(number, dealing.of)}", None, f"missing: {images:,} {are} not done")
