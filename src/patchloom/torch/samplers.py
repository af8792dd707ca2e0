"""Orders in which a `DataLoader` draws patches; seed and epoch give the order, whatever the number of workers.

All samplers know of distributed runs: what the ranks draw together is what one process would draw, each patch once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from torch.utils.data import Sampler

from patchloom.errors import UsageError
from patchloom.geometry.region import Region
from patchloom.loop.masks import Masks
from patchloom.loop.order import AT_ONCE, BlockShuffle, Permutation
from patchloom.loop.patches import Crop, Patches
from patchloom.torch.dataset import PatchDataset
from patchloom.torch.ranks import rank_and_world

__all__ = ["BalancedSampler", "GridSampler", "RandomCropSampler", "ShuffledSampler", "WeightedSampler"]

BLOCK_PIXELS = 2048
POOL = 6
ATTEMPTS = 10_000
"""Patches in a row that a weight may refuse."""

Weight = Callable[[str, Region], float]


class _PatchSampler(Sampler[Any]):
    """What samplers have in common: a seed, an epoch, and a share of a distributed run."""

    def __init__(self, dataset: PatchDataset, seed: int, rank: int | None, world: int | None) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, 0
        self.rank, self.world = rank_and_world(rank, world)

    def set_epoch(self, epoch: int) -> None:
        """Draw another order; call it before each epoch, as Lightning does by itself."""
        self.epoch = epoch

    @property
    def patches(self) -> Patches:
        """Of the dataset."""
        return self.dataset.patches

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch])

    def _share(self, draws: Iterator[Any]) -> Iterator[Any]:
        return itertools.islice(draws, self.rank, None, self.world)


class GridSampler(_PatchSampler):
    """Patches in the order of the grid; each rank gets one stretch of it.

    Parameters
    ----------
    dataset
        The patches.
    rank, world
        Of a distributed run; those of ``torch.distributed`` where it is in use.
    """

    def __init__(self, dataset: PatchDataset, *, rank: int | None = None, world: int | None = None) -> None:
        super().__init__(dataset, 0, rank, world)

    def _range(self) -> range:
        n = len(self.patches)
        return range(n * self.rank // self.world, n * (self.rank + 1) // self.world)

    def __len__(self) -> int:
        return len(self._range())

    def __iter__(self) -> Iterator[int]:
        return iter(self._range())


class ShuffledSampler(_PatchSampler):
    """All patches in random order, such that a chunk of an image is not decoded again for each of its patches.

    Blocks of neighbouring patches are shuffled, some of them at a time are mixed, and patches are drawn from these.
    Memory does not grow with the number of patches.

    Parameters
    ----------
    dataset
        The patches.
    seed
        Of the order.
    block
        Patches of a block on each axis; as many as reach over 2,048 pixels unless it is given.
    pool
        Blocks that are mixed. More mix better and need a larger ``cache`` of the dataset.
    batch_size, num_workers
        Those of the `DataLoader`: a block's patches then go to batches that the same worker makes, so that no other
        worker decodes its chunks, too.
    rank, world
        Of a distributed run; those of ``torch.distributed`` where it is in use. Blocks are dealt out to the ranks, so
        that these may differ by some patches.

    Examples
    --------
    >>> dataset = PatchDataset({"a": np.zeros((64, 96), np.uint8)}, patch=32)
    >>> sorted(ShuffledSampler(dataset, seed=3))
    [0, 1, 2, 3, 4, 5]
    """

    def __init__(
        self,
        dataset: PatchDataset,
        *,
        seed: int = 0,
        block: int | Sequence[int] | None = None,
        pool: int = POOL,
        batch_size: int = 1,
        num_workers: int = 0,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        super().__init__(dataset, seed, rank, world)
        if min(pool, batch_size) < 1:
            raise UsageError(f"pool and batch_size are at least 1, not {pool} and {batch_size}", "")
        self._block = self._extents(block)
        self._pool, self._batch, self._workers = pool, batch_size, max(1, num_workers)

    def __len__(self) -> int:
        return sum(map(len, self._streams()))

    def __iter__(self) -> Iterator[int]:
        # A DataLoader gives the batches to its workers in turn.
        streams = [iter(stream) for stream in self._streams()]
        while streams:
            for stream in list(streams):
                batch = list(itertools.islice(stream, self._batch))
                yield from batch
                if len(batch) < self._batch:
                    streams.remove(stream)

    def _streams(self) -> list[BlockShuffle]:
        shares = self.world * self._workers
        numbers = range(self.rank * self._workers, (self.rank + 1) * self._workers)
        seed = [self.seed, self.epoch]
        return [BlockShuffle(self.patches.index, self._block, self._pool, seed, i, shares) for i in numbers]

    def _extents(self, block: int | Sequence[int] | None) -> tuple[int, ...]:
        ndim = len(self.patches.patch)
        if block is None:
            return tuple(max(1, BLOCK_PIXELS // size) for size in self.patches.patch)
        extents = (block,) * ndim if isinstance(block, int) else tuple(block)
        if len(extents) != ndim or min(extents) < 1:
            raise UsageError(f"block {extents} does not fit patches of {ndim} axes", "give one number, or one an axis")
        return extents


class RandomCropSampler(_PatchSampler):
    """Patches anywhere in the images, each place as probable as any other.

    Parameters
    ----------
    dataset
        Where patches are from; its stride does not matter.
    count
        Patches an epoch, over all ranks.
    seed
        Of the draw.
    rank, world
        Of a distributed run; those of ``torch.distributed`` where it is in use.
    """

    def __init__(
        self, dataset: PatchDataset, count: int, *, seed: int = 0, rank: int | None = None, world: int | None = None
    ) -> None:
        super().__init__(dataset, seed, rank, world)
        _check_count(count, self.patches)
        self.count = count
        layouts = self.patches.index.layouts
        self._first = self.patches.index.sums(
            layout.planes * _free(layout.grid.shape, self.patches.patch) if layout.patches else 0 for layout in layouts
        )

    def __len__(self) -> int:
        return len(range(self.rank, self.count, self.world))

    def __iter__(self) -> Iterator[Crop]:
        return self._share(self._draws())

    def _draws(self) -> Iterator[Crop]:
        rng, patch = self._rng(), self.patches.patch
        for begin in range(0, self.count, AT_ONCE):
            places = rng.integers(self._first[-1], size=min(AT_ONCE, self.count - begin))
            for place, image in zip(places, np.searchsorted(self._first, places, "right") - 1, strict=True):
                layout = self.patches.index.layout(int(image))
                assert layout is not None
                rest, start = int(place - self._first[image]), []
                for n, p in zip(reversed(layout.grid.shape), reversed(patch), strict=True):
                    rest, a = divmod(rest, max(1, n - p + 1))
                    start.append(a)
                yield Crop(int(image), rest, tuple(reversed(start)))


class BalancedSampler(_PatchSampler):
    """Patches of the grid, as many of each image, however large: images in random order, a random patch of each.

    Parameters
    ----------
    dataset, count, seed, rank, world
        As for `RandomCropSampler`.
    """

    def __init__(
        self, dataset: PatchDataset, count: int, *, seed: int = 0, rank: int | None = None, world: int | None = None
    ) -> None:
        super().__init__(dataset, seed, rank, world)
        _check_count(count, self.patches)
        self.count = count

    def __len__(self) -> int:
        return len(range(self.rank, self.count, self.world))

    def __iter__(self) -> Iterator[int]:
        return self._share(itertools.islice(self._draws(), self.count))

    def _draws(self) -> Iterator[int]:
        rng, first = self._rng(), self.patches.index.first
        images = np.flatnonzero(np.diff(first))
        for turn in itertools.count():
            order = Permutation(len(images), [self.seed, self.epoch, turn])
            for begin in range(0, len(images), AT_ONCE):
                drawn = images[order(np.arange(begin, min(begin + AT_ONCE, len(images))))]
                yield from rng.integers(first[drawn], first[drawn + 1]).tolist()


class WeightedSampler(_PatchSampler):
    """Patches where a mask, or a function, says that they matter.

    Parameters
    ----------
    dataset
        Where patches are from.
    weights
        A mapping of image names to masks, or any source of masks of the same names (a folder of PNG files, say), at
        any resolution: the middle of a patch is drawn with a probability in proportion to the mask's value there, and
        the patch is moved inward where it would reach over an edge. Or a function of an image's name and a patch's
        region that gives the probability, from 0 to 1, with which a patch of the grid is kept when it is drawn.
    count, seed, rank, world
        As for `RandomCropSampler`.

    Raises
    ------
    UsageError
        If an image has no mask, or nothing has any weight.
    ImageMismatchError
        If a mask cannot be used; the message names it.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        weights: Mapping[str, Any] | Weight | Any,
        count: int,
        *,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        super().__init__(dataset, seed, rank, world)
        _check_count(count, self.patches)
        self.count = count
        is_function = callable(weights)
        self._weight: Weight | None = cast(Weight, weights) if is_function else None
        self._masks = None if is_function else Masks(self.patches, weights)

    def __len__(self) -> int:
        return len(range(self.rank, self.count, self.world))

    def __iter__(self) -> Iterator[int | Crop]:
        draws = self._kept() if self._masks is None else self._masks.draws(self._rng())
        return self._share(itertools.islice(draws, self.count))

    def _kept(self) -> Iterator[int]:
        rng, refused = self._rng(), 0
        assert self._weight is not None
        while refused < ATTEMPTS:
            i = int(rng.integers(len(self.patches)))
            crop = self.patches.crop(i)
            weight = self._weight(self.patches.names[crop.image], Region(crop.start, self.patches.patch))
            if not 0 <= weight <= 1:
                raise UsageError(f"the weight of a patch is from 0 to 1, not {weight}", "divide by the largest weight")
            refused = 0 if (keep := rng.random() < weight) else refused + 1
            if keep:
                yield i
        raise UsageError(f"{ATTEMPTS:,} patches in a row have no weight", "give weights nearer to 1")


def _free(shape: Sequence[int], patch: Sequence[int]) -> int:
    """Places where a patch can start on a plane."""
    return math.prod(max(1, n - p + 1) for n, p in zip(shape, patch, strict=True))


def _check_count(count: int, patches: Patches) -> None:
    if count < 1:
        raise UsageError(f"count is the number of patches an epoch, at least 1, not {count}", "")
    if not len(patches):
        raise UsageError("there are no patches to draw", "choose a smaller patch, or another edge than drop")
