"""One writer at a time: a lease in the run's folder that is renewed while its holder lives."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from patchloom.errors import RunLockedError
from patchloom.predictions.files import output_error, write_file

__all__ = ["GUARD", "HEARTBEAT", "STALE", "Lock"]

GUARD = ".lock-guard"
"""File beside the lease that processes of one machine take turns by."""

HEARTBEAT = 10.0
"""Seconds between renewals."""
STALE = 60.0
"""Seconds without a renewal after which a lease is void."""


class Lock:
    """Lease on a run.

    A lease is void when its holder's process is gone (same machine) or when it was not renewed for `STALE` seconds.

    Parameters
    ----------
    path
        ``run/lock``.

    Raises
    ------
    RunLockedError
        If another process holds the lease; names it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = secrets.token_hex(8)
        self._stop = threading.Event()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._guard():
                self._take()
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
        """Raise RunLockedError if the lease was lost; called before every commit."""
        holder = _read(self._path)
        if holder is None or holder.get("token") != self._token:
            raise RunLockedError(
                f"lost the lease on {self._path.parent} to another process",
                "was this process suspended? `patchloom resume` goes on once the other has ended",
            )

    def release(self) -> None:
        """Give the lease back."""
        self._stop.set()
        self._thread.join()
        with self._guard():
            holder = _read(self._path)
            if holder is not None and holder.get("token") == self._token:
                self._path.unlink(missing_ok=True)

    def _take(self) -> None:
        holder = _read(self._path)
        if holder is not None and _alive(holder):
            raise RunLockedError(
                f"{self._path.parent} is being written by process {holder.get('pid')} on {holder.get('host')}",
                "wait until it ends, or stop it",
            )
        self._write()

    def _write(self) -> None:
        pid = os.getpid()
        lease = {
            "token": self._token,
            "host": socket.gethostname(),
            "boot": _boot(),
            "pid": pid,
            "started": _started(pid),
            "renewed": time.time(),
        }
        write_file(self._path, json.dumps(lease).encode())

    def _renew(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            try:
                with self._guard():
                    holder = _read(self._path)
                    if holder is None or holder.get("token") != self._token:
                        return
                    self._write()
            except OSError:
                continue  # a full disk, say: the next commit tells, and if there is room again this goes on

    @contextmanager
    def _guard(self) -> Iterator[None]:
        # Looking at a lease and replacing it is one step for processes of one machine.
        with self._path.with_name(GUARD).open("a") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield


def _read(path: Path) -> dict[str, Any] | None:
    try:
        lease = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return lease if isinstance(lease, dict) else None


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
