"""NumPy's own format, memory-mapped."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from patchloom.errors import UnreadableImageError
from patchloom.images.array import ArrayImage
from patchloom.images.image import Image

__all__ = ["NpyReader"]


class NpyReader:
    """Arrays of numbers; arrays of Python objects are refused, for they are pickles."""

    suffixes = (".npy",)

    def recognises(self, path: Path, head: bytes) -> bool:
        """By signature."""
        return head.startswith(b"\x93NUMPY")

    def open(self, path: Path, *, axes: str | None = None) -> Image:
        """Map the file into memory; pages are read when they are needed."""
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError, SyntaxError) as error:
            raise UnreadableImageError(f"{path} is no readable array: {str(error).splitlines()[0]}",
                                       "is it truncated, or an array of Python objects?") from error
        return ArrayImage(array, axes, str(path))
