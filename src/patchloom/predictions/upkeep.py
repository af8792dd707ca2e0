"""What a session does to a run's folder before it predicts: is it ours, what a crash left, and how it is discarded."""

from __future__ import annotations

import itertools

from patchloom.errors import OutputError
from patchloom.objects import AnyPath
from patchloom.predictions.files import PARTIAL, name_in, output_error, remove_tree, sweep_partial
from patchloom.predictions.index import Index
from patchloom.predictions.journal import check_logs, compact
from patchloom.predictions.layout import MEMBERS
from patchloom.predictions.leases import is_lease
from patchloom.predictions.lock import GUARD, begun
from patchloom.predictions.stores.copying import COPIES

__all__ = ["check_ours", "discard", "sweep_units", "tidy"]

OURS = {
    "run.json", "journal", "dense", "patches", "lock", GUARD, "index.sqlite", "index.sqlite-wal", "index.sqlite-shm",
    COPIES,
}  # fmt: skip


def check_ours(folder: AnyPath) -> None:
    """Raise OutputError where a folder holds anything that no run left there."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file", "choose another -o")
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise output_error(error, folder / "run.json") from error
    leases = {name for name in names if is_lease(name)}
    others = {name for name in names - OURS - leases if not name.endswith(PARTIAL)}
    if others or (names and not leases and not begun(folder, names)):
        raise OutputError(f"{folder} holds other files and is no run", "choose another -o")


def tidy(folder: AnyPath) -> None:
    """Remove files that were being written, and put logs together; only for who writes the run alone.

    Raises
    ------
    RunDamagedError
        If a log is damaged.
    """
    sweep_partial(folder)
    check_logs(folder / "journal")
    compact(folder / "journal")


def sweep_units(folder: AnyPath, index: Index) -> None:
    """Remove files of units that a crash left without a record: whoever reads the folder as it is would count rows
    and maps twice. Only for who writes the run alone.
    """
    tables, members = (folder / "patches").rglob("*.parquet"), (folder / "dense").glob(f"*/*{MEMBERS}")
    for path in itertools.chain[AnyPath](tables, members):
        if not index.knows_file(name_in(folder, path)) and path.is_file():
            path.unlink(missing_ok=True)


def discard(folder: AnyPath) -> None:
    """Remove a run; what says that it is one goes first, so that a crash in between leaves no half of it."""
    for name in ("run.json", "index.sqlite", "index.sqlite-wal", "index.sqlite-shm"):
        (folder / name).unlink(missing_ok=True)
    for name in ("journal", "patches", "dense", COPIES):
        remove_tree(folder / name)
