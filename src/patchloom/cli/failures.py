"""``patchloom failures``: images that failed."""

from __future__ import annotations

import dataclasses

import click

from patchloom.cli.listing import print_rows
from patchloom.cli.options import Command, listing_options

__all__ = ["failures"]


@click.command(cls=Command, example="patchloom failures run")
@click.argument("run")
@listing_options
def failures(run: str, document: bool, lines: bool) -> None:
    """Images that failed: name, kind of error, message. `patchloom resume` tries them again."""
    from patchloom import api

    found = api.open(run).failures()
    if not found and not document and not lines:
        click.echo("no image failed", err=True)
        return
    print_rows(map(dataclasses.asdict, found), ("image", "kind", "message"), document=document, lines=lines)
