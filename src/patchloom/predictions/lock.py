"""One writer at a time: a lease in the run's folder that is renewed while its holder lives.

In a folder, processes of one machine take turns at it by a guard file. In object storage it is created only if it is
not there, and replaced only if it is still the one that was read: two who find it void do not both get it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from patchloom.errors import RunLockedError
from patchloom.objects import AnyPath, ObjectPath
from patchloom.parsing import Shard
from patchloom.predictions.files import PARTIAL, output_error, write_file

__all__ = ["GUARD", "HEARTBEAT", "STALE", "Holding", "Lease", "Lock", "begun", "described", "holder", "remove_void"]

GUARD = ".lock-guard"
"""File beside the lease that processes of one machine take turns by."""

HEARTBEAT = 10.0
"""Seconds between renewals."""
STALE = 60.0
"""Seconds without a renewal after which a lease is void."""
ATTEMPTS = 5
"""How often a lease is looked at anew if another process was faster; each time but the last one gets it."""
REMOVED = b""
_given_up: set[str] = set()
"""Leases of this process that could not be removed because the server was away."""
_logger = logging.getLogger(__name__)


class Lease(Protocol):
    """What allows to write into a run."""

    def check(self) -> None:
        """Raise RunLockedError if the lease was lost; called before every commit."""


@dataclass(frozen=True)
class Holding:
    """A lease, for those who work for its holder, also in other processes.

    Parameters
    ----------
    path
        ``run/lock``.
    token
        The holder's.
    """

    path: AnyPath
    token: str

    def check(self) -> None:
        """As `Lease.check`."""
        try:
            held = _lease(_place(self.path).read())
        except OSError as error:
            raise output_error(error, self.path) from error
        if (held or {}).get("token") != self.token:
            raise RunLockedError(
                f"lost the lease on {self.path.parent} to another process",
                "was this process suspended? `patchloom resume` goes on once the other has ended",
            )


class Lock:
    """Lease on a run.

    A lease is void when its holder's process is gone (same machine) or when it was not renewed for `STALE` seconds.

    Parameters
    ----------
    path
        ``run/lock``, or that of a shard.
    shard
        Who holds it, where several processes share the run.

    Raises
    ------
    RunLockedError
        If another process holds the lease; names it.
    """

    def __init__(self, path: AnyPath, shard: Shard | None = None) -> None:
        self._path, self._shard = path, shard
        self._token = secrets.token_hex(8)
        self._stop = threading.Event()
        self.holding = Holding(path, self._token)
        self._place = _place(path)
        try:
            self._place.change(self._take)
        except OSError as error:
            if isinstance(error, RunLockedError):
                raise
            raise output_error(error, path) from error
        self._thread = threading.Thread(target=self._renew, name="patchloom-lease", daemon=True)
        self._thread.start()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def check(self) -> None:
        """As `Lease.check`."""
        self.holding.check()

    def release(self) -> None:
        """Give the lease back."""
        self._stop.set()
        self._thread.join()
        try:
            self._place.change(lambda held: REMOVED if self._is_ours(held) else None)
        except OSError as error:
            if not isinstance(self._path, ObjectPath):
                raise
            _given_up.add(self._token)
            _logger.warning("the lease on %s is left to become void: %s", self._path.parent, error)

    def _is_ours(self, held: bytes | None) -> bool:
        return (_lease(held) or {}).get("token") == self._token

    def _take(self, held: bytes | None) -> bytes:
        other = _holder(held)
        if other is not None and other.get("token") != self._token:
            raise RunLockedError(f"{self._path.parent} is being written by {described(other)}",
                                 "wait until it ends, or stop it")
        return self._renewed()

    def _renewed(self) -> bytes:
        pid = os.getpid()
        lease = {
            "token": self._token,
            "host": socket.gethostname(),
            "boot": _boot(),
            "pid": pid,
            "started": _started(pid),
            "renewed": time.time(),
        }
        lease |= {"shard": str(self._shard)} if self._shard is not None else {}
        return json.dumps(lease).encode()

    def _renew(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            try:
                self._place.change(lambda held: self._renewed() if self._is_ours(held) else None)
            except OSError:
                continue  # a full disk, say: the next commit tells, and if there is room again this goes on


def holder(path: AnyPath) -> dict[str, Any] | None:
    """What the holder of a lease says of itself; None where the lease is void."""
    return _holder(_place(path).read())


def described(lease: Mapping[str, Any]) -> str:
    """The holder of a lease, for people."""
    process = f"process {lease.get('pid')} on {lease.get('host')}"
    return f"shard {lease['shard']}, {process}" if "shard" in lease else process


def remove_void(path: AnyPath) -> bool:
    """Remove a lease whose holder is gone, so that it does not go on if it was only suspended; whether it was void."""
    void = True

    def decide(held: bytes | None) -> bytes | None:
        nonlocal void
        void = _holder(held) is None
        return REMOVED if void else None

    _place(path).change(decide)
    return void


def begun(folder: AnyPath, names: Collection[str]) -> bool:
    """Whether names of files in a folder say that a session made it, even if it did not get far."""
    return "run.json" in names or (GUARD if isinstance(folder, Path) else "lock") in names


class _Place(Protocol):
    """Where a lease is."""

    def read(self) -> bytes | None:
        """What is there."""

    def change(self, decide: Callable[[bytes | None], bytes | None]) -> None:
        """Replace what is there by what `decide` makes of it, `REMOVED` or None to leave it, as one step."""


def _place(path: AnyPath) -> _Place:
    return _ObjectPlace(path) if isinstance(path, ObjectPath) else _FilePlace(path)


class _FilePlace:
    """A file, at which processes of one machine take turns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None

    def change(self, decide: Callable[[bytes | None], bytes | None]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_name(GUARD).open("a") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            held = self.read()
            new = decide(held)
            if held is None and new:
                if self._create(new):
                    return
                new = decide(self.read())  # another machine was faster
            if new == REMOVED:
                self._path.unlink(missing_ok=True)
            elif new is not None:
                write_file(self._path, new)

    def _create(self, content: bytes) -> bool:
        """Make the file unless it is there: on some shared file systems machines do not wait for each other's guard."""
        written = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}{PARTIAL}")
        write_file(written, content)
        try:
            os.link(written, self._path)
        except FileExistsError:
            return False
        except OSError:
            os.replace(written, self._path)  # there are no links here
        finally:
            written.unlink(missing_ok=True)
        return True


class _ObjectPlace:
    """An object, which is put on the condition that it is as it was read."""

    def __init__(self, path: ObjectPath) -> None:
        self._path = path

    def read(self) -> bytes | None:
        return self._tagged()[0]

    def change(self, decide: Callable[[bytes | None], bytes | None]) -> None:
        for _ in range(ATTEMPTS):
            held, tag = self._tagged()
            new = decide(held)
            if new is None:
                return
            try:
                if new == REMOVED:
                    self._path.unlink(missing_ok=True)
                else:
                    self._path.write_bytes(new, mode={"e_tag": tag} if tag else "create")
                return
            except (FileExistsError, FileNotFoundError) as error:
                if not tag and isinstance(error, FileNotFoundError):
                    raise  # there is no such bucket
        raise RunLockedError(f"{self._path.parent} is being written by others", "wait until they end, or stop them")

    def _tagged(self) -> tuple[bytes | None, str | None]:
        try:
            return self._path.read_tagged()
        except FileNotFoundError:
            return None, None


def _lease(held: bytes | None) -> dict[str, Any] | None:
    try:
        lease = json.loads(held or b"")
    except ValueError:
        return None
    return lease if isinstance(lease, dict) else None


def _holder(held: bytes | None) -> dict[str, Any] | None:
    lease = _lease(held)
    return lease if lease is not None and lease.get("token") not in _given_up and _alive(lease) else None


def _alive(holder: dict[str, Any]) -> bool:
    if holder.get("boot") == _boot() and holder.get("host") == socket.gethostname():
        return bool(holder.get("started") == _started(int(holder.get("pid", 0))))
    return time.time() - float(holder.get("renewed", 0)) < STALE


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process began, so that a number used again is not mistaken for it; None if there is none (or a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        try:
            os.kill(pid, 0)
        except OSError:
            return None
        return "running"
    return None if fields[0] in "ZX" else fields[19]
