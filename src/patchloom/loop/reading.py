"""Pixels of any patch of any image: images are opened when needed, and what was decoded is kept for a while."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.engine.reading import BlockStore, Padding
from patchloom.errors import ImageMismatchError
from patchloom.geometry.region import Region
from patchloom.images.array import ArrayImage
from patchloom.images.image import Image
from patchloom.images.plane import Planes, planes
from patchloom.loop.catalogue import Catalogue, Shape

__all__ = ["HeldImages", "PixelReader", "View", "hold"]

BlockKey = tuple[int, int, tuple[int, ...]]


@dataclass(frozen=True)
class View:
    """Which pixels of an image count: number of spatial axes of a patch, resolution level, channels."""

    ndim: int
    level: int = 0
    channels: tuple[int | str, ...] | None = None

    def of(self, image: Image, name: str) -> Planes:
        """Planes of an image; see `planes`."""
        return planes(image, ndim=self.ndim, level=self.level, channels=self.channels, name=name)


@dataclass
class _Kept:
    """What one process keeps: opened images, and decoded blocks with the bytes that they take."""

    process: int = field(default_factory=os.getpid)
    images: OrderedDict[int, tuple[Image, Planes]] = field(default_factory=OrderedDict)
    stores: dict[tuple[int, int], BlockStore] = field(default_factory=dict)
    blocks: OrderedDict[BlockKey, int] = field(default_factory=OrderedDict)
    nbytes: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)


class PixelReader:
    """Reads patches, in any order.

    A process that was forked, or that got a pickled copy, opens the images anew: handles are never shared.

    Parameters
    ----------
    catalogue
        The images.
    view
        Which pixels of them.
    padding
        Beyond the edges of an image.
    block_bytes
        Decoded pixels that are kept, besides those of the patch that is being read.
    handles
        Images that are kept open.
    """

    def __init__(self, catalogue: Catalogue, view: View, padding: Padding, block_bytes: int, handles: int) -> None:
        self.catalogue, self.view, self.padding = catalogue, view, padding
        self._block_bytes, self._handles = block_bytes, handles
        self.check: Callable[[int, Planes], None] | None = None
        """Called with each image that is opened; raises where it is not as expected."""
        self._kept = _Kept()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._kept = _Kept()

    def planes(self, image: int) -> Planes:
        """Planes of an image, which is opened unless it is open.

        Raises
        ------
        ImageError
            If it cannot be opened, or lacks the axes, channels or level; the message names it.
        """
        kept = self._mine()
        with kept.lock:
            if image not in kept.images:
                kept.images[image] = self._open(image)
                while len(kept.images) > self._handles:
                    self._close(kept, next(iter(kept.images)))
            kept.images.move_to_end(image)
            return kept.images[image][1]

    def patch(self, image: int, sample: int, region: Region) -> NDArray[Any]:
        """Pixels of a patch: ``(C, [Z,] Y, X)`` in the file's own dtype, padded where it reaches over an edge.

        Raises
        ------
        ImageError
            If the image cannot be read there; the message names it.
        """
        kept = self._mine()
        with kept.lock:
            views = self.planes(image)
            store = kept.stores.get((image, sample))
            if store is None:
                store = kept.stores[image, sample] = BlockStore(views[sample])
            needed = store.keys(store.source(region, self.padding))
            self._decode(kept, image, sample, store, needed)
            return self.fill(store, region)

    def fill(self, store: BlockStore, region: Region) -> NDArray[Any]:
        """Copy a patch out of blocks that are decoded."""
        out = np.empty((store.plane.channels, *region.shape), store.plane.dtype)
        store.fill(region, out, self.padding, None)
        return out

    def _decode(self, kept: _Kept, image: int, sample: int, store: BlockStore, needed: list[tuple[int, ...]]) -> None:
        store.announce(key for key in needed if (image, sample, key) not in kept.blocks)
        for key in needed:
            at = image, sample, key
            if at not in kept.blocks:
                kept.blocks[at] = store.decode(key)
                kept.nbytes += kept.blocks[at]
            kept.blocks.move_to_end(at)
        while kept.nbytes > self._block_bytes and len(kept.blocks) > len(needed):
            (old_image, old_sample, old), nbytes = kept.blocks.popitem(last=False)
            kept.stores[old_image, old_sample].drop([old])
            kept.nbytes -= nbytes

    def _open(self, image: int) -> tuple[Image, Planes]:
        opened = self.catalogue.open(image)
        try:
            views = self.view.of(opened, self.catalogue.names[image])
            if self.check is not None:
                self.check(image, views)
            return opened, views
        except BaseException:
            opened.close()
            raise

    def _close(self, kept: _Kept, image: int) -> None:
        opened, _ = kept.images.pop(image)
        for plane in [plane for plane in kept.stores if plane[0] == image]:
            del kept.stores[plane]
        for at in [at for at in kept.blocks if at[0] == image]:
            kept.nbytes -= kept.blocks.pop(at)
        opened.close()

    def _mine(self) -> _Kept:
        if self._kept.process != os.getpid():
            self._kept = _Kept()
        return self._kept


class HeldImages:
    """Images that were decoded once and are kept: ``(samples, C, [Z,] Y, X)`` each, None for what cannot be read."""

    def __init__(self, names: Any, arrays: list[NDArray[Any] | None], ndim: int) -> None:
        self.names, self._arrays = names, arrays
        self._axes = "SC" + "ZYX"[-ndim:]

    def open(self, i: int) -> Image:
        """See `Catalogue.open`."""
        held = self._arrays[i]
        if held is None:
            raise ImageMismatchError(f"{self.names[i]} could not be read", "")
        return ArrayImage(held, self._axes, self.names[i])

    def shapes(self) -> Iterator[Shape | None]:
        """See `Catalogue.shapes`."""
        return (None if held is None else held.shape for held in self._arrays)


def hold(views: Planes) -> NDArray[Any]:
    """Decode an image: ``(samples, C, [Z,] Y, X)``."""
    first = views[0]
    held = np.empty((len(views), first.channels, *first.shape), first.dtype)
    for out, plane in zip(held, views, strict=True):
        out[...] = plane.read(Region.whole(plane.shape))
    return held
