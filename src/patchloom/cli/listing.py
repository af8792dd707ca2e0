"""Listings: an aligned table, one JSON document, or one JSON object a line; all of them stream."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

__all__ = ["cell", "json_text", "print_array", "print_lines", "print_rows", "print_table"]

Row = Mapping[str, Any]
LOOK_AHEAD = 1000
"""Rows whose width decides that of the columns."""
SHOWN = 4
"""Numbers of a vector that a cell shows."""


def print_rows(rows: Iterable[Row], columns: Sequence[str], *, document: bool, lines: bool) -> None:
    """Print rows as the user asked: ``--json``, ``--nl``, or else a table of `columns`."""
    if document:
        print_array(rows)
    elif lines:
        print_lines(rows)
    else:
        print_table(rows, columns)


def print_array(rows: Iterable[Row], before: str = "[", after: str = "]") -> None:
    """Print one JSON document that holds all rows."""
    click.echo(before, nl=False)
    for i, row in enumerate(rows):
        click.echo(("," if i else "") + json_text(row), nl=False)
    click.echo(after)


def print_lines(rows: Iterable[Row]) -> None:
    """Print one JSON object a line."""
    for row in rows:
        click.echo(json_text(row))


def print_table(rows: Iterable[Row], columns: Sequence[str]) -> None:
    """Print aligned columns under their names."""
    texts = ([cell(row[name]) for name in columns] for row in rows)
    first = [list(columns), *itertools.islice(texts, LOOK_AHEAD)]
    widths = [max(len(row[i]) for row in first) for i in range(len(columns))]
    for row in itertools.chain(first, texts):
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def cell(value: Any) -> str:
    """Value as a table shows it: three decimals, no line breaks."""
    if isinstance(value, float):
        return f"{value:.3f}" if not math.isfinite(value) or abs(value) >= 5e-4 or value == 0 else f"{value:.1e}"
    if isinstance(value, list):
        more = f", … {len(value)} in all" if len(value) > SHOWN else ""
        return f"[{', '.join(cell(item) for item in value[:SHOWN])}{more}]"
    return "" if value is None else " ".join(str(value).split("\n"))


def json_text(value: Any) -> str:
    """JSON in one line; numbers that JSON does not have are null."""
    try:
        return _encode(value)
    except ValueError:
        return _encode(_finite(value))


def _encode(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shortest(values: Iterable[Any], dtype: str) -> Iterator[Any]:
    """Floats of fewer bits than Python's, as the shortest decimal that means them: 0.97, not 0.9700000286."""
    import numpy as np

    kind = np.dtype(dtype).type
    return (value if value is None else float(str(kind(value))) for value in values)
