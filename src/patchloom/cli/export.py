"""``patchloom export``: predictions as a file of another format."""

from __future__ import annotations

import click

from patchloom.cli.options import Command, store_option

__all__ = ["export"]


@click.command(cls=Command, example="patchloom export run S-017.tif --image S-017.svs")
@click.argument("run")
@click.argument("file")
@click.option("--image", metavar="NAME", help="Only this image; formats of one image need it where a run has several.")
@click.option("--head", metavar="NAME", help="Only this head, where the model has several.")
@click.option("--level", type=click.IntRange(min=0), default=0, metavar="N", show_default=True,
              help="Resolution level of the map; each halves it.")
@click.option("--metadata", type=click.Choice(["csv", "json"]), help="Format of the tables in a .zip [default: csv].")
@click.option("--predictions", is_flag=True, help="In a .zip, numbers of patches as NPY files, too.")
@click.option("--with-images", is_flag=True, help="In a .zip, copies of the images.")
@store_option
def export(
    *, run: str, file: str, image: str | None, head: str | None, level: int, metadata: str | None, predictions: bool,
    with_images: bool, store: str | None,
) -> None:
    """Write predictions to FILE; its ending says how.

    Maps: .tif, .png, .npy. Tables: .csv, .json, .ndjson, .parquet. Both: .zip, .npz.
    """
    from patchloom import api

    own = {"metadata": metadata, "predictions": predictions, "with_images": with_images}
    given = {name: value for name, value in own.items() if value}
    api.open(run, store=store).export(file, image=image, head=head, level=level, **given)
    click.echo(f"{file} written", err=True)
