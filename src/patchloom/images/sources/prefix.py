"""Images in object storage: listed lazily, in the order of their keys, a thousand to a request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from patchloom.errors import SourceError
from patchloom.objects import ObjectPath

__all__ = ["objects_below"]

LAST = "\U0010ffff"
"""Sorts behind whatever a name begins with."""
MAPS = "dense"
"""Where a run has its maps, which are no images to predict on."""


def objects_below(
    root: ObjectPath, wanted: Callable[[str, bool], bool], *, hidden: bool = False
) -> Iterator[tuple[str, Any]]:
    """Objects and Zarr images below a prefix: key below it, and what `stat` says of an object.

    What lies in a Zarr image, in a hidden or unwanted folder or in a run of patchloom is not listed.

    Parameters
    ----------
    root
        The prefix.
    wanted
        Whether an object, or (True) a folder, is looked for.
    hidden
        Whether names that begin with a dot count.

    Raises
    ------
    SourceError
        If it cannot be listed.
    """
    after = ""
    while True:
        passed, skipped = "", None
        for place, status in _listed(root, after):
            folder = place.rpartition("/")[0]
            if folder and folder != passed:
                skipped = _skipped(root, folder, wanted, hidden=hidden)
                if skipped is not None:
                    break
                passed = folder
            if (hidden or not place.rpartition("/")[2].startswith(".")) and wanted(place, False):
                yield place, status
        if skipped is None:
            return
        if _is_zarr(skipped) and wanted(skipped, True):
            yield skipped, None
        after = f"{skipped}/{LAST}"


def _skipped(root: ObjectPath, folder: str, wanted: Callable[[str, bool], bool], *, hidden: bool) -> str | None:
    """The outermost of a folder and those that it is in whose objects are no images of their own."""
    parts = folder.split("/")
    for depth, name in enumerate(parts, 1):
        here = "/".join(parts[:depth])
        if _is_zarr(here) or not wanted(here, True) or (name.startswith(".") and not hidden):
            return here
        if name == MAPS and (root / "/".join((*parts[: depth - 1], "run.json"))).is_file():
            return here
    return None


def _is_zarr(place: str) -> bool:
    return place.lower().endswith(".zarr")


def _listed(root: ObjectPath, after: str) -> Iterator[tuple[str, Any]]:
    try:
        yield from root.walk(after)
    except OSError as error:
        raise SourceError(f"{str(error).replace(': ', ': cannot be listed: ', 1)}",
                          "correct the URL, or give access by the environment (AWS_ACCESS_KEY_ID, …)") from None
