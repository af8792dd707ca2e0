"""Images that are one patch each, such as photographs that are classified: many of them are one piece of work.

What a sweep costs the interpreter is much for one patch, and workers wait for each other meanwhile. So such images have
no sweep: they are decoded one after the other, predicted as a stack, and committed as a stack.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.engine.reading import BlockStore, Padding, block_bytes, deliver
from patchloom.engine.shapes import PlaneShape, SweepShape
from patchloom.engine.work import unit_places
from patchloom.errors import ImageError
from patchloom.geometry.region import Region
from patchloom.images.image import Image, ImageInfo
from patchloom.images.plane import Plane, Planes
from patchloom.models.model import Head
from patchloom.models.steps import Preprocess
from patchloom.predictions.layout import PlaneInfo
from patchloom.predictions.patches import ImageRows

__all__ = ["Single", "SingleShape", "SingleShapes", "Stack"]

DESCRIPTIONS = 256
"""Descriptions of images that are remembered."""
SMALL = 1 << 20
"""Bytes of planes whose memory is used again."""
FREE = 32 << 20
"""Bytes that wait to be used again."""


class PixelPool:
    """Memory of planes that is used again: where it is fresh, page faults cost as much as decoding a small image."""

    def __init__(self) -> None:
        self._free: dict[tuple[Any, ...], list[NDArray[Any]]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def copied(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Pixels one channel after the other, if that is another order than they have, and they are not many."""
        if pixels.flags.c_contiguous or pixels.nbytes > SMALL:
            return pixels
        with self._lock:
            free = self._free.get((pixels.shape, pixels.dtype))
            array = free.pop() if free else None
            self._bytes -= array.nbytes if array is not None else 0
        if array is None:
            array = np.empty(pixels.shape, pixels.dtype)
        np.copyto(array, pixels)
        return array

    @property
    def free_bytes(self) -> int:
        """That wait to be used."""
        return self._bytes

    def give(self, array: NDArray[Any]) -> None:
        """Take a copy back; what was used before planes of other shapes came is forgotten for them."""
        key = array.shape, array.dtype
        with self._lock:
            if self._bytes + array.nbytes > FREE:
                kept = self._free.get(key, [])
                self._free, self._bytes = {key: kept}, len(kept) * array.nbytes
            if self._bytes + array.nbytes <= FREE:
                self._free.setdefault(key, []).append(array)
                self._bytes += array.nbytes


@dataclass(frozen=True, eq=False)
class SingleShape:
    """What images of one description have in common.

    Parameters
    ----------
    plane
        That of one of them, without its image.
    described
        What the journal keeps of them.
    region
        Pixels of their one unit.
    patch
        Pixels of their patch.
    row
        Place, first pixel and extent of the patch as a table has them, one after the other.
    padding
        Beyond the edges.
    pool
        Where memory of pixels comes from.
    """

    plane: Plane
    described: Mapping[str, Any]
    region: Region
    patch: Region
    row: tuple[int, ...]
    padding: Padding
    pool: PixelPool

    @classmethod
    def of(
        cls, plane: Plane, info: PlaneInfo, sweep: SweepShape, padding: Padding, pool: PixelPool
    ) -> SingleShape:
        """Shape of images whose plane has one sweep, of one patch."""
        part = sweep.parts[0]
        place, start, extent = (tuple(map(int, rows[0])) for rows in unit_places(sweep.grid, sweep.plane, part.origins))
        row = (*place, *start, *(info.original or extent))
        return cls(plane.of_none(), info.to_json(), part.region, sweep.patch(place), row, padding, pool)

    @cached_property
    def whole(self) -> Region:
        """All pixels of the plane."""
        return Region.whole(self.plane.shape)

    @cached_property
    def nbytes(self) -> int:
        """Memory of the plane."""
        return block_bytes(self.plane)

    @cached_property
    def is_whole(self) -> bool:
        """Whether the patch is the image."""
        return self.patch == self.whole


class SingleShapes:
    """Shapes of images by their descriptions, which readers share where many images have the same."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[ImageInfo, SingleShape]] = {}
        self._pool = PixelPool()

    def known(self, info: ImageInfo) -> SingleShape | None:
        """Shape of images with this very description, if they were seen before and are one patch."""
        found = self._known.get(id(info))
        return found[1] if found is not None else None

    def add(
        self, info: ImageInfo, views: Planes, shape: PlaneShape, described: PlaneInfo, padding: Padding
    ) -> SingleShape | None:
        """Shape of images of a description; None where they are more than one patch, or have to be fetched in parts."""
        sweeps = () if shape.alone or views.loop_axes or views[0].is_far else list(shape.sweeps())
        if len(sweeps) != 1 or not sweeps[0].is_one_block:
            return None
        (part,) = sweeps[0].parts
        if part.patches != 1 or part.contributors != 1:
            return None
        found = SingleShape.of(views[0], described, sweeps[0], padding, self._pool)
        if len(self._known) >= DESCRIPTIONS:
            self._known.clear()
        self._known[id(info)] = info, found
        return found


class Single:
    """One such image, from when its header is read until it is committed.

    Parameters
    ----------
    name, identity
        Of the image.
    shape
        What it has in common with others.
    image
        Closed when it is decoded.
    """

    __slots__ = ("_image", "_is_copy", "_pixels", "error", "identity", "name", "shape")

    def __init__(self, name: str, identity: str, shape: SingleShape, image: Image) -> None:
        self.name, self.identity, self.shape = name, identity, shape
        self._image: Image | None = image
        self._pixels: NDArray[Any] | None = None
        self._is_copy = False
        self.error: ImageError | None = None
        """Why it does not decode."""

    def decode(self) -> None:
        """Decode it, or note the `error`."""
        shape, image = self.shape, self._image
        assert image is not None
        self._image = None
        try:
            pixels = shape.plane.of(image).read(shape.whole)
            self._pixels = shape.pool.copied(pixels)
            self._is_copy = self._pixels is not pixels
        except ImageError as error:
            self.error = error
        finally:
            image.close()

    def deliver(self, out: NDArray[Any], preprocess: Preprocess | None) -> None:
        """Copy the patch to its place in a batch, preprocessed, and forget the pixels; see `BlockStore.fill`."""
        shape, pixels = self.shape, self._pixels
        assert pixels is not None
        self._pixels = None
        if shape.is_whole:
            deliver(pixels, out, preprocess)
        else:
            blocks = BlockStore(shape.plane)
            blocks.hold((0,) * len(shape.whole.shape), pixels)
            blocks.fill(shape.patch, out, shape.padding, preprocess)
        if self._is_copy:
            shape.pool.give(pixels)


@dataclass(frozen=True, eq=False)
class Stack:
    """Such images, predicted.

    Parameters
    ----------
    images
        At least one.
    values
        By head, ``(n, ...)``.
    bad
        Of each image, whether its prediction is not finite.
    """

    images: Sequence[Single]
    values: Mapping[str, NDArray[Any]]
    bad: Sequence[bool]

    def kept(self, heads: Sequence[Head]) -> Stack:
        """The same with values of the heads' own types, which nobody else writes to."""
        return Stack(self.images, {head.name: np.array(self.values[head.name], head.dtype) for head in heads}, self.bad)

    @classmethod
    def joined(cls, stacks: Sequence[Stack]) -> Stack:
        """All images of several stacks, in order of their names."""
        images = [image for stack in stacks for image in stack.images]
        bad = [bad for stack in stacks for bad in stack.bad]
        order = sorted(range(len(images)), key=lambda i: images[i].name)
        values = {name: np.concatenate([stack.values[name] for stack in stacks])[order] for name in stacks[0].values}
        return cls([images[i] for i in order], values, [bad[i] for i in order])

    @property
    def names(self) -> list[str]:
        """Of the images."""
        return [image.name for image in self.images]

    @property
    def parts(self) -> list[tuple[str, tuple[()], tuple[int, ...], tuple[int, ...]]]:
        """Of each image its name, no loops, and first pixel and extent of its unit."""
        return [(image.name, (), image.shape.region.start, image.shape.region.shape) for image in self.images]

    def rows(self, head: str) -> ImageRows:
        """Rows of a vector head."""
        rows = np.asarray([image.shape.row for image in self.images], np.int64)
        places, starts, shapes = np.split(rows, 3, axis=1)
        return ImageRows(self.names, places, starts, shapes, self.values[head])
