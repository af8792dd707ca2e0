"""A batch of images that a loader already produced: cut into patches, and put together again."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Collection, Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from patchloom.config import Pad
from patchloom.errors import UsageError
from patchloom.geometry.blend import Blend, window
from patchloom.geometry.grid import Edge, Grid, GridAxis
from patchloom.geometry.placing import Placing
from patchloom.geometry.region import Region
from patchloom.loop import arrays
from patchloom.loop.arrays import Array

__all__ = ["merge_batch", "numbers", "split_batch"]

MOST_CHANNELS = 4
"""A last axis that is longer is never guessed to be the channels."""
SAY_LAYOUT = "say channels_last=True or channels_last=False"


def split_batch(
    images: Any,
    patch: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    *,
    overlap: int | Sequence[int] | None = None,
    edge: Edge = "shift",
    pad: Pad = "reflect",
    fill: float = 0,
    channels_last: bool | None = None,
) -> tuple[Array, Array]:
    """Cut a batch of images into patches, where `patchloom.predict` with the same options would.

    Parameters
    ----------
    images
        ``(N, C, Y, X)``, ``(N, C, Z, Y, X)``, or with the channels last; a NumPy array or a PyTorch tensor of any
        dtype and device. Gradients flow through tensors. What NumPy understands otherwise is taken as NumPy array.
    patch
        Pixels of a patch: one number, or one an axis, (y, x) or (z, y, x).
    stride, overlap
        Pixels from one patch to the next, or pixels that the two share; one excludes the other. No overlap by default.
    edge
        What happens to the pixels that are left over at the end of an axis: a last patch is shifted back to end with
        the image (`shift`) or padded (`pad`), or there is none (`drop`).
    pad, fill
        How patches that reach over the edge are padded: `reflect`, `edge`, or `constant` with the value `fill`. Images
        smaller than a patch are padded also with ``edge="shift"``.
    channels_last
        Whether the channels are the last axis. By default they are the second one; they are guessed to be the last
        only if that axis is at most 4 long, shorter than the patch, and the patch fits into the other axes.

    Returns
    -------
    patches
        ``(M, C, *patch)``, or ``(M, *patch, C)`` if the channels are last: image by image, row by row. A view of
        `images` where its strides allow that (whole rows of one image, for instance; writing to it writes to the
        images), otherwise one copy.
    regions
        int64 of ``(M, 1 + len(patch))``: sample, y, x or sample, z, y, x of the first pixel of each patch. NumPy for
        NumPy, otherwise a tensor on the device of the images.

    Raises
    ------
    UsageError
        If the images have the wrong number of axes or the patch the wrong number of numbers, or the overlap is not
        below the patch.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.arange(2 * 1 * 4 * 6).reshape(2, 1, 4, 6)
    >>> patches, regions = split_batch(images, patch=(4, 3))
    >>> patches.shape
    (4, 1, 4, 3)
    >>> regions.tolist()
    [[0, 0, 0], [0, 0, 3], [1, 0, 0], [1, 0, 3]]
    """
    images = arrays.as_array(images, "images")
    ndim = _spatial_axes("images", images.shape)
    extent = numbers(patch, "patch", ndim)
    if channels_last is None:
        channels_last = _looks_channels_last(images.shape, extent)
    first = 1 if channels_last else 2
    grid = _grid(images.shape[first : first + ndim], extent, stride, overlap, edge)
    if pad not in get_args(Pad):
        raise UsageError(f"pad is one of {', '.join(get_args(Pad))}, not {pad!r}")
    return _cut(images, grid, first, pad, fill), arrays.integers_like(_regions(len(images), grid), images)


def merge_batch(
    predictions: Any,
    regions: Any,
    shape: Sequence[int],
    blend: Blend = "crop",
    *,
    channels_last: bool | None = None,
    nodata: float | None = None,
) -> Array:
    """Put predictions of patches together, as `patchloom.predict` does for whole images.

    Parameters
    ----------
    predictions
        ``(M, K, *patch)``, ``(M, *patch, K)`` if the channels are last, or ``(M, *patch)``, as large as the patches. A
        NumPy array or a PyTorch tensor; gradients flow through tensors.
    regions
        Whole numbers of ``(M, 1 + len(patch))``, as `split_batch` gave them, in any order and for any part of the
        patches; list, array or tensor. A region that comes twice counts once: the last.
    shape
        Of the batch that was split: ``(N, C, Y, X)``, ``(N, C, Z, Y, X)``, or channels last; C does not matter.
    blend
        How overlapping predictions become one: `crop` gives each pixel to one patch; `constant`, `gaussian` and
        `hann` weigh them. Weights are divided by the sum of those that are there.
    channels_last
        As for `split_batch`, of `shape` and of `predictions`.
    nodata
        Value where no patch is. By default NaN for floats, the largest value of an integer type, and 0 for bool.

    Returns
    -------
    Array
        ``(N, K, Y, X)``, ``(N, K, Z, Y, X)``, or without K, or with K last, as the predictions are. Of their dtype;
        weighted blends of whole numbers are float32. Sums are made in float32, or in float64 for float64.

    Raises
    ------
    UsageError
        If predictions, regions and shape do not fit each other, or the starts are those of no grid, which `crop` needs.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.random.default_rng(0).random((2, 3, 50, 70), "float32")
    >>> patches, regions = split_batch(images, patch=32, overlap=8)
    >>> merged = merge_batch(patches, regions, images.shape, blend="crop")
    >>> bool((merged == images).all())
    True
    """
    predictions = arrays.as_array(predictions, "predictions")
    shape = tuple(map(operator.index, shape))
    ndim = _spatial_axes("shape", shape)
    found = _checked_regions(regions, len(predictions), ndim)
    if predictions.ndim not in (ndim + 1, ndim + 2):
        raise UsageError(
            f"predictions {tuple(predictions.shape)} have no {ndim} spatial axes, as regions and shape say",
            "predictions are (M, K, *patch) or (M, *patch)",
        )
    if blend not in get_args(Blend):
        raise UsageError(f"blend is one of {', '.join(get_args(Blend))}, not {blend!r}")
    bare = predictions.ndim == ndim + 1
    if channels_last is None:
        channels_last = _merged_channels_last(predictions.shape, shape, found)
    if bare:
        predictions = predictions[:, None]
    elif channels_last:
        predictions = arrays.permuted(predictions, (0, ndim + 1, *range(1, ndim + 1)))
    size = shape[1:-1] if channels_last else shape[2:]
    merged = _merge(predictions, _by_start(found, shape[0], size), (shape[0], *size), blend, nodata)
    if bare:
        return merged[:, 0]
    return arrays.permuted(merged, (0, *range(2, ndim + 2), 1)) if channels_last else merged


def numbers(value: int | Sequence[int], what: str, ndim: int) -> tuple[int, ...]:
    """One whole number for each axis, out of one for all or one an axis; of any type that counts as one.

    Raises
    ------
    UsageError
        If there are more or fewer; `what` begins the message.
    """
    try:
        return (operator.index(value),) * ndim  # type: ignore[arg-type]
    except TypeError:
        pass
    try:
        each = tuple(map(operator.index, value))  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(f"{what} is one whole number, or one an axis, not {value!r}") from None
    if len(each) != ndim:
        raise UsageError(f"{what} {each} has {len(each)} numbers for {ndim} axes")
    return each


# Splitting


def _spatial_axes(what: str, shape: Sequence[int]) -> int:
    if len(shape) not in (4, 5):
        raise UsageError(
            f"{what} has {len(shape)} axes: {tuple(shape)}",
            "a batch is (N, C, Y, X) or (N, C, Z, Y, X), or has its channels last",
        )
    return len(shape) - 2


def _looks_channels_last(shape: Sequence[int], patch: Sequence[int]) -> bool:
    fits = all(p <= n for p, n in zip(patch, shape[1:-1], strict=True))
    return shape[-1] <= MOST_CHANNELS and patch[-1] > shape[-1] and fits


def _grid(size: Sequence[int], patch: tuple[int, ...], stride: Any, overlap: Any, edge: Edge) -> Grid:
    ndim = len(size)
    strides = None if stride is None else numbers(stride, "stride", ndim)
    overlaps = None if overlap is None else numbers(overlap, "overlap", ndim)
    try:
        return Grid.of(size, patch, strides, overlap=overlaps, edge=edge)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _cut(images: Array, grid: Grid, first: int, pad: Pad, fill: float) -> Array:
    """Patches of all images, whose spatial axes begin at axis `first`."""
    pieces = list(itertools.product(*map(_even_runs, grid.axes)))
    channels_last = first == 1
    within = [*grid.patch]
    within.insert(len(within) if channels_last else 0, images.shape[-1 if channels_last else 1])
    flat = (len(images) * len(grid), *within)
    if len(pieces) == 1:
        return _windows(images, grid, pieces[0], first, pad, fill).reshape(flat)
    patches = arrays.empty(images, (len(images), *grid.counts, *within))
    for piece in pieces:
        places = tuple(slice(run.start, run.stop) for run in piece)
        patches[(slice(None), *places)] = _windows(images, grid, piece, first, pad, fill)
    return patches.reshape(flat)


def _even_runs(axis: GridAxis) -> list[range]:
    """Patches of an axis in runs that are evenly spaced and inside the image, or one patch long."""
    inside = 0 if axis.size < axis.patch else (axis.size - axis.patch) // axis.stride + 1
    even = min(inside, axis.count)
    # Only the last patch may be shifted, or reach over the edge.
    return [run for run in (range(even), range(even, axis.count)) if run]


def _windows(images: Array, grid: Grid, piece: Sequence[range], first: int, pad: Pad, fill: float) -> Array:
    """``(N, *counts, C, *patch)``, or with C last: a view unless it is padded."""
    for i, (axis, run) in enumerate(zip(grid.axes, piece, strict=True), first):
        start = axis.start(run[0])
        length = axis.start(run[-1]) - start + axis.patch
        images = arrays.strip(images, i, start, length, pad, fill)
        images = arrays.windows(images, i, axis.patch, axis.stride)
    ndim = len(piece)
    counts, channel, within = range(first, first + ndim), (ndim + 1 if first == 1 else 1), range(ndim + 2, 2 * ndim + 2)
    inner = (*within, channel) if first == 1 else (channel, *within)
    return arrays.permuted(images, (0, *counts, *inner))


def _regions(samples: int, grid: Grid) -> NDArray[np.int64]:
    starts = ([axis.start(i) for i in range(axis.count)] for axis in grid.axes)
    each = (np.asarray(line, np.int64) for line in (range(samples), *starts))
    return np.stack(np.meshgrid(*each, indexing="ij"), -1).reshape(-1, len(grid.axes) + 1)


# Merging

Members = dict[int, int]
"""Sample to number of the patch."""


def _checked_regions(regions: Any, count: int, ndim: int) -> NDArray[np.int64]:
    found = arrays.integers(regions, "regions")
    if not found.size:
        found = found.reshape(-1, ndim + 1)
    if found.ndim != 2 or found.shape[1] != ndim + 1:
        raise UsageError(
            f"regions are {found.shape}, not (M, {ndim + 1})",
            "a region is (sample, y, x), or (sample, z, y, x) where the batch has five axes",
        )
    if len(found) != count:
        raise UsageError(f"there are {count} predictions and {len(found)} regions", "give one region a prediction")
    return found


def _merged_channels_last(predictions: Sequence[int], shape: Sequence[int], regions: NDArray[np.int64]) -> bool:
    if len(predictions) < len(shape):
        return _looks_channels_last(shape, predictions[1:])
    channels_last = _looks_channels_last(shape, predictions[1:-1])
    size = shape[1:-1] if channels_last else shape[2:]
    here, other = (predictions[1:-1], predictions[2:]) if channels_last else (predictions[2:], predictions[1:-1])
    if len(regions) and _gaps(regions, size, here) and not _gaps(regions, size, other):
        order = ("first", "last")
        raise UsageError(
            f"the batch {tuple(shape)} seems to have its channels {order[channels_last]}, "
            f"the predictions {tuple(predictions)} seem to have them {order[not channels_last]}",
            f"give both the same order, or {SAY_LAYOUT}",
        )
    return channels_last


def _gaps(regions: NDArray[np.int64], size: Sequence[int], patch: Sequence[int]) -> bool:
    """Whether patches leave pixels out between them or at the end."""
    for starts, n, p in zip(regions[:, 1:].T, size, patch, strict=True):
        if any(b - a > p for a, b in itertools.pairwise([*np.unique(starts), max(n, int(starts.max()) + 1)])):
            return True
    return False


def _by_start(regions: NDArray[np.int64], samples: int, size: Sequence[int]) -> dict[tuple[int, ...], Members]:
    """The patches that start at the same pixel, so that they are placed at once."""
    outside = (regions < 0) | (regions >= np.array([samples, *size]))
    if outside.any():
        region = tuple(regions[outside.any(axis=1)][0].tolist())
        raise UsageError(
            f"region {region} is outside of {samples} images of {tuple(size)} pixels",
            f"shape is that of the batch that was split; {SAY_LAYOUT} if its order was guessed wrongly",
        )
    groups: dict[tuple[int, ...], Members] = {}
    for number, (sample, *start) in enumerate(regions.tolist()):
        groups.setdefault(tuple(start), {})[sample] = number
    return groups


class _Arrangement:
    """Where the patches that start at some pixels go, and with which weights; also if no grid has these starts."""

    def __init__(
        self, starts: Collection[tuple[int, ...]], size: tuple[int, ...], patch: tuple[int, ...], blend: Blend
    ) -> None:
        self._size, self._patch, self._starts = size, patch, starts
        self._placing: Placing | None = None
        try:
            self._placing = Placing(Grid.through(list(zip(*starts, strict=True)), size, patch), blend)
        except ValueError as error:
            if blend == "crop":
                raise UsageError(str(error), "crop needs a grid: give all regions, or choose another blend") from error
            self._window = window(blend, patch).astype(np.float32)

    @property
    def complete(self) -> bool:
        """Whether these are all patches of a grid, so that their weights sum to 1."""
        return self._placing is not None and len(self._starts) == len(self._placing.grid)

    def __call__(self, start: tuple[int, ...]) -> tuple[Region, NDArray[np.float32] | None]:
        if self._placing is not None:
            grid = self._placing.grid
            index = grid.index_of(start)
            assert index is not None
            return self._placing(grid.place_of(index))
        area = Region(start, self._patch).intersect(Region.whole(self._size))
        return area, self._window[area.relative_to(start).slices]


def _merge(
    predictions: Array,
    groups: dict[tuple[int, ...], Members],
    shape: tuple[int, ...],
    blend: Blend,
    nodata: float | None,
) -> Array:
    """``(N, K, *size)`` out of predictions ``(M, K, *patch)``; `shape` is ``(N, *size)``."""
    samples, *size = shape
    of = (samples, predictions.shape[1], *size)
    arrangement = _Arrangement(groups, tuple(size), tuple(predictions.shape[2:]), blend)
    if blend == "crop":
        merged = arrays.blank(predictions, of, _nodata(nodata, predictions), predictions.dtype)
        for start, members in groups.items():
            area, _ = arrangement(start)
            _there(merged, area)[_rows(list(members))] = _here(predictions, members, area, start)
        return merged
    return _blended(predictions, groups, of, arrangement, nodata)


def _blended(
    predictions: Array,
    groups: dict[tuple[int, ...], Members],
    shape: tuple[int, ...],
    arrangement: _Arrangement,
    nodata: float | None,
) -> Array:
    dtype = arrays.sums_dtype(predictions)
    sums = arrays.blank(predictions, shape, 0, dtype)
    complete = arrangement.complete and all(len(members) == shape[0] for members in groups.values())
    totals = np.zeros((1 if complete else shape[0], 1, *shape[2:]), np.float32)
    for start, members in groups.items():
        area, weights = arrangement(start)
        assert weights is not None
        rows = _rows(list(members))
        _add(_there(sums, area), rows, arrays.weighted(_here(predictions, members, area, start), weights, dtype))
        _add(_there(totals, area), slice(None) if complete else rows, weights)
    covered = totals > 0
    if not complete:
        sums = arrays.divided(sums, np.where(covered, totals, 1))
    if not covered.all():
        sums = arrays.with_nodata(sums, covered, _nodata(nodata, sums))
    return arrays.cast(sums, arrays.result_dtype(predictions))


def _nodata(nodata: float | None, array: Array) -> float | int:
    return arrays.default_nodata(array) if nodata is None else arrays.fitting(nodata, array, "nodata")


def _there(merged: Array, area: Region) -> Array:
    return merged[(slice(None), slice(None), *area.slices)]


def _here(predictions: Array, members: Members, area: Region, start: tuple[int, ...]) -> Array:
    return predictions[_rows(list(members.values()))][(slice(None), slice(None), *area.relative_to(start).slices)]


def _add(array: Array, rows: slice | list[int], values: Array) -> None:
    if isinstance(rows, slice):
        array = array[rows]
        array += values
    else:
        array[rows] += values


def _rows(numbers: list[int]) -> slice | list[int]:
    """Index of these rows: a slice, which makes a view, where they are evenly spaced."""
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    even = step > 0 and numbers == list(range(numbers[0], numbers[-1] + 1, step))
    return slice(numbers[0], numbers[-1] + 1, step) if even else numbers
