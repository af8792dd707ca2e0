"""Which reader understands a file: by content first, by suffix second.

Readers are classes found by the entry points ``patchloom.readers``. Ours are asked first; a reader of another package
is loaded when none of ours recognises a file.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from patchloom.errors import UnknownFormatError, UnreadableImageError
from patchloom.images.files import is_folder
from patchloom.images.image import Image, Reader
from patchloom.objects import AnyPath, ObjectPath, as_path

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["KNOWN_WITHOUT_READER", "has_known_suffix", "is_image", "known_suffixes", "open_image", "reader_of"]

GROUP = "patchloom.readers"
OURS = "patchloom."
HEAD = 64

KNOWN_WITHOUT_READER = {
    ".dcm": "DICOM", ".mrxs": "MIRAX", ".czi": "Zeiss CZI", ".nd2": "Nikon ND2", ".lif": "Leica LIF",
    ".vsi": "Olympus VSI", ".ets": "Olympus ETS", ".hdr": "ENVI", ".isyntax": "Philips iSyntax", ".nii": "NIfTI",
    ".nii.gz": "NIfTI", ".nrrd": "NRRD", ".mha": "MetaImage", ".mhd": "MetaImage", ".h5": "HDF5", ".hdf5": "HDF5",
    ".ims": "Imaris", ".oib": "Olympus OIB", ".oif": "Olympus OIF", ".jp2": "JPEG 2000", ".j2k": "JPEG 2000",
    ".jpx": "JPEG 2000", ".jxl": "JPEG XL", ".heic": "HEIC", ".heif": "HEIC", ".avif": "AVIF", ".exr": "OpenEXR",
    ".ecw": "ECW", ".sid": "MrSID", ".img": "Erdas Imagine", ".vrt": "GDAL VRT", ".nc": "NetCDF",
    ".npz": "NumPy archive", ".psd": "Photoshop", ".tga": "Targa", ".ppm": "Netpbm", ".pgm": "Netpbm",
    ".cr2": "Canon RAW", ".nef": "Nikon RAW", ".arw": "Sony RAW", ".dng": "Digital Negative",
}  # fmt: skip
"""Suffixes of images that no reader of ours understands: such files are reported, not passed over."""


class _Registry:
    """Readers, each loaded at most once and only when it is asked for."""

    def __init__(self) -> None:
        from importlib.metadata import entry_points

        found = sorted(entry_points(group=GROUP), key=lambda point: (not point.value.startswith(OURS), point.name))
        self._points: list[EntryPoint] = list(found)
        self._readers: dict[str, Reader | None] = {}
        self.broken: dict[str, str] = {}

    def __iter__(self) -> Iterator[Reader]:
        for point in self._points:
            if point.value not in self._readers:
                self._readers[point.value] = self._load(point)
            reader = self._readers[point.value]
            if reader is not None:
                yield reader

    def _load(self, point: EntryPoint) -> Reader | None:
        try:
            reader: Reader = point.load()()
        except Exception as error:  # another package's fault does not keep ours from reading
            package = point.dist.name if point.dist is not None else point.value
            self.broken[point.name] = f"reader {point.name} of {package} cannot be loaded: {error}"
            return None
        return reader


@functools.cache
def _registry() -> _Registry:
    return _Registry()


@functools.cache
def known_suffixes() -> frozenset[str]:
    """Suffixes that some reader claims, in lower case with the dot."""
    return frozenset(suffix for reader in _registry() for suffix in reader.suffixes)


def reader_of(path: Path, head: bytes | None = None) -> Reader | None:
    """Reader whose format the content of a file or folder is; None where none recognises it.

    Parameters
    ----------
    path
        File or folder.
    head
        First 64 bytes, where they are known already; empty for a folder.

    Raises
    ------
    UnreadableImageError
        If the file does not exist or may not be read.
    """
    if head is None:
        head = _head(path)
    return next((reader for reader in _registry() if reader.recognises(path, head)), None)


def has_known_suffix(path: AnyPath) -> bool:
    """Whether a file is called as images are, also as those that no reader understands."""
    return _has_suffix(path, known_suffixes()) or _has_suffix(path, KNOWN_WITHOUT_READER)


def is_image(path: Path) -> bool:
    """Whether a file is an image by its suffix or, failing that, by its content."""
    if has_known_suffix(path):
        return True
    try:
        return reader_of(path) is not None
    except UnreadableImageError:
        return False


def open_image(path: str | Path | ObjectPath, *, axes: str | None = None) -> Image:
    """Open an image by the reader of its format; pixels are read later.

    Parameters
    ----------
    path
        File, or folder of a Zarr array or group; or URL of one: ``s3://``, ``gs://``, ``az://``, ``https://``.
    axes
        Names of the axes, letters out of ``STCZYX``, where the user knows better than the file.

    Raises
    ------
    UnknownFormatError
        If no reader recognises it.
    UnreadableImageError, ImageTooLargeError, ImageMismatchError
        As the reader finds; each names the file.
    """
    path = _local_or_opened(path)
    head = _head(path)
    if not head and not is_folder(path):
        raise UnreadableImageError(f"{path}: is empty", "copy the file again from where it came from")
    reader = reader_of(path, head) or _by_suffix(path)
    if reader is None:
        raise _unknown(path)
    return reader.open(path, axes=axes)


def _local_or_opened(path: str | Path | ObjectPath) -> Path:
    """A path, or what readers take for one: an object that was asked for its beginning, or a prefix of objects."""
    found = as_path(path)
    return found if isinstance(found, Path) else cast(Path, _opened(found))


def _opened(path: ObjectPath) -> Any:
    from patchloom.images.remote import open_object, unreadable

    if path.name.lower().endswith(".zarr"):
        return path
    try:
        return open_object(path)
    except UnreadableImageError as error:
        try:
            if path.is_dir():
                return path
        except OSError as other:
            raise unreadable(other) from None
        raise error


def _head(path: Path) -> bytes:
    try:
        if is_folder(path):
            return b""
        with path.open("rb") as file:
            return file.read(HEAD)
    except FileNotFoundError:
        raise UnreadableImageError(f"{path}: there is no such file", "correct the path") from None
    except OSError as error:
        raise UnreadableImageError(f"{path}: cannot be read: {error.strerror or error}",
                                   "correct its permissions") from error


def _by_suffix(path: Path) -> Reader | None:
    return next((reader for reader in _registry() if _has_suffix(path, reader.suffixes)), None)


def _has_suffix(path: AnyPath, suffixes: object) -> bool:
    """Whether a name ends in one of `suffixes`, of which some have two dots."""
    name = path.name.lower().lstrip(".")
    return any(f".{ending}" in suffixes for ending in _endings(name))  # type: ignore[operator]


def _endings(name: str) -> tuple[str, ...]:
    """What stands behind the last dot of a name, and behind the last but one."""
    parts = name.rsplit(".", 2)
    return (parts[-1], ".".join(parts[-2:])) if len(parts) == 3 else tuple(parts[1:])


def _unknown(path: Path) -> UnknownFormatError:
    name = KNOWN_WITHOUT_READER.get(path.suffix.lower())
    what = "no reader recognises its content" + (f", and none is known for {name}" if name else "")
    if path.is_dir():
        what = "the folder is no image"
    hint = "convert it to TIFF, OME-Zarr or PNG, or install a package that reads it"
    hint = "; ".join(_registry().broken.values()) or hint
    return UnknownFormatError(f"{path}: {what}", hint)
