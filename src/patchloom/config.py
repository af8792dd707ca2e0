"""Every option of a run, once: its name in Python, on the command line and in a config file, default and meaning."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import tomli_w

from patchloom.errors import UsageError
from patchloom.geometry.blend import Blend
from patchloom.geometry.grid import Edge
from patchloom.parsing import (
    EXECUTORS,
    Shard,
    Whole,
    at_least,
    auto_or_count,
    axes_letters,
    channel_list,
    executor,
    filter_text,
    finite,
    integer,
    memory_size,
    number,
    numbers,
    one_of,
    patch_size,
    plane_size,
    reductions,
    shard_of,
    unique_names,
    workers,
    yes_or_no,
)

__all__ = ["CHANGES_PREDICTIONS", "LIVE", "OPTIONS", "Config", "Option", "Pad", "read_toml", "write_toml"]

Pad = Literal["reflect", "edge", "constant"]
OnError = Literal["record", "raise"]
Combining = Literal["mean", "vote"]
Sides = Literal["none", "flips", "d4"]
Group = Literal["Patches", "Model", "Output", "Execution", "Input"]


@dataclass(frozen=True)
class Option:
    """What the command line shows about one option, and how its value is read."""

    group: Group
    help: str
    parse: Callable[[object], Any] = str
    metavar: str = "TEXT"
    is_flag: bool = False
    choices: tuple[str, ...] = ()


def _option(group: Group, help_: str, default: Any, **about: Any) -> Any:
    return field(default=default, metadata={"option": Option(group, help_, **about)})


def _choice(group: Group, help_: str, default: str, type_: Any) -> Any:
    choices = get_args(type_)
    return _option(group, help_, default, parse=one_of(choices), choices=choices, metavar="|".join(choices))


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of a run, parsed and checked; unset options are None.

    Values may be given as Python objects or as the texts that a command line has: ``Config(patch="512,256")``.

    Raises
    ------
    UsageError
        Naming the option, what it takes and what it was given.
    """

    patch: tuple[int, ...] | Whole | None = _option(  # noqa: RUF009
        "Patches",
        "Patch size in pixels, one number or one an axis (y,x; z first in 3-D), or image: the whole image is the "
        "patch. Default: the model's fixed input, else 512.",
        None,
        parse=patch_size,
        metavar="N[,N]|image",
    )
    resize: tuple[int, ...] | None = _option(
        "Patches",
        "For --patch image: make the shorter side this long, or the image exactly y,x, antialiased.",
        None,
        parse=plane_size,
        metavar="N[,N]",
    )
    centre_crop: tuple[int, ...] | None = _option(
        "Patches", "For --patch image: then take the centre of this size.", None, parse=plane_size, metavar="N[,N]"
    )
    overlap: tuple[int, ...] | None = _option(
        "Patches", "Pixels that neighbouring patches share. Default 0.", None, parse=at_least(0), metavar="N[,N]"
    )
    stride: tuple[int, ...] | None = _option(
        "Patches", "Pixels from one patch to the next, instead of --overlap.", None, parse=at_least(1), metavar="N[,N]"
    )
    edge: Edge = _choice(  # noqa: RUF009
        "Patches",
        "At the far edges: move the last patch inward, pad the image, or drop what does not fit.",
        "shift",
        Edge,
    )
    pad: Pad = _choice(  # noqa: RUF009
        "Patches", "How to pad where --edge pad does, and images smaller than a patch.", "reflect", Pad
    )
    fill: float = _option("Patches", "Value for --pad constant.", 0.0, parse=number, metavar="NUMBER")
    blend: Blend = _choice("Patches", "How overlapping predictions become one.", "crop", Blend)  # noqa: RUF009
    skip: str | None = _option(
        "Patches",
        "Patches not worth predicting: background, background:0.05 (least share of foreground), "
        "variance:T (least standard deviation), mask:FOLDER or MODULE:FUNCTION.",
        None,
        parse=filter_text,
        metavar="FILTER",
    )

    axes: str | None = _option(
        "Input",
        "Axes of the images where the files do not say, such as YXC or TCYX.",
        None,
        parse=axes_letters,
        metavar="LETTERS",
    )
    channels: tuple[int | str, ...] | None = _option(
        "Input",
        "Channels that the model gets, by index or name, in this order.",
        None,
        parse=channel_list,
        metavar="N[,N]",
    )
    level: int = _option("Input", "Resolution level to read, 0 the finest.", 0, parse=integer, metavar="N")
    query: str | None = _option(
        "Input", "Of a database: a select that gives one row an image (MongoDB: a filter as JSON).", None, metavar="SQL"
    )
    table: str | None = _option("Input", "Of a database: a table or collection instead of --query.", None)
    key: str | None = _option(
        "Input",
        "Column whose values name the images. Default: the first of --query, the primary key of --table.",
        None,
        metavar="COLUMN",
    )
    image: str | None = _option(
        "Input",
        "Column of encoded images or of their paths. Default: the second of --query.",
        None,
        metavar="COLUMN",
    )
    root: str | None = _option(
        "Input", "Folder that paths in a database begin in and may not lead out of.", None, metavar="FOLDER"
    )
    scale: float | None = _option(
        "Model",
        "Divide pixels by this before --mean and --std (255 for most 8-bit models).",
        None,
        parse=finite,
        metavar="NUMBER",
    )
    mean: tuple[float, ...] | None = _option(
        "Model", "Subtract this, one number or one a channel.", None, parse=numbers, metavar="NUMBER[,NUMBER]"
    )
    std: tuple[float, ...] | None = _option(
        "Model", "Then divide by this, one number or one a channel.", None, parse=numbers, metavar="NUMBER[,NUMBER]"
    )
    preprocess: str | None = _option(
        "Model", "Your own step on a batch, after the above.", None, metavar="MODULE:FUNCTION"
    )
    reduce: tuple[str, ...] = _option(
        "Model",
        "softmax, sigmoid, argmax, threshold:T, uint8 or float16, several in order; HEAD=… for one head.",
        (),
        parse=reductions,
        metavar="STEP[,STEP]",
    )
    classes: tuple[str, ...] | None = _option(
        "Model", "Names of the channels of the prediction.", None, parse=unique_names, metavar="NAME[,NAME]"
    )
    ensemble: Combining = _choice(  # noqa: RUF009
        "Model", "How several models (-m A -m B) become one: average scores, or vote for classes.", "mean", Combining
    )
    tta: Sides = _choice(  # noqa: RUF009
        "Model", "Predict flipped copies of patches, too, or (d4) also turned ones, and turn the answers back.", "none",
        Sides
    )
    arch: str | None = _option(
        "Model", "Builds the module that a state dict is loaded into.", None, metavar="MODULE:BUILDER"
    )
    model_id: str | None = _option("Model", "Name of a live model that cannot be hashed.", None)
    allow_pickle: bool = _option(
        "Model",
        "Run code that the model file contains. Only for files that you trust.",
        False,
        parse=yes_or_no,
        is_flag=True,
    )

    nodata: float | None = _option(
        "Output",
        "Value of output that was never predicted. Default: NaN, or the largest integer.",
        None,
        parse=number,
        metavar="NUMBER",
    )
    store: str | None = _option(
        "Output",
        "Where predictions without a map live: json:FOLDER, sqlite:///FILE, redis://, postgresql://, mysql://, "
        "mongodb://. Default: the run's folder.",
        None,
        metavar="URL",
    )
    write_back: str | None = _option(
        "Output", "Table of the source's SQL database that gets the predictions, too, by the source's key.", None,
        metavar="TABLE",
    )
    batch: int | Literal["auto"] = _option(
        "Execution", "Patches a forward pass.", "auto", parse=auto_or_count, metavar="N|auto"
    )
    device: str = _option("Execution", "cpu, cuda:0 or auto.", "auto", metavar="NAME")
    threads: int | Literal["auto"] = _option(
        "Execution", "Pipeline threads; auto is one a core.", "auto", parse=auto_or_count, metavar="N|auto"
    )
    memory: int | None = _option(
        "Execution",
        "Memory that the run may take, such as 4GB. Default: a quarter of the machine's.",
        None,
        parse=memory_size,
        metavar="SIZE",
    )
    executor: Any = _option(  # noqa: RUF009
        "Execution",
        "Who runs the units: this process, or workers on a Ray cluster (the one of RAY_ADDRESS, one on this machine, "
        "or one that is started for the run).",
        "local",
        parse=executor,
        choices=EXECUTORS,
        metavar="|".join(EXECUTORS),
    )
    workers: int | Literal["autoscale"] | None = _option(
        "Execution",
        "How many workers executor ray has; autoscale: as many as it gets. Default: one a GPU, else one a node.",
        None,
        parse=workers,
        metavar="N|autoscale",
    )
    shard: Shard | None = _option(  # noqa: RUF009
        "Execution",
        "Predict one share of the images, for job arrays: 3/16 is the third of sixteen processes that fill one run. "
        "The same number again goes on with its share.",
        None,
        parse=shard_of,
        metavar="N/M",
    )
    on_error: OnError = _choice(  # noqa: RUF009
        "Execution", "Record a failed image and go on, or raise.", "record", OnError
    )

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            if value is None or (name in LIVE and not isinstance(value, str)):
                continue
            try:
                object.__setattr__(self, name, option.parse(value))
            except (ValueError, TypeError) as error:
                raise UsageError(f"{name}: {error}", f"see `patchloom predict --help`, --{flag(name)}") from None
        self._check()

    def _check(self) -> None:
        if self.stride is not None and self.overlap is not None:
            raise UsageError("stride and overlap exclude each other", "give one of the two")
        self._check_whole()
        if isinstance(self.patch, tuple) and self.overlap is not None:
            patch, overlap = _paired(self.patch, self.overlap)
            if any(o >= p for p, o in zip(patch, overlap, strict=True)):
                raise UsageError(
                    f"overlap {shown(self.overlap)} is not below patch {shown(self.patch)}",
                    "choose a smaller overlap or a larger patch",
                )
        for name in ("scale", "std"):
            value = getattr(self, name)
            if value is not None and 0 in (value if isinstance(value, tuple) else (value,)):
                raise UsageError(f"{name} cannot be 0", "pixels are divided by it")
        if self.level < 0:
            raise UsageError(f"level {self.level} does not exist", "0 is the finest level")

    def _check_whole(self) -> None:
        for name in ("resize", "centre_crop"):
            if getattr(self, name) is not None and self.patch != "image":
                raise UsageError(f"{name} is for whole images", f"give --patch image with --{flag(name)}")
        if self.patch == "image" and (self.stride is not None or self.overlap is not None):
            raise UsageError("whole images have no stride and no overlap", "leave them out with --patch image")
        if self.resize is not None and self.centre_crop is not None:
            crop, size = _paired(self.centre_crop, self.resize)
            # Of one number only the shorter side is known.
            if min(crop) > size[0] if len(self.resize) == 1 else any(c > n for c, n in zip(crop, size, strict=True)):
                raise UsageError(
                    f"centre_crop {shown(self.centre_crop)} is larger than resize {shown(self.resize)}",
                    "choose a smaller --centre-crop or a larger --resize",
                )

    def replace(self, **changes: Any) -> Config:
        """Copy with some options changed."""
        return dataclasses.replace(self, **changes)

    def changed(self) -> dict[str, Any]:
        """Options that differ from their defaults, as JSON and TOML can hold them."""
        values = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value != item.default:
                values[item.name] = list(value) if isinstance(value, tuple) else value
        return values


def _paired(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    n = max(len(a), len(b))
    a, b = (value * n if len(value) == 1 else value for value in (a, b))
    if len(a) != len(b):
        raise UsageError(f"{shown(a)} and {shown(b)} have different numbers of axes", "give one number, or one an axis")
    return a, b


def shown(value: Any) -> str:
    """Value as a user would type it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def flag(name: str) -> str:
    """Name of an option on the command line."""
    return name.replace("_", "-")


OPTIONS: Mapping[str, Option] = {item.name: item.metadata["option"] for item in dataclasses.fields(Config)}
"""All options by name, in the order in which help shows them."""

CHANGES_PREDICTIONS = (
    "patch",
    "resize",
    "centre_crop",
    "overlap",
    "stride",
    "edge",
    "pad",
    "fill",
    "blend",
    "skip",
    "axes",
    "channels",
    "level",
    "scale",
    "mean",
    "std",
    "preprocess",
    "reduce",
    "classes",
    "ensemble",
    "tta",
    "nodata",
)
"""Options that are part of the fingerprint."""

LIVE = ("preprocess", "skip")
"""Options that may be Python objects in place of texts."""


def read_toml(path: Path) -> dict[str, Any]:
    """Options out of a config file, besides `source`, `model` and `out`.

    Raises
    ------
    UsageError
        If the file cannot be read or holds a name that is no option.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}", "a config file is TOML with the names of the flags") from None
    known = {*OPTIONS, "source", "model", "out", "fail_fast"}
    unknown = [name for name in values if name.replace("-", "_") not in known]
    if unknown:
        raise UsageError(f"{path}: unknown option {unknown[0]!r}", f"options are {', '.join(sorted(known))}")
    options = {name.replace("-", "_"): value for name, value in values.items()}
    if "fail_fast" in options:  # the flag of `on_error`, which has none of its own name
        options["on_error"] = "raise" if options.pop("fail_fast") else "record"
    return options


def write_toml(path: Path, values: Mapping[str, Any]) -> None:
    """Write options as a config file that `read_toml` takes."""
    path.write_text(tomli_w.dumps(dict(values)), encoding="utf-8")
