"""``patchloom query``: rows of the table of patches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from patchloom.cli.listing import print_rows, shortest
from patchloom.cli.options import Command, listing_options, store_option

__all__ = ["query"]

PLACE = ("image", "s", "t", "z", "y", "x")
"""Columns that a table shows beside the scores."""


@click.command(cls=Command, example='patchloom query run --where "tumour > 0.9" --sort -tumour --limit 3')
@click.argument("run")
@click.option("--where", metavar="CONDITION", help='SQL condition over the columns, such as "tumour > 0.9".')
@click.option("--sort", metavar="COLUMN", help="Columns to sort by, - in front for descending.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Most rows.")
@click.option("--image", metavar="NAME", help="Only this image.")
@click.option("--head", metavar="NAME", help="Which head, where the model has several.")
@store_option
@listing_options
def query(
    *, run: str, where: str | None, sort: str | None, limit: int | None, image: str | None, head: str | None,
    store: str | None, document: bool, lines: bool,
) -> None:
    """Patches that meet a condition, as a table.

    Columns are image, row, col, y, x, height, width, and one a class; --json and --nl give all of them.
    """
    from patchloom import api

    table = api.open(run, store=store).patches(where=where, sort=sort, limit=limit, head=head, image=image)
    columns = [name for name in PLACE if name in table.columns] + table.score_columns
    print_rows(_rows(table), columns, document=document, lines=lines)


def _rows(table: Any) -> Iterator[dict[str, Any]]:
    short = {"halffloat": "float16", "float": "float32"}
    for batch in table.batches():
        columns = []
        for field, column in zip(batch.schema, batch.columns, strict=True):
            kind = str(getattr(field.type, "value_type", field.type))
            columns.append([_shortened(value, short[kind]) for value in column.to_pylist()] if kind in short
                           else column.to_pylist())
        names = batch.schema.names
        yield from (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))


def _shortened(value: Any, dtype: str) -> Any:
    return list(shortest(value, dtype)) if isinstance(value, list) else next(shortest([value], dtype))
