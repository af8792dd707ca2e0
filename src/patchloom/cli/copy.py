"""``patchloom copy``: a run's predictions into another store."""

from __future__ import annotations

import sys

import click

from patchloom.cli.errors import say
from patchloom.cli.options import Command, quiet_option
from patchloom.cli.progress import counted

__all__ = ["copy"]


@click.command(cls=Command, example="patchloom copy run --to json:predictions/")
@click.argument("run")
@click.option("--to", required=True, metavar="URL",
              help="json:FOLDER, sqlite:///FILE, redis://, postgresql://, mysql:// or mongodb://.")
@click.option("--store", metavar="URL", help="Store that the run lives in, once more, with its password.")
@quiet_option
def copy(*, run: str, to: str, store: str | None, quiet: bool) -> None:
    """Copy predictions without a map to another store; an interrupted copy is begun again by the same command.

    The run stays as it is, and maps stay in its folder. `patchloom.open(run, store=URL)` reads from the copy.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from patchloom import api
    from patchloom.predictions.stores.url import without_password

    opened = api.open(run, store=store)
    columns = (TextColumn("  copy"), BarColumn(), MofNCompleteColumn(), TextColumn("patches"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet or not sys.stderr.isatty()) as progress:
        task = progress.add_task("copy", total=None)
        copied = opened.copy(to, callback=lambda done, total: progress.update(task, completed=done, total=total))
    if not quiet:
        say(f"{counted(copied, 'patch', 'patches')} copied to {without_password(to)}")
