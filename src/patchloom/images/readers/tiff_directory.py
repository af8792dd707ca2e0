"""Walks the directories of a TIFF file, to tell a file that lost its end from a whole one.

tifffile goes on with what is left of a file, and so would show a stack with fewer pages, or without its metadata.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from patchloom.errors import UnreadableImageError
from patchloom.images.readers.tiff_segments import File

__all__ = ["check_directories"]

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value of each type."""
SUBIFDS = 330
NEEDED = {270, 273, 279, 320, 324, 325, SUBIFDS, 347, 33550, 33922, 34264, 34735}
"""Tags without which an image would be another one; damage in others is passed over."""


def check_directories(tif: Any, file: File) -> None:
    """Check that each directory, and each tag that matters, lies within the file.

    Parameters
    ----------
    tif
        An open `tifffile.TiffFile`.
    file
        The same file.

    Raises
    ------
    UnreadableImageError
        If something would stand behind the end of the file.
    """
    big = tif.tiff.offsetsize == 8
    order = tif.tiff.byteorder
    number = np.dtype(order + ("u8" if big else "u4"))
    tag = np.dtype([("code", order + "u2"), ("type", order + "u2"), ("count", number), ("value", number)])
    tags_of, count_size = (order + "Q", 8) if big else (order + "H", 2)
    size, seen = file.size, set[int]()
    left = [int(np.frombuffer(file.read(8 if big else 4, number.itemsize), number)[0])]
    while left:
        offset = left.pop()
        if offset == 0 or offset in seen:
            continue
        seen.add(offset)
        _within(file, offset + count_size, size)
        (count,) = struct.unpack(tags_of, file.read(offset, count_size))
        end = offset + count_size + count * tag.itemsize
        _within(file, end + number.itemsize, size)
        tags = np.frombuffer(file.read(offset + count_size, count * tag.itemsize), tag)
        for code, kind, values, value in tags.tolist():
            if code not in NEEDED:
                continue
            length = values * SIZES.get(kind, 0)
            if length > number.itemsize:
                _within(file, value + length, size)
            if code == SUBIFDS:
                left += [value] if values == 1 else _numbers(file, value, length, order + f"u{SIZES.get(kind, 4)}")
        left.append(int(np.frombuffer(file.read(end, number.itemsize), number)[0]))


def _numbers(file: File, offset: int, length: int, kind: str) -> list[int]:
    numbers: list[int] = np.frombuffer(file.read(offset, length), kind).tolist()
    return numbers


def _within(file: File, end: int, size: int) -> None:
    if end > size:
        raise UnreadableImageError(f"{file.path}: truncated: it should have at least {end} bytes and has {size}",
                                   "copy the file again from where it came from")
