"""JPEGs as most cameras and programs write them, without the detours that the unusual ones need.

The header is read in a few steps and pixels are decoded in one call that other threads do not wait for: for small
images that is half of the time. Whatever is out of the ordinary is left to Pillow, whose pixels are the same.
"""

from __future__ import annotations

import struct
from typing import Any

from numpy.typing import NDArray

__all__ = ["JPEG", "decode", "header"]

JPEG = b"\xff\xd8\xff"
END = b"\xff\xd9"
FRAMES = frozenset((0xFFC0, 0xFFC1, 0xFFC2))
"""Markers of frames: baseline, extended and progressive."""
PASSED = frozenset((0xFFC4, 0xFFDB, 0xFFDD, 0xFFFE, *range(0xFFE0, 0xFFF0)))
"""Markers of tables, comments and notes of programs, which may stand in front of the frame."""
NOTES = 0xFFE1
EXIF = b"Exif\0\0"


def header(data: bytes) -> tuple[tuple[int, ...], bytes] | None:
    r"""Shape, ``(Y, X)`` or ``(Y, X, 3)``, and the EXIF data that stand in front of the pixels, if any.

    None where that takes more than a look at the beginning: `data` end before the frame, or it is no ordinary one.

    Examples
    --------
    >>> frame = b"\xff\xc0\x00\x11\x08\x00\x20\x00\x30\x03"
    >>> header(b"\xff\xd8" + frame)
    ((32, 48, 3), b'')
    """
    exif, place = b"", len(JPEG) - 1
    try:
        while True:
            marker, length = struct.unpack_from(">HH", data, place)
            if marker in FRAMES:
                bits, rows, columns, channels = struct.unpack_from(">BHHB", data, place + 4)
                if bits != 8 or not rows or not columns or channels not in (1, 3):
                    return None
                return ((rows, columns) if channels == 1 else (rows, columns, channels)), exif
            if marker not in PASSED or length < 2:
                return None
            if marker == NOTES and data.startswith(EXIF, place + 4):
                note = data[place + 4 : place + 2 + length]
                exif += note[len(EXIF) :] if exif else note
            place += 2 + length
    except struct.error:
        return None


def decode(data: bytes) -> NDArray[Any] | None:
    """Pixels of a JPEG whose `header` is ordinary; None where it is cut off or damaged, which Pillow has words for."""
    import imagecodecs

    if not data.endswith(END):  # libjpeg makes up what is missing
        return None
    try:
        pixels: NDArray[Any] = imagecodecs.jpeg8_decode(data)
    except imagecodecs.Jpeg8Error:
        return None
    return pixels
