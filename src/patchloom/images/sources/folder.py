"""Images in folders: all below one folder, or what a pattern matches. Walked folder by folder, in sorted order."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchloom.connections import is_object_url, took_apart
from patchloom.errors import SourceError, SourceNotFoundError
from patchloom.images.registry import has_known_suffix, is_image
from patchloom.images.sources.entry import Entry, file_entry, is_zarr
from patchloom.images.sources.prefix import objects_below
from patchloom.objects import AnyPath, ObjectPath, as_path

__all__ = ["FolderSource", "GlobSource", "has_magic"]

NO_IMAGES = frozenset({
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".geojson", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".md",
    ".rst", ".html", ".css", ".js", ".py", ".pyc", ".ipynb", ".sh", ".log", ".lock", ".pdf", ".doc", ".docx", ".xls",
    ".xlsx", ".parquet", ".db", ".sqlite", ".zip", ".tar", ".bz2", ".xz", ".7z", ".onnx", ".pt", ".pt2", ".pth",
    ".safetensors", ".keras", ".pkl", ".tfw", ".jgw", ".pgw", ".wld", ".prj", ".shp", ".shx", ".dbf", ".cpg", ".ovr",
    ".md5", ".sha256", ".tmp", ".part",
})  # fmt: skip
"""Files that stand beside images; passed over without a look inside."""

MAGIC = frozenset("*?[")
Parts = tuple[str, ...]
States = frozenset[int]
Found = tuple[str, Any]


def has_magic(text: str) -> bool:
    """Whether a path is a pattern."""
    return bool(MAGIC & set(text))


@dataclass(frozen=True)
class FolderSource:
    """All images below a folder, named by their path below it.

    A file is an image if its suffix is one of an image format, or if a reader recognises its content. A Zarr folder is
    one image. Hidden files and folders, runs of patchloom, and other files are passed over. Symbolic links are
    followed, unless they lead back to a folder that they are in. Below a prefix of object storage suffixes alone
    decide, and a Zarr image is what ends in ``.zarr``.

    Parameters
    ----------
    path
        Absolute path of the folder, or URL of a prefix.
    axes
        Names of the axes where the files do not say.
    """

    path: str
    axes: str | None = None

    def __iter__(self) -> Iterator[Entry]:
        """Enumerate; see `Source`."""
        root, empty = as_path(self.path), True
        for place, found in _walk(root, lambda place, folder: folder or _wanted(root / place)):
            empty = False
            yield file_entry(place, root / place, self.axes, found)
        if empty:
            raise SourceError(f"{self.path}: there are no images in this folder",
                              "give a folder, file or pattern of images; --dry-run shows what is found")

    def spec(self) -> Mapping[str, Any]:
        """See `Source.spec`."""
        return {"kind": "folder", "path": self.path, "axes": self.axes}


@dataclass(frozen=True)
class GlobSource:
    """Images that a pattern of ``*``, ``?``, ``[…]`` and ``**`` matches, named by their path below its fixed part.

    Each image comes once, however often the pattern fits. Files that are no images are passed over, unless the pattern
    ends in a suffix (``*.dat``). Hidden files match only where the pattern has the dot.

    Parameters
    ----------
    pattern
        Absolute, or ``s3://…``.
    axes
        Names of the axes where the files do not say.
    """

    pattern: str
    axes: str | None = None

    def __iter__(self) -> Iterator[Entry]:
        """Enumerate; see `Source`."""
        fixed, parts = _split(self.pattern)
        if isinstance(fixed, Path) and not fixed.is_dir():
            raise SourceNotFoundError(f"{self.pattern}: there is no folder {fixed}", "correct the pattern")
        explicit = not has_magic(suffix := Path(parts[-1]).suffix) and bool(suffix)
        empty = True

        def wanted(place: str, folder: bool) -> bool:
            states = _states(parts, tuple(place.split("/")))
            if folder:
                return bool(states)
            return len(parts) in states and (explicit or _wanted(fixed / place))

        for place, found in _walk(fixed, wanted, hidden=any(part.startswith(".") for part in parts)):
            if len(parts) not in _states(parts, tuple(place.split("/"))):
                continue  # a Zarr folder on the way
            empty = False
            yield file_entry(place, fixed / place, self.axes, found)
        if empty:
            raise SourceError(f"{self.pattern}: no image matches this pattern",
                              "quote the pattern so that the shell leaves it alone; ** stands for any folders")

    def spec(self) -> Mapping[str, Any]:
        """See `Source.spec`."""
        return {"kind": "glob", "pattern": self.pattern, "axes": self.axes}


def _split(pattern: str) -> tuple[AnyPath, Parts]:
    """Fixed leading folder of a pattern, and the parts after it."""
    root, key = took_apart(pattern) if is_object_url(pattern) else ("", pattern)
    parts = Path(key).parts
    first = next(i for i, part in enumerate(parts) if has_magic(part))
    fixed = Path(*parts[:first])
    return as_path(f"{root}/{'/'.join(parts[:first])}") if root else fixed, parts[first:]


def _states(parts: Parts, place: Parts) -> States:
    """How many parts of a pattern may be used up after `place`; empty if nothing there or below can match."""
    states = _with_empty(frozenset({0}), parts)
    for name in place:
        following = set()
        for state in states:
            if state == len(parts):
                continue
            part = parts[state]
            if part == "**":
                if not name.startswith("."):
                    following.add(state)
            elif fnmatch.fnmatchcase(name, part) and (part.startswith(".") or not name.startswith(".")):
                following.add(state + 1)
        states = _with_empty(frozenset(following), parts)
    return states


def _with_empty(states: States, parts: Parts) -> States:
    """Also the states that are reached where ``**`` stands for no folder."""
    found = set(states)
    for state in states:
        while state < len(parts) and parts[state] == "**":
            state += 1
            found.add(state)
    return frozenset(found)


def _wanted(path: AnyPath) -> bool:
    if isinstance(path, ObjectPath):  # no look inside, which would be a request
        return has_known_suffix(path)
    return path.suffix.lower() not in NO_IMAGES and is_image(path)


def _walk(root: AnyPath, wanted: Callable[[str, bool], bool], *, hidden: bool = False) -> Iterator[Found]:
    """Files and Zarr folders below `root`: path below it with ``/``, and what the system says of a file."""
    if isinstance(root, ObjectPath):
        return objects_below(root, wanted, hidden=hidden)

    def below(prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[Found]:
        folder = root / prefix if prefix else root
        children, here = _children(folder)
        if here in above or (prefix and _is_run(children)):
            return
        for child in children:
            if child.name.startswith(".") and not hidden:
                continue
            place = f"{prefix}/{child.name}" if prefix else child.name
            if _is_folder(child):
                if is_zarr(Path(child.path)):
                    if wanted(place, True):
                        yield place, None
                elif wanted(place, True):
                    yield from below(place, above | {here})
            elif wanted(place, False):
                yield place, _stat(child)

    return below("", frozenset())


def _children(folder: Path) -> tuple[list[os.DirEntry[str]], tuple[int, int]]:
    try:
        with os.scandir(folder) as entries:
            children = sorted(entries, key=lambda child: child.name)
        found = folder.stat()
    except OSError as error:
        raise SourceError(f"{folder}: cannot be listed: {error.strerror or error}",
                          "correct the path, or its permissions") from error
    return children, (found.st_dev, found.st_ino)


def _is_run(children: list[os.DirEntry[str]]) -> bool:
    """Whether a folder is a run of patchloom, whose maps are no images to predict on."""
    return {"run.json", "journal"} <= {child.name for child in children}


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:
        return False


def _stat(child: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return child.stat()
    except OSError:
        return None
