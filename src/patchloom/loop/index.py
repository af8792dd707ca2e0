"""Which patch is number i of a source: arithmetic on sums over images, and no list of patches."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.grid import Grid
from patchloom.geometry.region import Region

__all__ = ["Located", "PatchIndex", "PlaneLayout"]


@dataclass(frozen=True)
class PlaneLayout:
    """What images of one size have in common.

    Parameters
    ----------
    grid
        Of each plane.
    loop_axes, loop_shape
        Axes that are not in a patch, in the order STZ, and their extents; these multiply to the number of planes, or
        samples.
    """

    grid: Grid
    loop_axes: str = ""
    loop_shape: tuple[int, ...] = ()

    @property
    def planes(self) -> int:
        """Number of planes."""
        return math.prod(self.loop_shape)

    @property
    def patches(self) -> int:
        """Number of patches on all planes."""
        return self.planes * len(self.grid)


class Located(NamedTuple):
    """Where a patch is: number of its image, of its plane (the sample) in the image, and of itself in the plane."""

    image: int
    sample: int
    patch: int


class PatchIndex:
    """All patches of all images, image by image, plane by plane, row by row.

    Parameters
    ----------
    layouts
        Of the images, each different one once.
    layout_of
        For each image the number of its layout, -1 for an image that has no patches.

    Examples
    --------
    >>> layout = PlaneLayout(Grid.of((64, 96), patch=32), "T", (2,))
    >>> index = PatchIndex([layout], [0, 0])
    >>> len(index), index.locate(13)
    (24, Located(image=1, sample=0, patch=1))
    """

    def __init__(self, layouts: Sequence[PlaneLayout], layout_of: Iterable[int]) -> None:
        self.layouts = tuple(layouts)
        self.layout_of = np.asarray(array("i", layout_of), np.int32)
        self.first = self.sums(layout.patches for layout in self.layouts)
        """For each image the number of its first patch, and in the end the number of all."""

    def sums(self, counts: Iterable[int]) -> NDArray[np.int64]:
        """Numbers that each layout has, summed up image by image, with 0 in front."""
        each = np.array([*counts, 0], np.int64)  # the last one is that of images without a layout
        total = np.zeros(len(self.layout_of) + 1, np.int64)
        np.cumsum(each[self.layout_of], out=total[1:])
        return total

    def __len__(self) -> int:
        return int(self.first[-1])

    def layout(self, image: int) -> PlaneLayout | None:
        """Layout of an image, None where it has no patches."""
        number = self.layout_of[image]
        return None if number < 0 else self.layouts[number]

    def locate(self, i: int) -> Located:
        """Find patch number `i`; negative numbers count from the end.

        Raises
        ------
        IndexError
            If there is no such patch.
        """
        if not -len(self) <= i < len(self):
            raise IndexError(f"no patch {i} of {len(self)}")
        i %= len(self)
        image = int(np.searchsorted(self.first, i, "right")) - 1
        layout = self.layout(image)
        assert layout is not None
        sample, patch = divmod(i - int(self.first[image]), len(layout.grid))
        return Located(image, sample, patch)

    def number(self, image: int, sample: int, start: Sequence[int]) -> int | None:
        """Number of the patch that starts there, or None."""
        layout = self.layout(image)
        if layout is None or not 0 <= sample < layout.planes:
            return None
        patch = layout.grid.index_of(start)
        return None if patch is None else int(self.first[image]) + sample * len(layout.grid) + patch

    def region(self, at: Located) -> Region:
        """Pixels of a patch."""
        layout = self.layout(at.image)
        assert layout is not None
        return layout.grid[at.patch].region


def index_of(shapes: Iterable[tuple[int, ...] | None], layout_of: Callable[[int], PlaneLayout | None]) -> PatchIndex:
    """Index of images of which only one of each known shape is looked at.

    Parameters
    ----------
    shapes
        Of each image, None where it is not known.
    layout_of
        Layout of an image by its number, None where it has no patches.
    """
    layouts: dict[PlaneLayout, int] = {}
    known: dict[tuple[int, ...], int] = {}
    numbers = array("i")
    for i, shape in enumerate(shapes):
        number = known.get(shape) if shape is not None else None
        if number is None:
            layout = layout_of(i)
            number = -1 if layout is None else layouts.setdefault(layout, len(layouts))
            if shape is not None:
                known[tuple(shape)] = number
        numbers.append(number)
    return PatchIndex(list(layouts), numbers)
