"""Names the axes of a TIFF series: what tifffile found, in the letters STCZYX."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchloom.errors import ImageMismatchError, UnreadableImageError
from patchloom.geometry.axes import check_axes

__all__ = ["SeriesAxes", "series_axes"]

PAGE_PLACES = "SDYXC"
"""Axes of one page as `Level` orders them: planes of samples, depth, rows, columns, interleaved samples."""

Dims = list[tuple[str, int]]


@dataclass(frozen=True)
class SeriesAxes:
    """How pages are put together.

    Parameters
    ----------
    letters
        Axes of the image, in the file's order.
    lead
        Extents of the axes that pages are numbered by.
    places
        For each letter, its place in ``(*lead, S, D, Y, X, C)``.
    """

    letters: str
    lead: tuple[int, ...]
    places: tuple[int, ...]


def series_axes(path: Path, series: Any, samples: int, axes: str | None) -> SeriesAxes:
    """Axes of a series.

    Samples of a pixel are ``C``. Pages that the metadata order by channel, slice or time are ``C``, ``Z``, ``T``; pages
    that are merely one after the other are ``S``. Axes of extent 1 are left out, except Y and X.

    Parameters
    ----------
    path
        For messages.
    series
        A `tifffile.TiffPageSeries`.
    samples
        Interleaved samples of a decoded pixel; 3 where a palette is looked up.
    axes
        Names that the user gives.
    """
    page = _page_dims(series.keyframe, samples)
    whole = list(zip(series.get_axes(False), map(int, series.get_shape(False)), strict=True))
    lead = _lead_dims(whole, page, series)
    if axes is not None:
        return _named(path, axes, lead, page, whole)
    stated = _stated(lead, page, whole)
    if stated is None:
        obvious = "".join({"S": "C", "D": "Z"}.get(place, place) for place, _ in page)
        lead = _lead_groups(path, lead, obvious)
        stated = "".join(letter for letter, _ in lead) + obvious
    return _placed(stated, lead, page)


def _squeezed(dims: Dims) -> Dims:
    return [(letter, n) for letter, n in dims if n > 1 or letter in "YX"]


def _page_dims(keyframe: Any, samples: int) -> Dims:
    """Places within a page that have an extent; rows and columns always."""
    extents = (*keyframe.shaped[:4], samples)
    return [(place, int(n)) for place, n in zip(PAGE_PLACES, extents, strict=True) if n > 1 or place in "YX"]


def _lead_dims(whole: Dims, page: Dims, series: Any) -> Dims:
    """Axes of the series in front of those of its pages."""
    own = [n for place, n in page if not (place == "C" and n != series.keyframe.shaped[4])]
    dims = _squeezed(whole)
    cut = len(dims) - len(own)
    pages = len(series)
    if [n for _, n in dims[cut:]] == own and cut >= 0 and math.prod(n for _, n in dims[:cut]) == pages:
        return dims[:cut]
    return [("I", pages)] if pages > 1 else []


def _stated(lead: Dims, page: Dims, whole: Dims) -> str | None:
    """Letters of the metadata, where all of them are ours and fit."""
    dims = _squeezed(whole)
    if lead and dims[: len(lead)] != lead:
        return None
    letters = "".join("C" if letter == "S" else letter for letter, _ in dims)
    try:
        return check_axes(letters, [n for _, n in (*lead, *page)])
    except ValueError:
        return None


def _placed(letters: str, lead: Dims, page: Dims) -> SeriesAxes:
    places = (PAGE_PLACES.index(place) + len(lead) for place, _ in page)
    return SeriesAxes(letters, tuple(n for _, n in lead), (*range(len(lead)), *places))


def _lead_groups(path: Path, lead: Dims, taken: str) -> Dims:
    """Letters for the axes of pages; what has no letter of ours becomes S, neighbours together."""
    named: Dims = []
    for letter, n in lead:
        known = letter in "TCZ" and letter not in taken and letter not in (other for other, _ in named)
        named.append((letter if known else "?", n))
    free = [letter for letter in "STZ" if letter not in taken and letter not in (other for other, _ in named)]
    groups: Dims = []
    for letter, run in itertools.groupby(named, key=lambda dim: dim[0]):
        extents = [n for _, n in run]
        if letter == "?":
            if not free:
                shown = "".join(letter for letter, _ in lead) + taken
                raise UnreadableImageError(f"{path}: axes {shown} cannot be told apart", "name them with --axes")
            letter = free.pop(0)
        groups.append((letter, math.prod(extents)))
    return groups


def _named(path: Path, axes: str, lead: Dims, page: Dims, whole: Dims) -> SeriesAxes:
    """Axes that the user names, with or without those of extent 1."""
    shape = tuple(n for _, n in (*lead, *page))
    full = tuple(n for _, n in whole)
    try:
        if len(axes) == len(full) != len(shape) and _squeezed(list(zip(axes, full, strict=True))):
            check_axes(axes, full)
            axes = "".join(letter for letter, n in zip(axes, full, strict=True) if n > 1 or letter in "YX")
        letters = check_axes(axes, shape)
    except ValueError as error:
        raise ImageMismatchError(f"{path}: {error}", "correct --axes, or leave it out") from None
    return _placed(letters, lead, page)
