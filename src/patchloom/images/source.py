"""Where images come from: enumerated lazily, in a fixed order, each under a name of its own."""

from __future__ import annotations

import csv
import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

from patchloom.errors import SourceError, SourceNotFoundError, UnreadableImageError
from patchloom.images.array import ArrayImage
from patchloom.images.image import Image
from patchloom.images.registry import known_suffixes, open_image, recognised

__all__ = ["Entry", "Source", "as_source", "from_spec"]

IMAGES_WITHOUT_READER = frozenset(
    ".dcm .ndpi .mrxs .czi .nd2 .lif .vsi .scn .bif .isyntax .jp2 .j2k .jpx .hdf5 .h5 .nii .nrrd .mha .mhd .heic .exr".split())
"""Files that are images without doubt: they fail with a clear error instead of being passed over."""
MANIFESTS = (".csv", ".parquet")
PATH_COLUMNS = ("image", "path", "file", "uri")
SPECIAL = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a source.

    Parameters
    ----------
    name
        Relative path with ``/``, or whatever the source calls it.
    open
        Opens it.
    identity
        Changes when the image changes: size and modification time of a file.
    """

    name: str
    open: Callable[[], Image]
    identity: str


@runtime_checkable
class Source(Protocol):
    """Ordered images."""

    def __iter__(self) -> Iterator[Entry]:
        """Enumerate, lazily and in the same order each time."""

    def spec(self) -> Mapping[str, Any] | None:
        """What `from_spec` rebuilds the source from, as JSON can hold it; None where that is not possible."""


def as_source(source: Any, *, axes: str | None = None) -> Source:
    """Source out of whatever a user gives.

    Parameters
    ----------
    source
        Path of a file or folder, glob, list of paths, manifest (``.csv``, ``.parquet``), mapping of names to arrays or
        paths, one array, or a `Source`.
    axes
        Names of the axes where files and arrays do not say.

    Raises
    ------
    SourceNotFoundError
        If there is no such path.
    SourceError
        If it is nothing of the kind.
    """
    if isinstance(source, Mapping):
        return MappingSource(source, axes)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(os.fsdecode(source), axes)
    if hasattr(source, "shape") and hasattr(source, "dtype"):
        return MappingSource({"array": source}, axes)
    if isinstance(source, Source):
        return source
    if isinstance(source, Iterable):
        return ListSource([os.fsdecode(item) for item in source], axes)
    raise SourceError(f"a {type(source).__name__} is no source of images",
                      "give a path, a glob, a list of paths, a manifest or a mapping of names to arrays")


def from_spec(spec: Mapping[str, Any]) -> Source:
    """Source out of what `Source.spec` gave."""
    kinds: dict[str, Callable[..., Source]] = {
        "file": FileSource, "folder": FolderSource, "glob": GlobSource, "list": ListSource, "manifest": ManifestSource}
    values = {name: value for name, value in spec.items() if name != "kind"}
    return kinds[spec["kind"]](**values)


def _from_path(text: str, axes: str | None) -> Source:
    path = Path(text).expanduser()
    if path.is_dir() and recognised(path) is None:
        return FolderSource(str(path.absolute()), axes)
    if path.exists():
        if path.suffix.lower() in MANIFESTS:
            return ManifestSource(str(path.absolute()), axes)
        return FileSource(str(path.absolute()), axes)
    if SPECIAL & set(text):
        return GlobSource(os.path.abspath(path), axes)
    raise SourceNotFoundError(f"there is no {text}", "give a path, a glob, or a manifest of images")


@dataclass(frozen=True)
class FileSource:
    """One file, named by its file name."""

    path: str
    axes: str | None = None

    def __iter__(self) -> Iterator[Entry]:
        yield _entry(Path(self.path).name, Path(self.path), self.axes)

    def spec(self) -> Mapping[str, Any]:
        """Path and axes."""
        return {"kind": "file", "path": self.path, "axes": self.axes}


@dataclass(frozen=True)
class FolderSource:
    """All images below a folder, named by their path below it.

    Hidden files, runs of patchloom, and files that are no images by content or ending are passed over.
    """

    path: str
    axes: str | None = None

    def __iter__(self) -> Iterator[Entry]:
        root = Path(self.path)
        for path in _walk(root, set()):
            yield _entry(path.relative_to(root).as_posix(), path, self.axes)

    def spec(self) -> Mapping[str, Any]:
        """Path and axes."""
        return {"kind": "folder", "path": self.path, "axes": self.axes}


@dataclass(frozen=True)
class GlobSource:
    """Files that a pattern matches (``**`` for any folders), named by their path below the pattern's fixed part."""

    pattern: str
    axes: str | None = None

    def __iter__(self) -> Iterator[Entry]:
        parts = Path(self.pattern).parts
        fixed = Path(*itertools.takewhile(lambda part: not SPECIAL & set(part), parts))
        found = sorted(glob.iglob(self.pattern, recursive=True))
        if not found:
            raise SourceNotFoundError(f"nothing matches {self.pattern}", "quote the pattern, and check the folder")
        for text in found:
            path = Path(text)
            if path.is_dir() and recognised(path) is None:
                continue
            yield _entry(path.relative_to(fixed).as_posix(), path, self.axes)

    def spec(self) -> Mapping[str, Any]:
        """Pattern and axes."""
        return {"kind": "glob", "pattern": self.pattern, "axes": self.axes}


class ListSource:
    """Paths in their order, named by what follows their common folder; folders among them stand for what is in them."""

    def __init__(self, paths: Sequence[str], axes: str | None = None) -> None:
        self._paths = [os.path.abspath(os.path.expanduser(path)) for path in paths]
        self._axes = axes
        missing = next((path for path in self._paths if not os.path.exists(path) and not SPECIAL & set(path)), None)
        if missing is not None:
            raise SourceNotFoundError(f"there is no {missing}", "check the list")

    def __iter__(self) -> Iterator[Entry]:
        if not self._paths:
            return
        common = os.path.commonpath([os.path.dirname(path) for path in self._paths])
        seen: set[str] = set()
        for path in self._paths:
            for entry in _from_path(path, self._axes):
                prefix = os.path.relpath(path if os.path.isdir(path) and entry.name != os.path.basename(path)
                                         else os.path.dirname(path), common)
                name = entry.name if prefix == "." else f"{PurePosixPath(prefix)}/{entry.name}"
                if name in seen:
                    raise SourceError(f"{name} is twice in the list", "give each image once")
                seen.add(name)
                yield Entry(name, entry.open, entry.identity)

    def spec(self) -> Mapping[str, Any]:
        """Paths and axes."""
        return {"kind": "list", "paths": self._paths, "axes": self._axes}


@dataclass(frozen=True)
class ManifestSource:
    """Rows of a ``.csv`` or ``.parquet`` file.

    The column `image`, `path`, `file` or `uri`, else the first, holds paths relative to the manifest's folder; a
    column `name` names the images, else the path as it is written.
    """

    path: str
    axes: str | None = None

    def __iter__(self) -> Iterator[Entry]:
        folder = Path(self.path).parent
        seen: set[str] = set()
        for row in self._rows():
            column = next((name for name in PATH_COLUMNS if name in row), next(iter(row), None))
            text = row.get(column) if column is not None else None
            if not text:
                continue
            name = _plain(str(row.get("name") or text))
            if name in seen:
                raise SourceError(f"{self.path}: {name} is in it twice", "give each image once, or a column `name`")
            seen.add(name)
            yield _entry(name, folder / os.path.expanduser(str(text)), self.axes)

    def spec(self) -> Mapping[str, Any]:
        """Path and axes."""
        return {"kind": "manifest", "path": self.path, "axes": self.axes}

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        try:
            if self.path.lower().endswith(".parquet"):
                import pyarrow.parquet

                with pyarrow.parquet.ParquetFile(self.path) as file:
                    for batch in file.iter_batches(batch_size=1000):
                        yield from batch.to_pylist()
            else:
                with open(self.path, encoding="utf-8-sig", newline="") as lines:
                    yield from csv.DictReader(lines)
        except (OSError, ValueError, csv.Error) as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(f"{self.path} cannot be read as a manifest: {error}",
                              "a manifest is a table with a column `image` of paths") from error


class MappingSource:
    """Names and arrays (or paths), in the mapping's order."""

    def __init__(self, images: Mapping[str, Any], axes: str | None = None) -> None:
        self._images, self._axes = images, axes

    def __iter__(self) -> Iterator[Entry]:
        for key in self._images:
            name = _plain(str(key))
            value = self._images[key]
            if isinstance(value, (str, os.PathLike)):
                yield _entry(name, Path(value), self._axes)
            else:
                yield Entry(name, _array_opener(value, self._axes, name), _array_identity(value))

    def spec(self) -> None:
        """Arrays cannot be found again."""


def _array_opener(value: Any, axes: str | None, name: str) -> Callable[[], Image]:
    return lambda: ArrayImage(value, axes, name)


def _array_identity(value: Any) -> str:
    return f"array {getattr(value, 'dtype', '')} {tuple(getattr(value, 'shape', ()))}"


def _entry(name: str, path: Path, axes: str | None) -> Entry:
    try:
        found = path.stat()
        identity = f"{found.st_size}:{found.st_mtime_ns}"
    except OSError:
        identity = "missing"

    def opened() -> Image:
        if identity == "missing" or not path.exists():
            raise UnreadableImageError(f"{path} does not exist", "check the source")
        return open_image(path, axes=axes)

    return Entry(_plain(name), opened, identity)


def _plain(name: str) -> str:
    """Name without anything that would lead out of a folder."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(parts) or "image"


def _walk(folder: Path, above: set[tuple[int, int]]) -> Iterator[Path]:
    """Images below a folder, sorted; symbolic links are followed unless they lead back."""
    try:
        found = folder.stat()
        children = sorted(os.scandir(folder), key=lambda child: child.name)
    except OSError as error:
        raise SourceError(f"{folder} cannot be read: {error.strerror or error}", "check its permissions") from error
    here = (found.st_dev, found.st_ino)
    if here in above or (folder / "run.json").exists():
        return
    for child in children:
        if child.name.startswith("."):
            continue
        path = Path(child.path)
        if child.is_dir():
            if recognised(path) is not None:
                yield path
            else:
                yield from _walk(path, above | {here})
        elif _is_image(path):
            yield path


def _is_image(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in known_suffixes() or suffix in IMAGES_WITHOUT_READER:
        return True
    try:
        return path.is_file() and recognised(path) is not None
    except UnreadableImageError:
        return False
