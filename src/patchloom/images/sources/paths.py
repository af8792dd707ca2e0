"""Images whose paths or URLs a database holds, and which of them the user allows."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from patchloom.connections import shown
from patchloom.images.sources.entry import Entry, OpenFile, file_entry
from patchloom.images.sources.stored import Refused

__all__ = ["path_entry"]


def path_entry(name: str, text: str, axes: str | None, *, root: str | None, base: str) -> Entry:
    """Entry of an image that a row names by a path or URL.

    Parameters
    ----------
    name
        Of the image.
    text
        What the row holds: a path, ``file://`` or another URL.
    axes
        Names of the axes that the user gives.
    root
        Folder (or URL) that relative paths begin in and that none may lead out of, also not by a link; None: any
        path is allowed.
    base
        Where relative paths begin when there is no root.
    """
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    if "://" in text or (root is not None and "://" in root):
        return _url_entry(name, text, axes, root)
    path = os.path.join(root or base, os.path.expanduser(text))
    if "\0" in text or not text.strip():
        return Entry(name, Refused(f"{name}: {text!r} is no path", "correct the row"), "refused")
    if root is not None and not _below(path, root):
        return Entry(name, _outside(name, text, root), "refused")
    return file_entry(name, Path(os.path.normpath(path)), axes)


def _url_entry(name: str, text: str, axes: str | None, root: str | None) -> Entry:
    if root is not None:
        start = root.rstrip("/") + "/"
        text = text if "://" in text else start + text
        if not text.startswith(start) or ".." in unquote(text[len(start) :]).split("/"):
            return Entry(name, _outside(name, text, root), "refused")
    return Entry(name, OpenFile(text, axes), f"url:{shown(text)}")


def _below(path: str, root: str) -> bool:
    """Whether a path stays inside `root` when links are followed."""
    real, top = os.path.realpath(path), os.path.realpath(root)
    return os.path.commonpath([real, top]) == top


def _outside(name: str, text: str, root: str) -> Refused:
    return Refused(f"{name}: {shown(text)} is outside of {shown(root)}", "correct the row, or allow more with --root")
