"""What is to be done: images, or parts of them, with what earlier sessions did of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from patchloom.geometry.region import Region
from patchloom.images.source import Entry
from patchloom.predictions.index import ImageRow, Index
from patchloom.predictions.layout import RunLayout

__all__ = ["Assignment", "Place", "again", "assignments"]

Place = tuple[tuple[int, ...], Region]
"""A unit's part of an image: indices on its loop axes, and pixels of the plane."""
AT_ONCE = 200
"""Images that the index is asked about at once."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One image, or some of its parts, to be predicted; it can be sent to another process.

    Parameters
    ----------
    entry
        The image.
    row
        What the run knows of it; None where that is nothing, or where it counts no more.
    changed
        Whether the image is another one than the run knows: what was predicted of it is forgotten first.
    done
        Parts that are committed.
    in_folders
        Whether its maps were begun in folders of their own.
    only
        Parts that are wanted, where others are done elsewhere: the image is not complete with them.
    """

    entry: Entry
    row: ImageRow | None = None
    changed: bool = False
    done: frozenset[Place] = frozenset()
    in_folders: bool = False
    only: frozenset[Place] | None = None

    @property
    def is_new(self) -> bool:
        """Whether all of the image is wanted, and the run knows nothing of it."""
        return self.only is None and not self.changed and (self.row is None or self.row.identity is None)

    def wants(self, place: Place) -> bool:
        """Whether a part is to be predicted."""
        return place not in self.done and (self.only is None or place in self.only)


def assignments(entries: Iterator[Entry], index: Index, layout: RunLayout) -> Iterator[Assignment]:
    """Images that are not done, in their order.

    Parameters
    ----------
    entries
        Of the source.
    index, layout
        Of the run.
    """
    while some := list(itertools.islice(entries, AT_ONCE)):
        known = index.known([entry.name for entry in some])
        for entry in some:
            row = known.get(entry.name)
            if row is None or row.state != "done" or row.identity != entry.identity:
                yield _assigned(entry, row, index, layout)


def again(assignment: Assignment, index: Index, layout: RunLayout) -> Assignment:
    """The same image, or parts of it, as far as the index now says that it is not done."""
    entry = assignment.entry
    return replace(_assigned(entry, index.image(entry.name), index, layout), only=assignment.only)


def _assigned(entry: Entry, row: ImageRow | None, index: Index, layout: RunLayout) -> Assignment:
    if row is None or row.identity is None:
        return Assignment(entry, row)
    if row.identity != entry.identity:
        return Assignment(entry, changed=True)
    return Assignment(entry, row, done=index.places(entry.name),
                      in_folders=layout.in_folders(entry.name, index.knows_file))
