"""Patches of all images of a source, by number or in a stream, for loops that are not patchloom's own."""

from __future__ import annotations

import warnings
from collections.abc import MutableSequence, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from patchloom.config import Config, OnError, Pad
from patchloom.engine.reading import Padding
from patchloom.errors import ImageError, ImageMismatchError, UsageError
from patchloom.geometry.grid import Edge, Grid
from patchloom.geometry.region import Region
from patchloom.images.plane import Planes
from patchloom.loop.catalogue import Catalogue, catalogue_of
from patchloom.loop.index import PatchIndex, PlaneLayout, index_of
from patchloom.loop.reading import HeldImages, PixelReader, View, hold
from patchloom.parsing import memory_size

__all__ = ["Crop", "Cut", "Patches"]

BLOCK_BYTES = 128 << 20
"""Decoded pixels that a process keeps, unless the user says."""
HANDLES = 64
"""Images that a process keeps open."""
MEMORY = "memory"


class Crop(NamedTuple):
    """A patch anywhere: number of its image, of its plane in the image (the sample), and its first pixel."""

    image: int
    sample: int
    start: tuple[int, ...]


class Cut(NamedTuple):
    """Pixels of a patch, ``(C, [Z,] Y, X)`` in the file's own dtype, and where they are from."""

    pixels: NDArray[Any]
    name: str
    crop: Crop


class Patches:
    """All patches of all images, none of which is kept; see `patchloom.torch.PatchDataset` for the parameters.

    It can be sent to other processes, and used after a fork.

    Examples
    --------
    >>> patches = Patches({"a": np.arange(64 * 96).reshape(64, 96)}, patch=32, stride=32)
    >>> len(patches)
    6
    >>> patches[4].crop
    Crop(image=0, sample=0, start=(32, 32))
    """

    def __init__(
        self,
        source: Any,
        patch: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        *,
        overlap: int | Sequence[int] | None = None,
        edge: Edge = "shift",
        pad: Pad = "reflect",
        fill: float = 0.0,
        axes: str | None = None,
        channels: Sequence[int | str] | None = None,
        level: int = 0,
        shape: Sequence[int] | None = None,
        cache: str | int | None = None,
        on_error: OnError | str = "raise",
    ) -> None:
        config = _config(
            patch=patch,
            stride=stride,
            overlap=overlap,
            edge=edge,
            pad=pad,
            fill=fill,
            axes=axes,
            channels=channels,
            level=level,
        )
        if on_error not in ("raise", "skip"):
            raise UsageError(f"on_error is raise or skip, not {on_error!r}", "skip leaves out what cannot be read")
        assert config.patch is not None
        if config.patch == "image":
            raise UsageError("whole images are for predict()", "give a size in pixels")
        ndim = max(2, len(config.patch))
        self.patch: tuple[int, ...] = config.patch * ndim if len(config.patch) == 1 else config.patch
        self._config, self._skip, self._shape = config, on_error == "skip", None if shape is None else tuple(shape)
        catalogue, view = catalogue_of(source, config.axes), View(ndim, config.level, config.channels)
        self.names: Sequence[str] = catalogue.names
        """Names of the images."""
        self.unreadable: MutableSequence[int] = cast(MutableSequence[int], np.zeros(len(self.names), np.uint8))
        """For each image 1 if it was given up."""
        if cache == MEMORY:
            catalogue, view = self._held(catalogue, view), View(ndim)
        self.reader = PixelReader(catalogue, view, Padding(config.pad, config.fill), _kept_bytes(cache), HANDLES)
        self.index: PatchIndex = index_of(catalogue.shapes(), self._layout)
        self.reader.check = self._check
        self.loops = any(layout.loop_shape for layout in self.index.layouts)
        """Whether any image has S, T (or Z for 2-D patches): its planes are samples."""

    def __len__(self) -> int:
        return len(self.index)

    def crop(self, i: int) -> Crop:
        """Where patch number `i` is.

        Raises
        ------
        IndexError
            If there is no such patch.
        """
        at = self.index.locate(i)
        return Crop(at.image, at.sample, self.index.region(at).start)

    def __getitem__(self, key: int | Crop) -> Cut:
        """Read patch number `key`, or the one that starts where `key` says.

        Raises
        ------
        IndexError
            If there is no such patch.
        ImageError
            If the image cannot be read there; the message names it.
        """
        crop = Crop(*key) if isinstance(key, tuple) else self.crop(key)
        if self.unreadable[crop.image]:
            raise ImageError(f"{self.names[crop.image]} was given up: it cannot be read", "")
        pixels = self.reader.patch(crop.image, crop.sample, Region(tuple(crop.start), self.patch))
        return Cut(pixels, self.names[crop.image], crop)

    def give_up(self, image: int, error: ImageError) -> None:
        """Leave out an image that cannot be read from here on, or raise where the user did not ask for that."""
        if not self._skip:
            raise error
        if not self.unreadable[image]:
            self.unreadable[image] = 1
            count = int(np.count_nonzero(np.asarray(self.unreadable)))
            warnings.warn(f"{error.message}; skipped, {count} image{'s' * (count != 1)} so far", stacklevel=2)

    def failures(self) -> list[str]:
        """Names of the images that were given up, in this process and in those that share `unreadable` with it."""
        return [self.names[int(i)] for i in np.flatnonzero(np.asarray(self.unreadable))]

    def _layout(self, image: int) -> PlaneLayout | None:
        if self._shape is not None:
            return PlaneLayout(self._grid(self._shape))
        if self.unreadable[image]:
            return None
        try:
            views = self.reader.planes(image)
        except ImageError as error:
            self.give_up(image, error)
            return None
        return PlaneLayout(self._grid(views[0].shape), views.loop_axes, views.loop_shape)

    def _check(self, image: int, views: Planes) -> None:
        """Raise ImageMismatchError where an image has another size than its patches were laid on."""
        layout = self.index.layout(image)
        if layout is None or (views[0].shape, views.loop_shape) != (layout.grid.shape, layout.loop_shape):
            pixels = "x".join(map(str, views.loop_shape + views[0].shape))
            raise ImageMismatchError(
                f"{self.names[image]} has {pixels} pixels, and its patches were laid on others",
                "make the dataset anew; give no shape where images differ",
            )

    def _grid(self, shape: Sequence[int]) -> Grid:
        config = self._config
        try:
            return Grid.of(shape, self.patch, _spread(config.stride), overlap=_spread(config.overlap), edge=config.edge)
        except ValueError as error:
            raise UsageError(str(error), "give one number, or one an axis") from None

    def _held(self, catalogue: Catalogue, view: View) -> HeldImages:
        arrays: list[NDArray[Any] | None] = []
        for i, name in enumerate(catalogue.names):
            try:
                image = catalogue.open(i)
                try:
                    arrays.append(hold(view.of(image, name)))
                finally:
                    image.close()
            except ImageError as error:
                self.give_up(i, error)
                arrays.append(None)
        return HeldImages(catalogue.names, arrays, view.ndim)


def _config(**options: Any) -> Config:
    """Options that are checked as those of a run."""
    return Config(**{name: value for name, value in options.items() if value is not None})


def _kept_bytes(cache: str | int | None) -> int:
    if cache is None or cache == MEMORY:
        return BLOCK_BYTES if cache is None else 0
    try:
        return memory_size(cache)
    except ValueError as error:
        raise UsageError(f"cache: {error}", "give memory, to decode all images at once, or a size") from None


def _spread(values: tuple[int, ...] | None) -> int | tuple[int, ...] | None:
    return values[0] if values is not None and len(values) == 1 else values
