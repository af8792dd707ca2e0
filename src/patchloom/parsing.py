"""Parsers of options: a Python object, or the text that a command line has, becomes a checked value.

Each raises ValueError saying what it takes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

from patchloom.geometry.axes import check_axes

__all__ = [
    "EXECUTORS",
    "Shard",
    "Whole",
    "at_least",
    "auto_or_count",
    "axes_letters",
    "channel_list",
    "executor",
    "filter_text",
    "finite",
    "integer",
    "integers",
    "memory_size",
    "names",
    "number",
    "numbers",
    "one_of",
    "patch_size",
    "plane_size",
    "reductions",
    "shard_of",
    "unique_names",
    "workers",
    "yes_or_no",
]

Whole = Literal["image"]
EXECUTORS = ("local", "ray")
"""Names of executors."""


class Shard(NamedTuple):
    """One of several processes that share a run.

    Parameters
    ----------
    number
        From 1 on.
    of
        How many there are.
    """

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def _items(value: object) -> list[Any]:
    if isinstance(value, str):
        return [item.strip() for item in value.split(",")]
    items = list(value) if isinstance(value, Iterable) else [value]
    if not items:
        raise ValueError("at least one value")
    return items


def integers(value: object) -> tuple[int, ...]:
    """``512``, ``"512,256"`` or ``[512, 256]`` as a tuple."""
    try:
        return tuple(int(str(item)) for item in _items(value))
    except ValueError:
        raise ValueError(f"whole numbers separated by commas, not {value!r}") from None


def integer(value: object) -> int:
    """One whole number."""
    try:
        return int(str(value))
    except ValueError:
        raise ValueError(f"a whole number, not {value!r}") from None


def number(value: object) -> float:
    """One number, infinite ones and NaN among them."""
    try:
        return float(str(value))
    except ValueError:
        raise ValueError(f"a number, not {value!r}") from None


def finite(value: object) -> float:
    """One number that is neither infinite nor NaN."""
    parsed = number(value)
    if not math.isfinite(parsed):
        raise ValueError(f"a finite number, not {value!r}")
    return parsed


def numbers(value: object) -> tuple[float, ...]:
    """``255``, ``"0.5,0.4,0.3"`` or ``[0.5, 0.4, 0.3]`` as a tuple."""
    try:
        return tuple(finite(item) for item in _items(value))
    except ValueError:
        raise ValueError(f"finite numbers separated by commas, not {value!r}") from None


def names(value: object) -> tuple[str, ...]:
    """``"stroma,tumour"`` or a list of names as a tuple."""
    items = tuple(str(item).strip() for item in _items(value))
    if not all(items):
        raise ValueError(f"names separated by commas, none of them empty, not {value!r}")
    return items


def unique_names(value: object) -> tuple[str, ...]:
    """Names of which no two are the same."""
    items = names(value)
    if len(set(items)) != len(items):
        raise ValueError(f"names that differ from one another, not {value!r}")
    return items


def memory_size(value: object) -> int:
    """Bytes of ``4GB``, ``500 MiB`` or a plain number of bytes."""
    text, factor = str(value).strip().lower().removesuffix("b"), 1
    binary = {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}
    factors = binary | {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
    for suffix, times in factors.items():
        if text.endswith(suffix):
            text, factor = text.removesuffix(suffix), times
            break
    try:
        size = int(float(text) * factor)
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise ValueError(f"a size such as 4GB, not {value!r}")
    return size


def auto_or_count(value: object) -> int | Literal["auto"]:
    """``auto`` or a number of at least 1."""
    if value == "auto":
        return "auto"
    try:
        count = int(str(value))
    except ValueError:
        count = 0
    if count < 1:
        raise ValueError(f"a number of at least 1, or auto, not {value!r}")
    return count


def yes_or_no(value: object) -> bool:
    """A flag; no text is one, so that ``"no"`` does not count as yes."""
    if not isinstance(value, bool):
        raise ValueError(f"true or false, not {value!r}")
    return value


def at_least(least: int) -> Callable[[object], tuple[int, ...]]:
    """Parser of whole numbers that are not below `least`."""

    def parse(value: object) -> tuple[int, ...]:
        parsed = integers(value)
        if any(number < least for number in parsed):
            raise ValueError(f"numbers of at least {least}, not {value!r}")
        return parsed

    return parse


def patch_size(value: object) -> tuple[int, ...] | Whole:
    """``image``, or whole numbers."""
    return "image" if value == "image" else at_least(1)(value)


def plane_size(value: object) -> tuple[int, ...]:
    """One number, or two (y, x)."""
    parsed = at_least(1)(value)
    if len(parsed) > 2:
        raise ValueError(f"one number, or two (y,x), not {value!r}")
    return parsed


def one_of(choices: tuple[str, ...]) -> Callable[[object], str]:
    """Parser that accepts one of `choices`."""

    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)}, not {value!r}")
        return str(value)

    return parse


def executor(value: object) -> Any:
    """Name of an executor, or one itself."""
    return value if hasattr(value, "start") else one_of(EXECUTORS)(value)


def workers(value: object) -> int | Literal["autoscale"]:
    """``autoscale`` or a number of at least 1."""
    if value == "autoscale":
        return "autoscale"
    try:
        count = auto_or_count(value)
    except ValueError:
        count = "auto"
    if count == "auto":
        raise ValueError(f"a number of at least 1, or autoscale, not {value!r}")
    return count


def axes_letters(value: object) -> str:
    """Axes such as ``YXC``."""
    return check_axes(str(value))


def channel_list(value: object) -> tuple[int | str, ...]:
    """Channels by index or by name."""
    items = names(value)
    return tuple(int(item) if item.lstrip("-").isdigit() else item for item in items)


def reductions(value: object) -> tuple[str, ...]:
    """Reductions in order: ``"sigmoid,threshold:0.5"``, ``"head=argmax"``, or a list of these."""
    return names(value) if value else ()


def filter_text(value: object) -> str:
    """A filter as text; the path of a mask is made absolute, so that it is found again from any folder."""
    name, colon, path = str(value).partition(":")
    return f"mask:{os.path.abspath(os.path.expanduser(path))}" if name == "mask" and path else f"{name}{colon}{path}"


def shard_of(value: object) -> Shard:
    """``3/16``, or the two numbers."""
    try:
        number, of = (int(str(item)) for item in (value.split("/") if isinstance(value, str) else _items(value)))
    except ValueError:
        raise ValueError(f"two numbers such as 3/16, not {value!r}") from None
    if not 1 <= number <= of:
        raise ValueError(f"1/{of} to {of}/{of}, not {number}/{of}")
    return Shard(number, of)
