"""Which patches of a unit were skipped: a bit a patch, compressed, as text that JSON can hold."""

from __future__ import annotations

import base64
import zlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack", "unpack"]


def pack(skipped: NDArray[np.bool_]) -> str:
    """Text for a mark a patch.

    Examples
    --------
    >>> unpack(pack(np.array([True, False, True])), 3)
    array([ True, False,  True])
    """
    return base64.b64encode(zlib.compress(np.packbits(skipped).tobytes(), 9)).decode("ascii")


def unpack(text: str, count: int) -> NDArray[np.bool_]:
    """Marks of `count` patches that `pack` put into a text."""
    data = zlib.decompress(base64.b64decode(text))
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count).astype(np.bool_)
