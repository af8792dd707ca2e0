"""``patchloom demo``: the main job, without arguments."""

from __future__ import annotations

from pathlib import Path

import click

from patchloom.cli.options import Command, quiet_option

__all__ = ["demo"]


@click.command(cls=Command, example="patchloom demo")
@click.argument("folder", default="patchloom-demo", type=click.Path(path_type=Path, file_okay=False))
@click.option("--cluster", is_flag=True, help="Predict on a Ray cluster of two nodes, started on this machine for it.")
@quiet_option
def demo(folder: Path, cluster: bool, quiet: bool) -> int:
    """See it work: makes images, predicts with a small model that comes along, is interrupted once and resumed.

    Everything is left in FOLDER (patchloom-demo), with a picture of the predictions beside it.
    """
    from rich.console import Console

    from patchloom.demo.demo import run_demo

    return run_demo(folder, console=Console(stderr=True, quiet=quiet), cluster=cluster)
