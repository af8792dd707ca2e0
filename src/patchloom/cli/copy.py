"""``patchloom copy``: a run's predictions into another store."""

from __future__ import annotations

import sys

import click

from patchloom.cli.errors import say
from patchloom.cli.options import Command, quiet_option, store_option
from patchloom.cli.progress import counted

__all__ = ["copy"]


@click.command(cls=Command, example="patchloom copy run --to json:predictions/")
@click.argument("run")
@click.option("--to", required=True, metavar="URL",
              help="json:FOLDER, sqlite:///FILE, redis://, postgresql://, mysql:// or mongodb://; or RUN itself.")
@store_option
@quiet_option
def copy(*, run: str, to: str, store: str | None, quiet: bool) -> None:
    """Copy predictions without a map to another store; after an interruption the same command goes on.

    The run stays as it is, and maps stay in its folder: the store holds where. `--store URL` of the other commands
    reads from the copy. With the run itself as URL what is in a store is brought back into the run's folder, and the
    run lives there from then on.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from patchloom import api
    from patchloom.objects import as_path
    from patchloom.predictions.stores.url import without_password

    opened = api.open(run, store=store)
    columns = (TextColumn("  copy"), BarColumn(), MofNCompleteColumn(), TextColumn("patches"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet or not sys.stderr.isatty()) as progress:
        task = progress.add_task("copy", total=None)
        copied = opened.copy(to, callback=lambda done, total: progress.update(task, completed=done, total=total))
    if not quiet:
        is_itself = as_path(to).resolve() == opened.path.resolve()
        say(f"{counted(copied, 'patch', 'patches')} copied to {to if is_itself else without_password(to)}")
