"""First look at a source: how many images, how large, and one real patch to try the model on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.config import Config
from patchloom.engine.reading import BlockStore
from patchloom.errors import ImageError, SourceError
from patchloom.geometry.region import Region
from patchloom.images.image import Image
from patchloom.images.plane import Planes, planes
from patchloom.images.resized import Fit, ResizedImage
from patchloom.images.source import Entry
from patchloom.images.sources.stored import fetch_ahead

__all__ = ["ImageSize", "Survey", "opened", "survey", "trial_patch"]

SAMPLE = 2000
"""Images whose headers are read; of more images a random sample of this size, and the plan says that it estimates."""


@dataclass(frozen=True)
class ImageSize:
    """What a plan needs of an image."""

    plane: tuple[int, ...]
    planes: int
    chunks: tuple[int, ...]
    channels: int
    dtype: np.dtype[Any]
    decoded: int = 0
    """Bytes that are decoded to make a whole image small."""
    loop_shape: tuple[int, ...] = ()
    entry: Entry | None = None


@dataclass(frozen=True)
class Survey:
    """What the headers say.

    Parameters
    ----------
    images
        Number of images in the source.
    sizes
        Of the images that opened, out of those that were looked at.
    looked_at
        Number of images whose headers were read.
    entries
        Some of the images that opened, to try the model on.
    """

    images: int
    sizes: list[ImageSize]
    looked_at: int
    entries: list[Entry] = field(default_factory=list)

    @property
    def unreadable(self) -> int:
        """Number of images that did not open, out of those that were looked at."""
        return self.looked_at - len(self.sizes)

    @property
    def estimated(self) -> bool:
        """Whether only a sample was looked at."""
        return self.looked_at < self.images

    @property
    def factor(self) -> float:
        """By which numbers of the sample are multiplied."""
        return self.images / self.looked_at if self.looked_at else 1.0


def survey(
    entries: Iterable[Entry],
    config: Config,
    ndim: int,
    seen: Callable[[list[str]], None],
    done: Callable[[Entry], bool] = lambda entry: False,
) -> Survey:
    """Enumerate a source once; `seen` is given the names, some hundreds at a time. What is `done` is not looked at.

    Raises
    ------
    SourceError
        If there are no images.
    """
    sample: list[Entry] = []
    count, names = 0, []
    choice = random.Random(0)
    for count, entry in enumerate(entries, 1):
        names.append(entry.name)
        if len(names) == 1000:
            seen(names)
            names = []
        if done(entry):
            continue
        if len(sample) < SAMPLE:
            sample.append(entry)
        elif (place := choice.randrange(count)) < SAMPLE:
            sample[place] = entry
    seen(names)
    if not count:
        raise SourceError("the source holds no images", "give a folder, a file, a glob or a manifest of images")
    sizes: list[ImageSize] = []
    opened: list[Entry] = []
    for entry, fetched in zip(sample, fetch_ahead(sample), strict=True):
        try:
            sizes.append(replace(_size(fetched, config, ndim), entry=entry))
        except ImageError:
            continue  # counted as unreadable; it will fail, and be recorded, in its turn
        else:
            if len(opened) < 16:
                opened.append(entry)
    return Survey(count, sizes, len(sample), opened)


def _size(entry: Entry, config: Config, ndim: int) -> ImageSize:
    image = opened(entry, config)
    try:
        views = planes(image, ndim=ndim, level=config.level, channels=config.channels, name=entry.name)
        first = views[0]
        decoded = image.decoded_bytes if isinstance(image, ResizedImage) else 0
        return ImageSize(
            tuple(first.shape), len(views), tuple(first.chunks), first.channels, np.dtype(first.dtype), decoded,
            tuple(views.loop_shape),
        )
    finally:
        image.close()


def opened(entry: Entry, config: Config) -> Image:
    """Open an image as the model is going to see it: at the size that is asked for where it is one patch.

    Raises
    ------
    ImageError
        As opening does; also if it cannot have that size.
    """
    image = entry.open()
    if config.resize is None and config.centre_crop is None:
        return image
    try:
        return ResizedImage(image, Fit(config.resize, config.centre_crop), entry.name)
    except BaseException:
        image.close()
        raise


def trial_patch(
    found: Survey, config: Config, patch: tuple[int, ...], channels: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """A real patch out of the first image that decodes, else zeros: ``(C, [Z,] Y, X)``."""
    out = np.zeros((channels, *patch), dtype)
    for entry in found.entries:
        for views in _opened(entry, config, len(patch)):
            if views[0].channels != channels:
                continue
            blocks = BlockStore(views[0])
            middle = tuple(max(0, (n - p) // 2) for n, p in zip(views[0].shape, patch, strict=True))
            inside = Region(middle, patch).intersect(Region.whole(views[0].shape))
            try:
                keys = blocks.keys(inside)
                blocks.announce(keys)
                for key in keys:
                    blocks.decode(key)
            except ImageError:
                continue  # it will fail, and be recorded, in its turn
            part = blocks.cut(inside)
            out[(slice(None), *map(slice, inside.shape))] = part
            return out
    return out


def _opened(entry: Entry, config: Config, ndim: int) -> Iterator[Planes]:
    try:
        image = opened(entry, config)
    except ImageError:
        return
    try:
        yield planes(image, ndim=ndim, level=config.level, channels=config.channels, name=entry.name)
    finally:
        image.close()
