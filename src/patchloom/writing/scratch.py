"""Arrays that images are put together in: in memory while they are small, in a temporary file otherwise."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.predictions.files import output_error

__all__ = ["MEMORY", "Scratch"]

MEMORY = 256 << 20
"""Bytes of images that a strategy keeps in memory at a time, all images together."""


class Scratch:
    """Gives out arrays, in memory up to a limit.

    Parameters
    ----------
    memory
        Bytes that all arrays in memory may take together; further ones are files.
    """

    def __init__(self, memory: int = MEMORY) -> None:
        self._left = memory

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any], folder: Path) -> NDArray[Any]:
        """Array of arbitrary content; its file, if it has one, is in `folder`, nameless, and gone with the array.

        Raises
        ------
        OutputError
            If there is no room in `folder`.
        """
        nbytes = max(1, math.prod(shape) * dtype.itemsize)
        if nbytes <= self._left:
            self._left -= nbytes
            return np.empty(shape, dtype)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                # Room is taken now: a disk that fills up under a mapped file ends the process without a word.
                _reserve(file.fileno(), nbytes)
                return np.memmap(file, dtype, "r+", shape=shape)
        except OSError as error:
            raise output_error(error, folder / "scratch") from error

    def give(self, array: NDArray[Any]) -> None:
        """Take back what `take` gave."""
        if not isinstance(array, np.memmap):
            self._left += max(1, array.nbytes)


def _reserve(descriptor: int, nbytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, nbytes)
    else:
        os.ftruncate(descriptor, nbytes)
