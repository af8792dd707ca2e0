"""``patchloom status``: how far a run is."""

from __future__ import annotations

import dataclasses

import click

from patchloom.cli.listing import json_text, print_array, print_lines, print_table
from patchloom.cli.options import Command, listing_options, store_option

__all__ = ["status"]


@click.command(cls=Command, example="patchloom status run")
@click.argument("run")
@store_option
@listing_options
def status(run: str, store: str | None, document: bool, lines: bool) -> None:
    """What is done, failed and left, and each image's state: done, partial, left or failed."""
    from patchloom import api

    opened = api.open(run, store=store)
    found = opened.status()
    counts = {"done": found.done, "failed": found.failed, "left": found.left}
    rows = map(dataclasses.asdict, found.images())
    if document:
        print_array(rows, before=f'{json_text(counts)[:-1]},"images":[', after="]}")
    elif lines:
        print_lines(rows)
    else:
        click.echo(" · ".join(f"{number:,} {name}" for name, number in counts.items()))
        click.echo()
        skips = opened.document.config.skip is not None or opened.document.filter is not None
        print_table(rows, ("image", "state", "patches", "patches_done", *(["skipped"] if skips else [])))
