"""Arithmetic that places patches on an image; every question is answered in constant time and memory."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Literal, get_args

from patchloom.geometry.region import Region

__all__ = ["Edge", "Grid", "GridAxis", "Patch"]

Edge = Literal["shift", "pad", "drop"]


@dataclass(frozen=True, slots=True)
class GridAxis:
    """Patches along one axis of `size` pixels.

    Starts are ``range(0, size - patch, stride)`` and then a last one: at ``size - patch`` (`shift`), the one that
    reaches `size` (`pad`), or none but those that fit (`drop`). An axis shorter than a patch has one patch at 0,
    which reaches over the end (none with `drop`). Under `crop` patches hand over at multiples of `step`.
    """

    size: int
    patch: int
    stride: int
    edge: Edge = "shift"
    step: int = 1

    def __post_init__(self) -> None:
        if self.size < 1 or self.patch < 1 or self.stride < 1:
            raise ValueError(f"size, patch and stride are at least 1, not {self.size}, {self.patch}, {self.stride}")
        if self.edge not in get_args(Edge):
            raise ValueError(f"edge is one of {', '.join(get_args(Edge))}, not {self.edge!r}")

    @property
    def count(self) -> int:
        """Number of patches."""
        if self.edge == "drop":
            return max(0, (self.size - self.patch) // self.stride + 1)
        reaching = max(0, -(-(self.size - self.patch) // self.stride)) + 1
        if self.edge == "shift":
            return reaching
        return min(reaching, -(-self.size // self.stride))

    def start(self, i: int) -> int:
        """First pixel of patch `i`."""
        if self.edge == "shift":
            return min(i * self.stride, max(0, self.size - self.patch))
        return i * self.stride

    def index_of(self, start: int) -> int | None:
        """Patch that starts at pixel `start`, or None."""
        i = self.count - 1 if start == self.start(self.count - 1) else start // self.stride
        return i if 0 <= i < self.count and self.start(i) == start else None

    def cut(self, i: int) -> int:
        """Pixel at which patch `i` hands over to `i + 1` under `crop`: the middle of what they share."""
        here, following = self.start(i), self.start(i + 1)
        middle = following + (here + self.patch - following) // 2
        return middle - middle % self.step

    def owned(self, i: int) -> tuple[int, int]:
        """Pixels ``[a, b)`` that patch `i` owns under `crop`: the first from 0, the last to the end."""
        start = self.start(i)
        first = start if i == 0 else max(start, self.cut(i - 1))
        stop = start + self.patch if i == self.count - 1 else min(start + self.patch, self.cut(i))
        return first, min(stop, self.size)

    def covering(self, first: int, stop: int) -> range:
        """Patches that cover any pixel of ``[first, stop)``."""
        low = self._starting_before(first - self.patch + 1)
        return range(low, max(low, self._starting_before(stop)) if first < stop else low)

    def owners(self, first: int, stop: int) -> range:
        """Patches that own any pixel of ``[first, stop)`` under `crop`."""
        near, patches = self.covering(first, stop), range(self.count)
        low = bisect_right(patches, first, near.start, near.stop, key=lambda i: self.owned(i)[1])
        return range(low, bisect_left(patches, stop, low, near.stop, key=lambda i: self.owned(i)[0]))

    def starting_in(self, first: int, stop: int) -> range:
        """Patches whose first pixel lies in ``[first, stop)``."""
        return range(self._starting_before(first), self._starting_before(stop))

    def final_after(self, i: int, *, owned: bool) -> int:
        """Pixels ``[0, n)`` that no patch after `i` touches: by ownership (`crop`) or by cover (weighted blends)."""
        if i >= self.count - 1:
            return self.size
        return self.owned(i + 1)[0] if owned else self.start(i + 1)

    def scaled(self, scale: Fraction) -> GridAxis:
        """Axis of a head whose map has `scale` times as many pixels; patches hand over where they do on the image."""
        lengths = (self.size * scale, self.patch * scale, self.stride * scale)
        if any(length.denominator != 1 for length in lengths):
            raise ValueError(
                f"size, patch and stride {self.size}, {self.patch}, {self.stride} are no multiples of "
                f"{scale.denominator}"
            )
        size, patch, stride = (int(length) for length in lengths)
        return GridAxis(size, patch, stride, self.edge, self.step * scale.numerator)

    def _starting_before(self, pixel: int) -> int:
        count = self.count
        if not count or self.start(count - 1) < pixel:
            return count
        # Only the last patch may stand elsewhere than at a multiple of the stride.
        return min(max(0, -(-pixel // self.stride)), count - 1)


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch of a grid.

    Parameters
    ----------
    index
        Its number, row by row.
    place
        ``(row, col)``, or ``(slab, row, col)`` in 3-D.
    region
        Pixels that the model sees; reaches over the edge of the image where the image is smaller or padded.
    """

    index: int
    place: tuple[int, ...]
    region: Region


@dataclass(frozen=True)
class Grid:
    """Patches on the plane (2-D) or volume (3-D) of an image, row by row.

    Parameters
    ----------
    axes
        One `GridAxis` for each spatial axis, (y, x) or (z, y, x).

    Examples
    --------
    >>> grid = Grid.of((1000, 2000), patch=512, stride=448)
    >>> len(grid), grid.counts
    (15, (3, 5))
    >>> grid[2, 4].region
    Region(start=(488, 1488), shape=(512, 512))
    >>> grid.index_of((488, 1488))
    14
    """

    axes: tuple[GridAxis, ...]

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        patch: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        *,
        overlap: int | Sequence[int] | None = None,
        edge: Edge = "shift",
    ) -> Grid:
        """Grid on an array of `shape`; numbers count pixels, one for all axes or one an axis.

        Raises
        ------
        ValueError
            If both `stride` and `overlap` are given, or the overlap is not below the patch.
        """
        patches = per_axis(patch, len(shape))
        if stride is not None and overlap is not None:
            raise ValueError("stride excludes overlap")
        if stride is not None:
            strides = per_axis(stride, len(shape))
        else:
            strides = tuple(p - o for p, o in zip(patches, per_axis(overlap or 0, len(shape)), strict=True))
        if any(s < 1 for s in strides):
            raise ValueError(f"overlap is below the patch {patches}, so that the stride {strides} is at least 1")
        return cls(tuple(GridAxis(n, p, s, edge) for n, p, s in zip(shape, patches, strides, strict=True)))

    @classmethod
    def through(cls, starts: Sequence[Iterable[int]], shape: Sequence[int], patch: Sequence[int]) -> Grid:
        """Grid on an array of `shape` whose patches start at these pixels of each axis, in any order.

        Raises
        ------
        ValueError
            If no stride and edge give these starts.

        Examples
        --------
        >>> Grid.through([{0, 24, 32}], (64,), (32,)).axes[0]
        GridAxis(size=64, patch=32, stride=24, edge='shift', step=1)
        """
        return cls(tuple(map(_axis_through, starts, shape, patch)))

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of patches on each axis."""
        return tuple(axis.count for axis in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels on each axis that the grid was laid on."""
        return tuple(axis.size for axis in self.axes)

    @property
    def patch(self) -> tuple[int, ...]:
        """Pixels of a patch on each axis."""
        return tuple(axis.patch for axis in self.axes)

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __iter__(self) -> Iterator[Patch]:
        return (self[place] for place in itertools.product(*map(range, self.counts)))

    def __getitem__(self, key: int | tuple[int, ...]) -> Patch:
        place = self.place_of(key) if isinstance(key, int) else key
        if len(place) != len(self.axes) or any(not 0 <= i < n for i, n in zip(place, self.counts, strict=True)):
            raise IndexError(f"no patch {place} in a grid of {self.counts}")
        index = 0
        for i, n in zip(place, self.counts, strict=True):
            index = index * n + i
        return Patch(index, place, Region(self.start(place), self.patch))

    def place_of(self, index: int) -> tuple[int, ...]:
        """Place of patch number `index`; negative numbers count from the end."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"no patch {index} in a grid of {len(self)}")
        index %= len(self)
        place = []
        for n in reversed(self.counts):
            index, i = divmod(index, n)
            place.append(i)
        return tuple(reversed(place))

    def start(self, place: Sequence[int]) -> tuple[int, ...]:
        """First pixel of the patch at `place`."""
        return tuple(axis.start(i) for axis, i in zip(self.axes, place, strict=True))

    def index_of(self, start: Sequence[int]) -> int | None:
        """Number of the patch that starts at pixel `start`, or None."""
        if len(start) != len(self.axes):
            return None
        index = 0
        for axis, pixel in zip(self.axes, start, strict=True):
            i = axis.index_of(pixel)
            if i is None:
                return None
            index = index * axis.count + i
        return index

    def owned(self, place: Sequence[int]) -> Region:
        """Pixels that the patch at `place` owns under `crop`."""
        first, stop = zip(*(axis.owned(i) for axis, i in zip(self.axes, place, strict=True)), strict=True)
        return Region.between(first, stop)

    def covering(self, region: Region) -> tuple[range, ...]:
        """Patches that cover any pixel of `region`, as a range on each axis."""
        return tuple(axis.covering(a, b) for axis, a, b in zip(self.axes, region.start, region.stop, strict=True))

    def owners(self, region: Region) -> tuple[range, ...]:
        """Patches that own any pixel of `region` under `crop`, as a range on each axis."""
        return tuple(axis.owners(a, b) for axis, a, b in zip(self.axes, region.start, region.stop, strict=True))

    def starting_in(self, region: Region) -> tuple[range, ...]:
        """Patches whose origin lies in `region`, as a range on each axis."""
        return tuple(axis.starting_in(a, b) for axis, a, b in zip(self.axes, region.start, region.stop, strict=True))

    def final_after(self, row: int, *, owned: bool) -> int:
        """Output rows ``[0, n)`` that are final once patch rows up to `row` are predicted."""
        return self.axes[0].final_after(row, owned=owned)

    def scaled(self, scale: Sequence[Fraction]) -> Grid:
        """Grid of a head whose map has `scale` times as many pixels on each axis."""
        return Grid(tuple(axis.scaled(s) for axis, s in zip(self.axes, scale, strict=True)))


def _axis_through(starts: Iterable[int], size: int, patch: int) -> GridAxis:
    found = sorted({int(start) for start in starts})
    stride = found[1] - found[0] if len(found) > 1 else max(patch, size)
    for edge in get_args(Edge):
        axis = GridAxis(size, patch, stride, edge)
        if axis.count == len(found) and all(axis.start(i) == start for i, start in enumerate(found)):
            return axis
    shown = ", ".join(map(str, found[:8])) + (", …" if len(found) > 8 else "")
    raise ValueError(f"starts {shown} are those of no grid of patches of {patch} on {size} pixels")


def per_axis(value: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    """One number for each axis, out of one for all or one an axis."""
    values = (int(value),) * ndim if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != ndim:
        raise ValueError(f"{values} has {len(values)} numbers for {ndim} axes")
    return values
