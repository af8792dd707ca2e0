"""Where the prediction of a patch goes, and with which weights: what everything that stitches has in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.blend import Blend, BlendWeights
from patchloom.geometry.grid import Grid
from patchloom.geometry.region import Region

__all__ = ["Placing"]


class Placing:
    """Places predictions of patches: copied from the patch that owns a pixel (`crop`), or added with weights.

    Weights are divided by the sum of the weights of all patches of the grid at a pixel, so that nothing is divided
    in the end.

    Parameters
    ----------
    grid
        Of the head, in the head's pixels.
    blend
        How overlapping predictions become one.

    Examples
    --------
    >>> placing = Placing(Grid.of((64,), patch=32, overlap=8), "crop")
    >>> placing((1,))
    (Region(start=(28,), shape=(16,)), None)
    """

    def __init__(self, grid: Grid, blend: Blend) -> None:
        self.grid, self.blend = grid, blend
        self._weights = None if blend == "crop" else BlendWeights(grid, blend)

    @property
    def adds(self) -> bool:
        """Whether predictions are added up, instead of each pixel being copied from one patch."""
        return self._weights is not None

    def __call__(
        self, place: Sequence[int], within: Region | None = None
    ) -> tuple[Region, NDArray[np.float32] | None]:
        """Pixels that the patch at `place` contributes to, inside the grid's image and `within`, and its weights there.

        Returns
        -------
        tuple
            The region, whose size may be 0, and float32 weights of its shape, or None where pixels are copied.
        """
        start = self.grid.start(place)
        if self._weights is None:
            area = self.grid.owned(place)
        else:
            area = Region(start, self.grid.patch).intersect(Region.whole(self.grid.shape))
        if within is not None:
            area = area.intersect(within)
        if self._weights is None or not area.size:
            return area, None
        return area, self._weights(place)[area.relative_to(start).slices]

    def part(self, place: Sequence[int], area: Region, values: NDArray[Any]) -> NDArray[Any]:
        """The part ``(C, *area)`` of a patch's prediction ``(C, *patch)``, or ``(*patch)``, that lies in `area`."""
        if values.ndim == len(area.shape):
            values = values[None]
        return values[(slice(None), *area.relative_to(self.grid.start(place)).slices)]
