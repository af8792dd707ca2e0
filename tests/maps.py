"""Files of a run's maps, to be compared."""

from __future__ import annotations

import zipfile

import patchloom


def dense_files(run: patchloom.Run) -> dict[str, bytes]:
    """Files of all maps by their names; which small maps share a file is a matter of time."""
    found: dict[str, bytes] = {}
    for path in (path for path in (run.path / "dense").rglob("*") if path.is_file()):
        name = path.relative_to(run.path)
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as members:
                found |= {(name.parent / member).as_posix(): members.read(member) for member in members.namelist()}
        else:
            found[name.as_posix()] = path.read_bytes()
    return found
