"""Names of files that are written: after their sources, each file of its own, never outside the folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath

from patchloom.errors import OutputError, SourceError
from patchloom.images.sources.entry import image_name
from patchloom.predictions.layout import file_name

__all__ = ["Names"]

NO_FILE = "array"
"""Stem of sources that are no files."""


class Names:
    """Gives each image a path of its own.

    A relative source keeps its folders: ``a/s.tif`` becomes ``folder/a/s.tiff``. Of an absolute one (or a URL) the name
    of the file is taken, and as many of its folders as tell it from other images. What is no file is called
    ``array_<index>``, and where two sources differ in their endings only, the second gets ``_<index>``.

    Parameters
    ----------
    extension
        Of the files, with or without the dot; None for the names of images in a run, which keep their own.

    Examples
    --------
    >>> names = Names(".tiff")
    >>> [names.path(Path("out"), source, i).as_posix() for i, source in enumerate(["a/s.tif", "/x/s.tif", "/y/s.tif"])]
    ['out/a/s.tiff', 'out/s.tiff', 'out/y/s.tiff']
    """

    def __init__(self, extension: str | None) -> None:
        self._keeps = extension is None
        self.extension = f".{extension.removeprefix('.')}" if extension else ""
        self._owners: dict[Path, tuple[Path, str, int]] = {}
        self._before: dict[tuple[Path, str], Path] = {}
        self._reserved: set[Path] = set()

    def path(self, folder: Path, source: str, index: int) -> Path:
        """Path of the image that `source` names; the same for the same source and index.

        Raises
        ------
        OutputError
            If the source itself would be overwritten.
        """
        owner = (folder, source, index)
        stems, absolute = _stems(source, index, self.extension, keep=self._keeps)
        choices = [folder / (self._safe(stem) + self.extension) for stem in stems]
        if (folder, source) in self._before:
            choices.insert(0, self._before[folder, source])
        path = next((choice for choice in choices if self._is_free(choice, owner)), choices[-1])
        while not self._is_free(path, owner):
            path = path.with_name(f"{path.name.removesuffix(self.extension)}_{index}{self.extension}")
        if source and not self._keeps and (absolute or path.exists()) and _is_same(path, source):
            raise OutputError(f"{path} is the source itself", "choose another folder")
        self._owners[path] = owner
        return path

    def next_session(self) -> None:
        """Forget data indices: from now on the same source gets the path that it had, whatever its index is."""
        for path, (folder, source, _) in self._owners.items():
            if source:
                self._before.setdefault((folder, source), path)
        self._reserved = set(self._before.values())
        self._owners.clear()

    def _safe(self, stem: str) -> str:
        if self._keeps:
            with suppress(SourceError):
                return image_name(stem)  # the run makes file names of it by itself
        return file_name(stem)

    def _is_free(self, path: Path, owner: tuple[Path, str, int]) -> bool:
        folder, source, _ = owner
        if path in self._owners:
            return self._owners[path] == owner
        return path not in self._reserved or self._before.get((folder, source)) == path


def _is_same(path: Path, source: str) -> bool:
    try:
        return path.resolve() == Path(source).resolve()
    except (ValueError, OSError):  # no path of this machine
        return False


def _stems(source: str, index: int, extension: str, *, keep: bool) -> tuple[list[str], bool]:
    """Paths without endings, the first choice first, and whether the source is absolute."""
    path, absolute = _path(source)
    parts = [part for part in path.parts if part != path.anchor]
    stem = path.stem.removesuffix(".ome") if extension.startswith(".ome.") else path.stem
    if keep:
        stem = path.name
    if not parts or path.stem == NO_FILE:
        parts, stem = parts or [""], f"{NO_FILE}_{index}"
    parts[-1] = stem
    first = len(parts) - 1 if absolute else 0
    return ["/".join(parts[i:]) for i in range(first, -1, -1)], absolute


def _path(source: str) -> tuple[PurePosixPath | PureWindowsPath, bool]:
    scheme, mark, rest = source.partition("://")
    if mark and scheme.isalnum():
        return PurePosixPath(rest.lstrip("/")), True
    windows = PureWindowsPath(source)
    if windows.is_absolute():
        return windows, True
    posix = PurePosixPath(source)
    return posix, posix.is_absolute()
