"""Guesses the axes of arrays that do not say, and the blocks in which to read arrays that have none."""

from __future__ import annotations

from collections.abc import Sequence

from patchloom.errors import ImageMismatchError
from patchloom.geometry.axes import AXES, check_axes

__all__ = ["axes_or_guess", "blocks", "guess_axes", "stated_axes"]

MOST_CHANNELS = 4
"""An axis of at most this many is taken for channels."""
BLOCK = {"Z": 16, "Y": 512, "X": 512}


def guess_axes(shape: Sequence[int]) -> str | None:
    """Most likely axes of an array of `shape`, or None where there is no saying.

    Two axes are rows and columns. Three are ``YXC`` where the last is at most 4 long, else ``CYX`` where the first is,
    else ``ZYX``. Four are ``ZYXC`` where the last is at most 4 long, else ``CZYX``; five ``TCZYX`` and six ``STCZYX``.

    Examples
    --------
    >>> guess_axes((512, 512, 3)), guess_axes((40, 512, 512))
    ('YXC', 'ZYX')
    """
    first, last = (shape[0], shape[-1]) if shape else (0, 0)
    match len(shape):
        case 2:
            return "YX"
        case 3:
            return "YXC" if last <= MOST_CHANNELS else "CYX" if first <= MOST_CHANNELS else "ZYX"
        case 4:
            return "ZYXC" if last <= MOST_CHANNELS else "CZYX"
        case 5 | 6:
            return AXES[-len(shape) :]
    return None


def stated_axes(names: object, ndim: int) -> str | None:
    """Axes out of names of dimensions, where these are letters of ours; case does not matter."""
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and len(name) == 1 for name in names):
        return None
    try:
        return check_axes("".join(names), (1,) * ndim)
    except ValueError:
        return None


def axes_or_guess(where: object, shape: Sequence[int], axes: str | None, stated: str | None = None) -> str:
    """Axes that the user names, else those that the file states, else a guess.

    Parameters
    ----------
    where
        File or name, for messages.
    shape
        Extents of the array.
    axes, stated
        From the user and from the file.

    Raises
    ------
    ImageMismatchError
        If the user's axes do not fit, or there is nothing to go by.
    """
    found = axes or stated or guess_axes(shape)
    shown = " x ".join(map(str, shape))
    if found is None:
        raise ImageMismatchError(f"{where}: an array of shape ({shown}) is not an image as it is",
                                 "name its axes with --axes; letters out of STCZYX, Y and X among them")
    try:
        found = check_axes(found, shape)
    except ValueError as error:
        raise ImageMismatchError(f"{where}: {error}", "correct --axes, or leave it out") from None
    if min(shape) < 1:
        raise ImageMismatchError(f"{where}: an array of shape ({shown}) has no pixels", "leave it out")
    return found


def blocks(axes: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Extents in which to read an array that can be read anywhere: one S and T, all channels, 512 rows and columns."""
    whole = {"C": max(shape, default=1), "S": 1, "T": 1} | BLOCK
    return tuple(min(n, whole[letter]) for letter, n in zip(axes, shape, strict=True))
