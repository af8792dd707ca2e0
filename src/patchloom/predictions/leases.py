"""Who may write a run: one process alone, or the shards of a job, each with a lease of its own beside ``lock``.

A shard takes the ordinary lease, too, but only for as long as it needs to begin, or to look whether it is the last: so
they begin one after the other, and whoever holds it knows that no other begins meanwhile.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable

from patchloom.errors import RunLockedError
from patchloom.objects import AnyPath
from patchloom.parsing import Shard
from patchloom.predictions.files import output_error
from patchloom.predictions.lock import Lock, described, holder, remove_void

__all__ = ["alone", "is_lease", "live_shards", "shard_lease", "turn", "writer_lease"]

LEASE = re.compile(r"lock-(\d+)-of-(\d+)")
WAIT = 3600.0
"""Seconds that a shard waits for others to begin; whoever comes first lists the images and tries the model."""
PATIENCE = 5.0
"""Seconds after which it says so."""
POLL = 0.2


def is_lease(name: str) -> bool:
    """Whether a file of a run's folder is the lease of a shard."""
    return LEASE.fullmatch(name) is not None


def writer_lease(folder: AnyPath) -> Lock:
    """The lease of a process that writes a run alone.

    Raises
    ------
    RunLockedError
        If another process, or a shard, writes it.
    """
    _refuse(folder)  # looked at first, so that shards which are about to begin are not held up
    lock = Lock(folder / "lock")
    try:
        _refuse(folder)
    except BaseException:
        lock.release()
        raise
    return lock


def turn(folder: AnyPath, shard: Shard, wait: float = WAIT, waiting: Callable[[str], None] | None = None) -> Lock:
    """The ordinary lease for a moment, which is waited for where another shard has it.

    Parameters
    ----------
    waiting
        Told once who is waited for, where that takes long.

    Raises
    ------
    RunLockedError
        If a process that is no shard has it, or a shard for longer than `wait` seconds.
    """
    begin = time.monotonic()
    while True:
        try:
            return Lock(folder / "lock", shard)
        except RunLockedError:
            other, waited = holder(folder / "lock"), time.monotonic() - begin
            if (other is not None and "shard" not in other) or waited > wait:
                raise
        if waiting is not None and other is not None and waited > PATIENCE:
            waiting(described(other))
            waiting = None
        time.sleep(random.uniform(0.5, 1.5) * POLL)


def shard_lease(folder: AnyPath, shard: Shard) -> Lock:
    """The lease of a shard; whoever calls this has its `turn`.

    Raises
    ------
    RunLockedError
        If the same shard, or one of another number of shards, writes the run.
    """
    for other, who in live_shards(folder).items():
        if other == shard:
            raise RunLockedError(f"{folder}: {who} does the same share", "wait until it ends, or stop it")
        if other.of != shard.of:
            raise RunLockedError(f"{folder} is being written by {who}, and this is one of {shard.of}",
                                 f"start shards of {other.of}, or wait until those have ended")
    return Lock(_path(folder, shard), shard)


def live_shards(folder: AnyPath) -> dict[Shard, str]:
    """Shards that write a run, and which processes they are."""
    found = {shard: holder(_path(folder, shard)) for shard in _shards(folder)}
    return {shard: described(lease) for shard, lease in found.items() if lease is not None}


def alone(folder: AnyPath, shard: Shard) -> bool:
    """Whether no other shard writes the run, and none that was taken for dead goes on; asked within a `turn`."""
    void = [remove_void(_path(folder, other)) for other in _shards(folder) if other != shard]
    return all(void)


def _refuse(folder: AnyPath) -> None:
    for who in live_shards(folder).values():
        raise RunLockedError(f"{folder} is being written by {who}",
                             "wait until all shards have ended, or stop them")


def _shards(folder: AnyPath) -> list[Shard]:
    try:
        found = [LEASE.fullmatch(path.name) for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise output_error(error, folder / "lock") from error
    return sorted(Shard(int(match[1]), int(match[2])) for match in found if match)


def _path(folder: AnyPath, shard: Shard) -> AnyPath:
    return folder / f"lock-{shard.number}-of-{shard.of}"
