"""Waits for a server that is away, and says what is wrong without showing a password."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, TypeVar

from patchloom.errors import StoreError, StoreUnreachableError
from patchloom.predictions.stores.url import ENVIRONMENT, secrets_of, without_password

__all__ = ["Server", "Trouble"]

T = TypeVar("T")
Trouble = Literal["away", "busy", "password", "other"]
"""Why a driver raised: the server is away; it asks to do it again; it does not let us in; anything else."""

FIRST = 3.0
"""Seconds that a server is waited for which was never reached."""
LATER = 60.0
"""Seconds that a server is waited for which was there before."""


class Server:
    """What talks to a server: does it again, with growing pauses, while that is away.

    Parameters
    ----------
    url
        With its password.
    trouble
        Says of a driver's error what it is; None for errors that are no driver's.
    """

    def __init__(self, url: str, trouble: Callable[[Exception], Trouble | None]) -> None:
        self.shown = without_password(url)
        self._secrets = secrets_of(url)
        self._trouble = trouble
        self._reached = False

    def __call__(self, work: Callable[[], T]) -> T:
        """Result of `work`, which may be done several times.

        Raises
        ------
        StoreUnreachableError, StoreError
            In place of what the driver raises; nothing of that is kept, since it may show more than it should.
        """
        delay, end = 0.05, time.monotonic() + (LATER if self._reached else FIRST)
        while True:
            try:
                result = work()
            except Exception as error:
                trouble = self._trouble(error)
                if trouble is None:
                    raise
                if trouble in ("password", "other") or time.monotonic() + delay > end:
                    raise self.error(error, trouble) from None
            else:
                self._reached = True
                return result
            time.sleep(delay)
            delay = min(2 * delay, 2.0)

    def error(self, error: Exception, trouble: Trouble) -> StoreError:
        """What a driver's error is to the user, without anything secret."""
        reason = " ".join(str(getattr(error, "orig", None) or error).split())[:300] or type(error).__name__
        for secret in self._secrets:
            reason = reason.replace(secret, "***")
        message = f"{self.shown}: {reason}"
        if trouble == "away":
            return StoreUnreachableError(message, "start the server, or correct host and port; then resume the run")
        if trouble == "password":
            return StoreError(message, f"correct user and password: --store, or {ENVIRONMENT} in the environment, "
                              "takes the URL with its password")
        return StoreError(message, "correct the URL, or ask who runs the server")
