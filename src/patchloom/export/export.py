"""Writing predictions to files of other formats, chosen by their endings."""

from __future__ import annotations

import errno
import functools
import inspect
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from patchloom.errors import OutputError, PatchloomError, UsageError
from patchloom.models.model import Head
from patchloom.predictions.files import PARTIAL

if TYPE_CHECKING:
    from patchloom.images.source import Source
    from patchloom.predictions.layout import PlaneInfo
    from patchloom.predictions.maps import StitchedMap
    from patchloom.predictions.query import PatchTable

__all__ = ["Export", "ImageMaps", "Predictions", "atomic", "chosen_table", "export", "formats", "only_image"]

GROUP = "patchloom.exports"
_numbers = itertools.count()


class ImageMaps(Protocol):
    """What exports need of one image's predictions."""

    @property
    def info(self) -> PlaneInfo:
        """Spacing and coordinates of the image."""

    def stitched(self, head: str | None = None, level: int = 0) -> StitchedMap:
        """Lazy array of the whole image."""


class Predictions(Protocol):
    """What exports need of a run."""

    @property
    def heads(self) -> tuple[Head, ...]:
        """Outputs of the model."""

    @property
    def source(self) -> Source | None:
        """Where the images are; None where nothing but the caller knew."""

    def __len__(self) -> int: ...

    def __contains__(self, image: object, /) -> bool: ...

    def __getitem__(self, image: str, /) -> ImageMaps: ...

    def images(self) -> Iterator[str]:
        """Names of the images that have predictions."""

    def patches(
        self,
        where: str | None = None,
        sort: str | None = None,
        limit: int | None = None,
        head: str | None = None,
        image: str | None = None,
    ) -> PatchTable:
        """Table of a vector head."""


class Export(Protocol):
    """A format. Classes are found by the entry points ``patchloom.exports``.

    What a format alone knows are more keyword parameters of `write`, each with a default.
    """

    suffixes: tuple[str, ...]
    """Lower-case endings with the dot."""

    def write(self, run: Predictions, path: Path, *, image: str | None, head: str | None, level: int) -> None:
        """Write predictions of one image, or of all for formats that hold many.

        Parameters
        ----------
        run
            Where they come from.
        path
            File to write; appears only when it is complete.
        image
            Its name; None for all, or for the only one.
        head
            Which head; None for the first that fits the format.
        level
            Of the pyramid, for maps.
        """


@functools.cache
def formats() -> dict[str, Export]:
    """All formats, ours and other packages', by ending."""
    found: dict[str, Export] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        one: Export = entry.load()()
        found |= dict.fromkeys(one.suffixes, one)
    return found


def export(
    run: Predictions, path: Path, *, image: str | None = None, head: str | None = None, level: int = 0, **options: Any
) -> None:
    """Write predictions of a run to a file.

    Parameters
    ----------
    run, path, image, head, level
        As for `Export.write`.
    **options
        Of the format alone.

    Raises
    ------
    UsageError
        If no format has this ending, the format does not fit the predictions, or has no such option.
    NotPredictedError
        If the run has no such image.
    OutputError
        If the file cannot be written.
    """
    name = path.name.lower()
    suffix = max((ending for ending in formats() if name.endswith(ending)), key=len, default=None)
    if suffix is None:
        raise UsageError(f"no format is known by the ending of {path.name}", f"endings: {' '.join(sorted(formats()))}")
    if path.is_dir():
        raise OutputError(f"{path} is a folder", "give the name of a file")
    write = formats()[suffix].write
    unknown = sorted(set(options) - set(inspect.signature(write).parameters))
    if unknown:
        raise UsageError(f"{unknown[0]} is no option of {suffix}", f"leave it out for {path.name}")
    write(run, path, image=image, head=head, level=level, **options)


def only_image(run: Predictions, image: str | None) -> ImageMaps:
    """The image that was asked for, or the only one.

    Raises
    ------
    UsageError
        If none was asked for and there are several, or if the run has no maps.
    """
    if not any(head.kind == "dense" for head in run.heads):
        raise UsageError("the run has no maps: its heads are tables", "export to .csv or .parquet")
    if image is not None:
        return run[image]
    first = [name for name, _ in zip(run.images(), range(2), strict=False)]
    if len(first) != 1:
        several = f"{len(run):,} images" if first else "no images"
        raise UsageError(f"this format holds one image, and the run has {several}", "choose one with --image")
    return run[first[0]]


def chosen_table(run: Predictions, image: str | None, head: str | None) -> PatchTable:
    """Rows of all images, or of the one that was asked for.

    Raises
    ------
    UsageError
        If the run has no table.
    NotPredictedError
        If it has no such image.
    """
    if not any(one.kind == "vector" for one in run.heads):
        raise UsageError("the run has no table: its heads are maps", "export to .tif, .png or .npy")
    if image is not None:
        run[image]  # an unknown name is an error, not an empty file
    return run.patches(head=head, image=image)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Path to write to, which becomes `path` when the block ends without an error, and is removed otherwise."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}-{next(_numbers)}{PARTIAL}{path.suffix}")
    made: list[Path] = []
    try:
        for folder in [folder for folder in reversed(path.parents) if not folder.exists()]:
            folder.mkdir(exist_ok=True)
            made.append(folder)
        yield partial
        os.replace(partial, path)
        made = []
    except OSError as error:
        if isinstance(error, PatchloomError) or error.errno is None:
            raise
        raise _cannot_write(error, path) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        for folder in reversed(made):
            with suppress(OSError):  # somebody else has put something there
                folder.rmdir()


def _cannot_write(error: OSError, path: Path) -> OutputError:
    if error.errno == errno.ENOSPC:
        return OutputError(f"no room left on the disk of {path.parent}", "make room, or write to another disk")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{path.parent} cannot be written", "choose another folder, or change its permissions")
    return OutputError(f"{path} cannot be written: {error.strerror or error}", "choose another file")
