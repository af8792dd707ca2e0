"""Images whose encoded bytes are in memory, such as a column of a database: the readers of files read them, too."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from patchloom.errors import UnknownFormatError, UnreadableImageError
from patchloom.images.files import Encoded
from patchloom.images.image import Image
from patchloom.images.registry import HEAD, reader_of

__all__ = ["open_bytes"]


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
    >>> import io, numpy
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
