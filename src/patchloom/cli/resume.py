"""``patchloom resume``: the rest of a run."""

from __future__ import annotations

from typing import Any

import click

from patchloom.cli.options import Command, grouped, quiet_option, run_options
from patchloom.cli.predict import followed

__all__ = ["resume"]


@click.command(cls=Command, example="patchloom resume run")
@click.argument("run")
@grouped("-m", "--model", group="Model", metavar="MODEL", multiple=True,
         help="The same model again: where its file is now, or package.module:function.")
@run_options(("batch", "device", "threads", "memory", "store", "executor", "workers", "shard"), defaults=False)
@quiet_option
def resume(run: str, model: tuple[str, ...], quiet: bool, **flags: Any) -> int:
    """Go on with a run, and try again what failed.

    Options that are not given are as they were.
    """
    from patchloom import api

    again = None if not model else list(model) if len(model) > 1 else model[0]
    return followed(run, quiet, lambda progress: api.open(run).resume(model=again, callbacks=(progress,), **flags),
                    shard=flags["shard"])
