"""Images whose encoded bytes are in memory, such as a column of a database: the readers of files read them, too."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO, cast

from patchloom.errors import UnknownFormatError, UnreadableImageError
from patchloom.images.image import Image
from patchloom.images.registry import HEAD, reader_of

__all__ = ["Encoded", "in_memory", "open_bytes"]


class Encoded:
    """Bytes that a reader takes as it takes a file: what readers use of a `pathlib.Path`, and nothing is copied.

    Parameters
    ----------
    data
        One encoded image.
    name
        Stands where messages name a file.

    Examples
    --------
    >>> Encoded(b"P5 ...", "row 17 of photos").open().read(2)
    b'P5'
    """

    suffix = ""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name = data, name

    def open(self, mode: str = "rb") -> BinaryIO:
        """A file in memory."""
        return io.BytesIO(self.data)

    def stat(self) -> os.stat_result:
        """Only the size is anything but zero."""
        return os.stat_result((0, 0, 0, 0, 0, 0, len(self.data), 0, 0, 0))

    def is_dir(self) -> bool:
        """No."""
        return False

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Encoded {self.name}: {len(self.data)} bytes>"


def in_memory(path: object) -> bytes | None:
    """The bytes of what a reader was given, where that is no file."""
    return path.data if isinstance(path, Encoded) else None


def open_bytes(data: bytes, *, axes: str | None = None, name: str = "bytes") -> Image:
    """Open an image out of its encoded bytes (PNG, JPEG, WebP, TIFF, NPY …); pixels are decoded later.

    Parameters
    ----------
    data
        What a file of the image would hold. They are kept until the image is forgotten.
    axes
        Names of the axes, letters out of ``STCZYX``, where the user knows better than the bytes.
    name
        Of the image, for messages.

    Raises
    ------
    UnknownFormatError
        If no reader recognises them.
    UnreadableImageError, ImageTooLargeError, ImageMismatchError
        As the reader finds; each begins with `name`.

    Examples
    --------
    >>> import numpy
    >>> file = io.BytesIO()
    >>> numpy.save(file, numpy.zeros((20, 30), "uint8"))
    >>> open_bytes(file.getvalue(), name="row 17").info.shape
    (20, 30)
    """
    if not data:
        raise UnreadableImageError(f"{name}: is empty", "leave the row out, or store the image again")
    file = cast(Path, Encoded(data, name))
    reader = reader_of(file, data[:HEAD])
    if reader is None:
        raise UnknownFormatError(f"{name}: no reader recognises its content",
                                 "store images as PNG, JPEG, WebP, TIFF or NPY, or their paths as text")
    return reader.open(file, axes=axes)
