"""A bar on a terminal for what takes long and is no run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["bar"]


@contextmanager
def bar(show: bool | None, total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Show progress on stderr; gives what moves it on.

    Parameters
    ----------
    show
        Whether at all; None: where that is a terminal.
    total
        Steps up to the end.
    what
        Name of the steps, such as ``images``.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), what, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (console.is_terminal if show is None else show)) as progress:
        task = progress.add_task("", total=total)
        yield lambda steps: progress.advance(task, steps)
