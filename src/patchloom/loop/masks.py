"""Patches where masks say that they matter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ImageMismatchError, UsageError
from patchloom.geometry.region import Region
from patchloom.loop.order import AT_ONCE
from patchloom.loop.patches import Crop, Patches

__all__ = ["Masks"]


class Masks:
    """Draws patches whose middle lies where a mask of their image has weight; one mask is in memory at a time.

    Parameters
    ----------
    patches
        The images, and the size of a patch.
    masks
        Source of masks, which have the names of the images; 2-D, at any resolution.

    Raises
    ------
    UsageError
        If an image has no mask, or no mask has any weight.
    ImageMismatchError
        If a mask has values that are no weights; the message names it.
    """

    def __init__(self, patches: Patches, masks: Any) -> None:
        self._patches = patches
        self._masks = Patches(masks, patch=1)
        numbers = {name: i for i, name in enumerate(self._masks.names)}
        images = np.flatnonzero(np.diff(patches.index.first))
        missing = [patches.names[int(i)] for i in images if patches.names[int(i)] not in numbers]
        if missing:
            raise UsageError(
                f"{missing[0]} has no mask, nor have {len(missing) - 1} other images",
                "masks have the names of the images",
            )
        self._mask_of = {int(i): numbers[patches.names[int(i)]] for i in images}
        total = np.zeros(len(patches.names) + 1)
        for image in self._mask_of:
            total[image + 1] = self._sums(image)[-1] * self._area(image)
        self._total = np.cumsum(total)
        if not self._total[-1] > 0:
            raise UsageError("no mask has any weight", "masks are above 0 where patches are wanted")

    def draws(self, rng: np.random.Generator) -> Iterator[Crop]:
        """Crops without end, some thousand images at a time in the order of the source."""
        while True:
            drawn = np.searchsorted(self._total, rng.random(AT_ONCE) * self._total[-1], "right") - 1
            crops = [
                crop
                for image, n in zip(*np.unique(drawn, return_counts=True), strict=True)
                for crop in self._of(int(image), int(n), rng)
            ]
            yield from (crops[i] for i in rng.permutation(len(crops)))

    def _of(self, image: int, n: int, rng: np.random.Generator) -> list[Crop]:
        sums, shape = self._sums(image), self._shape(image)
        layout = self._patches.index.layout(image)
        assert layout is not None
        pixels = np.unravel_index(np.searchsorted(sums, rng.random(n) * sums[-1], "right"), shape)
        samples = rng.integers(layout.planes, size=n)
        starts = []
        for at, m, size, p in zip(pixels, shape, layout.grid.shape[-2:], self._patches.patch[-2:], strict=True):
            middle = (at + rng.random(n)) * size / m
            starts.append(np.clip(np.rint(middle - p / 2), 0, max(0, size - p)).astype(np.int64))
        if len(layout.grid.shape) == 3:
            starts.insert(0, rng.integers(max(1, layout.grid.shape[0] - self._patches.patch[0] + 1), size=n))
        places = zip(samples, *starts, strict=True)
        return [Crop(image, int(sample), tuple(map(int, start))) for sample, *start in places]

    def _shape(self, image: int) -> tuple[int, ...]:
        layout = self._masks.index.layout(self._mask_of[image])
        assert layout is not None
        return layout.grid.shape

    def _area(self, image: int) -> float:
        """Pixels of the image for each pixel of its mask, with all its planes."""
        layout = self._patches.index.layout(image)
        assert layout is not None
        return layout.planes * float(np.prod(layout.grid.shape)) / float(np.prod(self._shape(image)))

    def _sums(self, image: int) -> NDArray[np.float64]:
        mask = self._mask_of[image]
        views = self._masks.reader.planes(mask)
        weights = views[0].read(Region.whole(views[0].shape))[0].astype(np.float64)
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ImageMismatchError(
                f"mask {self._masks.names[mask]} has values below 0, or that are not finite", "masks are weights"
            )
        sums: NDArray[np.float64] = np.cumsum(weights)
        return sums
