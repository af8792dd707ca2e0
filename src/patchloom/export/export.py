"""Writing predictions to files of other formats, chosen by their endings."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from patchloom.errors import OutputError, UsageError
from patchloom.predictions.files import PARTIAL, output_error

if TYPE_CHECKING:
    from patchloom.predictions.maps import StitchedMap
    from patchloom.predictions.query import PatchTable

__all__ = ["Export", "ImageMaps", "Predictions", "atomic", "export", "formats", "only_image"]

GROUP = "patchloom.exports"


class ImageMaps(Protocol):
    """What exports need of one image's predictions."""

    @property
    def crs(self) -> str:
        """Coordinate reference system, or empty."""

    @property
    def origin(self) -> tuple[float, float] | None:
        """Coordinates (x, y) of the upper left corner in `crs`."""

    def stitched(self, head: str | None = None, level: int = 0) -> StitchedMap:
        """Lazy array of the whole image."""


class Predictions(Protocol):
    """What exports need of a run."""

    def __len__(self) -> int: ...

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
    """A format. Classes are found by the entry points ``patchloom.exports``."""

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


def export(run: Predictions, path: Path, *, image: str | None = None, head: str | None = None, level: int = 0) -> None:
    """Write predictions of a run to a file.

    Raises
    ------
    UsageError
        If no format has this ending, or the format does not fit the predictions.
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
    formats()[suffix].write(run, path, image=image, head=head, level=level)


def only_image(run: Predictions, image: str | None) -> ImageMaps:
    """The image that was asked for, or the only one.

    Raises
    ------
    UsageError
        If none was asked for and there are several.
    """
    if image is not None:
        return run[image]
    first = [name for name, _ in zip(run.images(), range(2), strict=False)]
    if len(first) != 1:
        several = f"{len(run):,} images" if first else "no images"
        raise UsageError(f"this format holds one image, and the run has {several}", "choose one with --image")
    return run[first[0]]


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Path to write to, which becomes `path` when the block ends without an error, and is removed otherwise."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}{PARTIAL}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if isinstance(error, OutputError) or error.errno is None:
            raise
        raise output_error(error, path) from error
    finally:
        partial.unlink(missing_ok=True)
