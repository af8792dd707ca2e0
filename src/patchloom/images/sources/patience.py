"""Waits for a server that is away, for a while, and knows the environment variable that holds its password."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["ENVIRONMENT", "Patience"]

T = TypeVar("T")

ENVIRONMENT = "PATCHLOOM_SOURCE"
"""Environment variable that gives a source's URL with its password, where a run knows it without."""
FIRST = 3.0
"""Seconds that a server is waited for which was never reached."""
LATER = 30.0
"""Seconds that a server is waited for which was there before."""


class Patience:
    """Does something again, with growing pauses, while a server is away.

    Examples
    --------
    >>> Patience()(lambda: 7, lambda error: False)
    7
    """

    def __init__(self) -> None:
        self._reached = False

    def __call__(self, work: Callable[[], T], is_away: Callable[[Exception], bool]) -> T:
        """Result of `work`; what it raises where waiting does not help, or has not helped."""
        delay, end = 0.1, time.monotonic() + (LATER if self._reached else FIRST)
        while True:
            try:
                result = work()
            except Exception as error:
                if not is_away(error) or time.monotonic() + delay > end:
                    raise
            else:
                self._reached = True
                return result
            time.sleep(delay)
            delay = min(2 * delay, 2.0)
