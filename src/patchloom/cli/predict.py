"""``patchloom predict``: a new run, or the rest of one that matches."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from patchloom.cli.errors import say
from patchloom.cli.options import Command, grouped, quiet_option, run_options
from patchloom.cli.progress import Progress, counted, duration, following, stopped_lines
from patchloom.errors import Interrupted, UsageError

__all__ = ["followed", "predict"]

EXCLUDING = {"stride": "overlap", "overlap": "stride"}
"""A flag stands for its counterpart in a config file."""


@click.command(cls=Command, example="patchloom predict slides/ -m tumour.onnx -o run --patch 512 --overlap 64")
@click.argument("source", nargs=-1, metavar="SOURCE...")
@grouped("-m", "--model", group="Model", metavar="MODEL", multiple=True,
         help="Model file (.onnx, .pt, .pt2, .safetensors) or package.module:function; several predict as one.")
@grouped("-o", "--out", group="Output", metavar="FOLDER",
         help="Folder of the run, or its URL (s3://bucket/run); a matching run is resumed.")
@grouped("--overwrite", group="Output", is_flag=True, help="Discard the run that is in the folder.")
@run_options()
@grouped("--config", group="Execution", metavar="FILE", type=click.Path(path_type=Path),
         help="TOML file with the names of these flags; flags override it.")
@grouped("--save-config", group="Execution", metavar="FILE", type=click.Path(path_type=Path),
         help="Write what was chosen as such a file.")
@grouped("--dry-run", group="Execution", is_flag=True, help="Show the plan and write nothing.")
@grouped("--json", "document", group="Execution", is_flag=True, help="With --dry-run: the plan as one JSON document.")
@quiet_option
def predict(
    *, source: tuple[str, ...], model: tuple[str, ...], out: str | None, overwrite: bool, config: Path | None,
    save_config: Path | None, dry_run: bool, document: bool, quiet: bool, **flags: Any,
) -> int:
    """Predict every patch of every image.

    SOURCE is an image, a folder, a quoted glob, several of these, a manifest (.csv, .parquet), the URL of one of these
    (s3://bucket/slides/, https://host/a.tif), or the URL of a database with --query or --table. What is
    done already in the run's folder is not done again.
    """
    from patchloom import api
    from patchloom.config import Config

    if document and not dry_run:
        raise UsageError("--json is for --dry-run", "`patchloom status RUN --json` says how a run stands")
    values = _values(config, {"source": list(source), "model": list(model), "out": out, **flags})
    place = {name: values.pop(name, None) for name in ("source", "model", "out")}
    _check(place, dry_run=dry_run)
    options = Config(**values)
    if save_config is not None:
        _save(save_config, place, options)
    images = place["source"][0] if len(place["source"]) == 1 else place["source"]
    if dry_run:
        plan = api.plan(images, place["model"], place["out"], config=options, overwrite=overwrite)
        _print_plan(plan, save_config, document=document)
        return 0
    return followed(place["out"], quiet, lambda progress: api.predict(
        images, place["model"], place["out"], overwrite=overwrite, callbacks=(progress,), config=options),
        shard=options.shard)


def followed(run: str, quiet: bool, work: Callable[[Progress], object], shard: object = None) -> int:
    """Do some work on a run, show its progress, say how it ended, and give the exit code."""
    from patchloom.objects import traffic

    before = traffic.now()
    stopped = False
    with following(quiet=quiet) as progress:
        try:
            work(progress)
        except Interrupted:
            stopped = True
    finished = progress.finished
    if finished is None:
        raise AssertionError("a session ended without saying so")
    if stopped:
        say(stopped_lines(finished, run) + (f" --shard {shard}" if shard is not None else ""))
        return 130
    if finished.failed:
        say(f"warning: {counted(finished.failed, 'image')} failed, {finished.done:,} done; "
            f"see: patchloom failures {shlex.quote(run)}")
        return 1
    if not quiet:
        skipped = f", {finished.skipped:,} skipped," if finished.skipped else ""
        say(f"done: {counted(finished.done, 'image')}, {counted(finished.patches, 'patch', 'patches')} predicted"
            f"{skipped} in {duration(finished.seconds)}{_transferred(*before)}; "
            f"see: patchloom status {shlex.quote(run)}")
    return 0


def _transferred(requests: int, read: int, written: int) -> str:
    """What went to and from object storage and web servers since these counts, if anything did."""
    from patchloom.objects import traffic

    if traffic.requests == requests:
        return ""
    down, up = (f"{n / 1e6:,.1f} MB" for n in (traffic.read - read, traffic.written - written))
    return f", {down} read and {up} written in {counted(traffic.requests - requests, 'request')}"


def _values(file: Path | None, flags: dict[str, Any]) -> dict[str, Any]:
    """Options out of the config file, overridden by the flags that were given."""
    from patchloom.config import read_toml

    given = {name: value for name, value in flags.items() if value not in (None, [])}
    values = {} if file is None else read_toml(file)
    for name in given:
        values.pop(EXCLUDING.get(name, name), None)
    values |= given
    for name in ("source", "model"):
        if name in values:
            value = values[name]
            values[name] = [str(path) for path in (value if isinstance(value, list) else [value])]
    if len(values.get("model", [])) == 1:
        [values["model"]] = values["model"]
    return values | ({"out": str(values["out"])} if "out" in values else {})


def _check(place: dict[str, Any], *, dry_run: bool) -> None:
    see = "see `patchloom predict --help`"
    if not place["source"]:
        raise UsageError("no images were given", f"patchloom predict SOURCE -m MODEL -o FOLDER; {see}")
    if not place["model"]:
        raise UsageError("no model was given", f"-m model.onnx; {see}")
    if not place["out"] and not dry_run:
        raise UsageError("no folder for the run was given", f"-o run, or --dry-run to see the plan; {see}")


def _save(file: Path, place: dict[str, Any], options: Any) -> None:
    from patchloom.config import flag, write_toml
    from patchloom.images.sources.urls import without_secrets
    from patchloom.predictions.stores.url import without_password

    chosen = {name: value for name, value in place.items() if value}
    if "source" in chosen:
        chosen["source"] = [without_secrets(text) for text in chosen["source"]]
    chosen |= {flag(name): value for name, value in options.changed().items()}
    if "store" in chosen:
        chosen["store"] = without_password(chosen["store"])
    if chosen.pop("on-error", None) == "raise":
        chosen["fail-fast"] = True
    try:
        write_toml(file, chosen)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}", "choose another --save-config") from None


def _print_plan(plan: Any, saved: Path | None, *, document: bool) -> None:
    if document:
        from patchloom.cli.listing import json_text

        click.echo(json_text(plan.to_dict()))
        return
    for line in plan.lines():
        click.echo(line)
    click.echo("nothing written (--dry-run)" if saved is None else f"{saved} written, nothing else (--dry-run)")
