"""``patchloom patch``: one lookup."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from patchloom.cli.listing import cell, json_text, shortest
from patchloom.cli.options import Command, store_option
from patchloom.errors import NotPredictedError, OutputError, UsageError

if TYPE_CHECKING:
    from patchloom.models.model import Head
    from patchloom.run import Run

__all__ = ["patch"]


@click.command(cls=Command, example="patchloom patch run S-017.svs 1792 5376 --json")
@click.argument("run")
@click.argument("image")
@click.argument("key", nargs=-1, type=int, required=True, metavar="Y X")
@click.option("--head", metavar="NAME", help="Only this head, where the model has several.")
@click.option("--npy", type=click.Path(path_type=Path), metavar="FILE", help="Save the prediction as a NumPy file.")
@store_option
@click.option("--json", "document", is_flag=True, help="Print one JSON document; maps are summarised in it.")
def patch(
    *, run: str, image: str, key: tuple[int, ...], head: str | None, npy: Path | None, store: str | None, document: bool
) -> None:
    """Look up the prediction of the patch of IMAGE that starts at pixel Y X.

    Images with more axes take more numbers in front, such as Z Y X or T Y X.
    """
    from patchloom import api

    opened = api.open(run, store=store)
    heads = {found.name: found for found in opened.heads if head in (None, found.name)}
    if not heads:
        raise UsageError(f"{run} has no head {head!r}", f"heads are {', '.join(found.name for found in opened.heads)}")
    prediction = opened.patch(image, *key, head=head)
    if prediction is None:
        raise _not_there(opened, image, key)
    if npy is not None:
        _save(npy, prediction)
    shown = {name: _summary(opened, found, prediction[name] if isinstance(prediction, Mapping) else prediction)
             for name, found in heads.items()}
    about = {"image": image, **opened[image].describe(key),
             "prediction": shown if len(opened.heads) > 1 and head is None else next(iter(shown.values()))}
    click.echo(json_text(about) if document else "\n".join(_table(about)))


def _not_there(run: Run, image: str, key: tuple[int, ...]) -> NotPredictedError:
    if image not in run:
        near = difflib.get_close_matches(image, list(_first(run.images())), 1)
        hint = f"did you mean {near[0]}?" if near else f"`patchloom status {run.path}` lists the images"
        return NotPredictedError(f"{run.path} has no predictions of {image!r}", hint)
    predictions = run[image]
    axes = " ".join(predictions.key_axes.lower())
    if len(key) != len(predictions.key_axes):
        return NotPredictedError(f"patches of {image!r} start at {axes}, and {len(key)} numbers were given",
                                 f"patchloom patch {run.path} {image} {axes.upper()}")
    if predictions.is_skipped(key):
        what = f"the patch of {image!r} at {' '.join(map(str, key))} was skipped"
        return NotPredictedError(what, f"the run was made with --skip {run.document.config.skip or 'and a function'}")
    nearest = predictions.nearest(key)
    hint = f"the nearest patch starts at {' '.join(map(str, nearest))}" if nearest else "the image has no patches there"
    return NotPredictedError(f"no patch of {image!r} starts at {' '.join(map(str, key))}", hint)


def _first(names: Any, most: int = 10_000) -> Any:
    return (name for name, _ in zip(names, range(most), strict=False))


def _save(file: Path, prediction: Any) -> None:
    import numpy as np

    if isinstance(prediction, Mapping):
        raise UsageError("--npy saves one head", f"--head with one of {', '.join(prediction)}")
    try:
        with file.open("wb") as opened:
            np.save(opened, prediction)
    except OSError as error:
        raise OutputError(f"{file} cannot be written: {error.strerror}", "choose another --npy") from None


def _summary(run: Run, head: Head, prediction: Any) -> Any:
    """What JSON says of a prediction: its numbers, or of a map what is in it."""
    if head.kind == "dense":
        return _map_summary(run, head, prediction)
    values = _numbers(prediction.reshape(-1) if prediction.ndim else prediction[None])
    if not head.shape:
        return values[0]
    return dict(zip(head.classes, values, strict=True)) if head.classes else values


def _map_summary(run: Run, head: Head, pixels: Any) -> dict[str, Any]:
    import numpy as np

    about: dict[str, Any] = {"shape": list(pixels.shape), "dtype": pixels.dtype.name}
    names = next(raw.classes for raw in run.layout.raw_heads if raw.name == head.name)
    if head.channels is None and pixels.dtype.kind in "iu" and names:
        values, counts = np.unique(pixels, return_counts=True)
        labels = (names[value] if 0 <= value < len(names) else "nodata" for value in values.tolist())
        return about | {"shares": {label: round(count / pixels.size, 6) for label, count in
                                   zip(labels, counts.tolist(), strict=True)}}
    if head.channels is None:
        return about | _statistics(pixels)
    return about | {"classes": {name: _statistics(channel) for name, channel in zip(head.classes, pixels, strict=True)}}


def _statistics(pixels: Any) -> dict[str, Any]:
    import numpy as np

    known = pixels[np.isfinite(pixels)]
    if not known.size:
        return {"min": None, "max": None, "mean": None}
    low, high = _numbers(np.array([known.min(), known.max()], pixels.dtype))
    return {"min": low, "max": high, "mean": round(float(known.mean(dtype="float64")), 6)}


def _numbers(values: Any) -> list[Any]:
    return list(shortest(values.tolist(), values.dtype.name)) if values.dtype.kind == "f" else values.tolist()


def _table(about: Mapping[str, Any]) -> list[str]:
    """Names and values, one a line; what is nested gets a name with dots."""
    rows = list(_flat(about))
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def _flat(about: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in about.items():
        if isinstance(value, Mapping):
            rows += _flat(value, before if name == "prediction" else f"{before}{name}.")
        else:
            rows.append((f"{before}{name}", " x ".join(map(str, value)) if name == "shape" else cell(value)))
    return rows
