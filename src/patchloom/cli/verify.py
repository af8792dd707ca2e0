"""``patchloom verify``: whether everything is as it was written."""

from __future__ import annotations

import dataclasses

import click

from patchloom.cli.listing import print_rows
from patchloom.cli.options import Command, listing_options, store_option

__all__ = ["verify"]


@click.command(cls=Command, example="patchloom verify run")
@click.argument("run")
@store_option
@listing_options
def verify(run: str, store: str | None, document: bool, lines: bool) -> int:
    """Read everything back, and name what is damaged or missing; exit code 1 if anything is."""
    from patchloom import api

    damages = api.open(run, store=store).verify()
    if damages or document or lines:
        print_rows(map(dataclasses.asdict, damages), ("path", "image", "problem"), document=document, lines=lines)
    else:
        click.echo("nothing is damaged or missing")
    return 1 if damages else 0
