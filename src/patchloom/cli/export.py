"""``patchloom export``: predictions as a file of another format."""

from __future__ import annotations

from pathlib import Path

import click

from patchloom.cli.options import Command

__all__ = ["export"]


@click.command(cls=Command, example="patchloom export run S-017.tif --image S-017.svs")
@click.argument("run")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--image", metavar="NAME", help="Only this image; formats of one image need it where a run has several.")
@click.option("--head", metavar="NAME", help="Only this head, where the model has several.")
@click.option("--level", type=click.IntRange(min=0), default=0, metavar="N", show_default=True,
              help="Resolution level of the map; each halves it.")
def export(run: str, file: Path, image: str | None, head: str | None, level: int) -> None:
    """Write predictions to FILE; its ending says how.

    Maps: .tif, .png, .npy. Tables: .csv, .parquet.
    """
    from patchloom import api

    api.open(run).export(file, image=image, head=head, level=level)
    click.echo(f"{file} written", err=True)
