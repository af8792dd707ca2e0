"""Walks the directories of a TIFF file: to tell a file that lost its end from a whole one, and to find large tables.

tifffile goes on with what is left of a file, and so would show a stack with fewer pages, or without its metadata.
It also reads the places of all segments at once: megabytes for a large slide, of which a patch needs a few.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from patchloom.errors import UnreadableImageError
from patchloom.images.files import File, Range

__all__ = ["SegmentTable", "check_directories", "large_tables"]

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value of each type."""
SUBIFDS = 330
OFFSETS, COUNTS = 324, 325
NEEDED = {270, 273, 279, 320, OFFSETS, COUNTS, SUBIFDS, 347, 33550, 33922, 34264, 34735}
"""Tags without which an image would be another one; damage in others is passed over."""
LARGE = 32 << 10
"""Bytes of a table that is not read at once from afar."""

Tag = tuple[int, int, int, int]
"""Code, type, number of values, and the value itself or where the values are."""


@dataclass(frozen=True)
class SegmentTable:
    """Where the header of a page says, for each tile, where it is (`offsets`) and how long (`counts`).

    Each is a place in the file, NumPy's name of the type, and the number of values.
    """

    offsets: tuple[int, str, int]
    counts: tuple[int, str, int]

    @property
    def ranges(self) -> list[Range]:
        """Bytes of both tables."""
        return [(place, np.dtype(kind).itemsize * n) for place, kind, n in (self.offsets, self.counts)]


def check_directories(file: File) -> None:
    """Check that each directory, and each tag that matters, lies within the file.

    Raises
    ------
    UnreadableImageError
        If something would stand behind the end of the file.
    """
    size = file.size
    for _, tags, inline, _ in _directories(file):
        for code, kind, values, value in tags:
            length = values * SIZES.get(kind, 0)
            if code in NEEDED and length > inline:
                _within(file, value + length, size)


def large_tables(file: File) -> dict[int, SegmentTable]:
    """Tables of tiles that are too large to be read for a patch, by the place of the directory of their page."""
    found = {}
    for offset, tags, inline, order in _directories(file):
        tables = {}
        for code, kind, values, value in tags:
            length = values * SIZES.get(kind, 0)
            if code in (OFFSETS, COUNTS) and kind in (3, 4, 16) and inline < length <= file.size - value:
                tables[code] = value, f"{order}u{SIZES[kind]}", values
        if len(tables) == 2:
            table = SegmentTable(tables[OFFSETS], tables[COUNTS])
            if table.ranges[0][1] >= LARGE:
                found[offset] = table
    return found


def _directories(file: File) -> Iterator[tuple[int, list[Tag], int, str]]:
    """Place and tags of each directory, also of those below others; bytes that stand in a tag itself; byte order."""
    head = file.read_header(0, 8)
    order = "<" if head.startswith(b"II") else ">"
    big = struct.unpack_from(order + "H", head, 2)[0] == 43
    number = np.dtype(order + ("u8" if big else "u4"))
    tag = np.dtype([("code", order + "u2"), ("type", order + "u2"), ("count", number), ("value", number)])
    tags_of, count_size = (order + "Q", 8) if big else (order + "H", 2)
    size, seen = file.size, set[int]()
    left = _numbers(file, 8 if big else 4, number.itemsize, number.str)
    while left:
        offset = left.pop()
        if offset == 0 or offset in seen:
            continue
        seen.add(offset)
        _within(file, offset + count_size, size)
        (count,) = struct.unpack(tags_of, file.read_header(offset, count_size))
        end = offset + count_size + count * tag.itemsize
        _within(file, end + number.itemsize, size)
        tags: list[Tag] = np.frombuffer(file.read_header(offset + count_size, count * tag.itemsize), tag).tolist()
        yield offset, tags, number.itemsize, order
        for code, kind, values, value in tags:
            length = values * SIZES.get(kind, 0)
            if code == SUBIFDS and length > number.itemsize:
                _within(file, value + length, size)
            if code == SUBIFDS:
                left += [value] if values == 1 else _numbers(file, value, length, order + f"u{SIZES.get(kind, 4)}")
        left += _numbers(file, end, number.itemsize, number.str)


def _numbers(file: File, offset: int, length: int, kind: str) -> list[int]:
    numbers: list[int] = np.frombuffer(file.read_header(offset, length), kind).tolist()
    return numbers


def _within(file: File, end: int, size: int) -> None:
    if end > size:
        raise UnreadableImageError(f"{file.path}: truncated: it should have at least {end} bytes and has {size}",
                                   "copy the file again from where it came from")
