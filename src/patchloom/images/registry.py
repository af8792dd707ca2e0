"""Which reader understands a file: by content first, by suffix second."""

from __future__ import annotations

import functools
from importlib.metadata import entry_points
from pathlib import Path

from patchloom.errors import UnknownFormatError, UnreadableImageError
from patchloom.images.image import Image, Reader

__all__ = ["known_suffixes", "open_image", "readers", "recognised"]

GROUP = "patchloom.readers"
HEAD = 64


@functools.cache
def readers() -> tuple[Reader, ...]:
    """All readers, ours and other packages', in order of their names."""
    found = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    return tuple(entry.load()() for entry in found)


def known_suffixes() -> frozenset[str]:
    """Endings that some reader claims."""
    return frozenset(suffix for reader in readers() for suffix in reader.suffixes)


def recognised(path: Path) -> Reader | None:
    """Reader of a file or folder; None where neither content nor suffix tells.

    Raises
    ------
    UnreadableImageError
        If the file cannot be opened at all.
    """
    head = _head(path)
    by_content = next((reader for reader in readers() if reader.recognises(path, head)), None)
    if by_content is not None or (not head and path.is_dir()):
        return by_content
    return next((reader for reader in readers() if path.suffix.lower() in reader.suffixes), None)


def open_image(path: str | Path, *, axes: str | None = None) -> Image:
    """Open an image file or folder; pixels are read later.

    Parameters
    ----------
    path
        File, or folder of a Zarr array or group.
    axes
        Names of the axes where the user knows better than the file.

    Raises
    ------
    UnknownFormatError
        If no reader understands it.
    UnreadableImageError, ImageTooLargeError, ImageMismatchError
        As the reader finds; each names the file.
    """
    path = Path(path)
    reader = recognised(path)
    if reader is None:
        raise UnknownFormatError(f"{path} is in no format that patchloom reads",
                                 f"known endings: {' '.join(sorted(known_suffixes()))}")
    return reader.open(path, axes=axes)


def _head(path: Path) -> bytes:
    if path.is_dir():
        return b""
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise UnreadableImageError(f"{path} cannot be read: {error.strerror or error}", "check the path") from error
