"""Sizes that are refused before memory is taken."""

from __future__ import annotations

import math
from pathlib import Path

from patchloom.errors import ImageTooLargeError
from patchloom.images.image import ImageInfo

__all__ = ["MAX_CHUNK_BYTES", "check_chunks"]

MAX_CHUNK_BYTES = 16 << 30
"""No format that is in use has blocks as large as this; a header that claims one is wrong or hostile."""


def check_chunks(path: Path, info: ImageInfo) -> ImageInfo:
    """Return `info`, or refuse an image of which one chunk would not fit into the memory of any ordinary machine.

    Raises
    ------
    ImageTooLargeError
        Naming the file and the size.
    """
    if info.chunk_bytes <= MAX_CHUNK_BYTES:
        return info
    for level, (shape, chunk) in enumerate(zip(info.levels, info.chunks, strict=True)):
        size = math.prod(chunk) * info.dtype.itemsize
        if size > MAX_CHUNK_BYTES:
            shown = " x ".join(map(str, shape))
            raise ImageTooLargeError(
                f"{path}: level {level} of {shown} pixels has to be decoded {size / 1e9:,.0f} GB at a time",
                "store it in tiles, or check whether the header is damaged")
    return info
