"""Orders in which patches are drawn: reproducible, in memory that does not grow with the number of patches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from patchloom.loop.index import PatchIndex, PlaneLayout

__all__ = ["BlockShuffle", "Permutation"]

ROUNDS = 4
AT_ONCE = 4096


class Permutation:
    """A random order of ``range(n)``, each number of which is computed when it is asked for.

    A Feistel network over the next power of 4 whose round function is the finaliser of SplitMix64 (Steele, Lea and
    Flood 2014, "Fast splittable pseudorandom number generators"); numbers beyond n are sent through again, as
    Black and Rogaway 2002 ("Ciphers with arbitrary finite domains") do.

    Examples
    --------
    >>> sorted(Permutation(5, seed=1)(np.arange(5)).tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(self, n: int, seed: int | Sequence[int]) -> None:
        self._n = n
        self._half = np.uint64(max(1, (max(n - 1, 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = np.random.SeedSequence(seed).generate_state(ROUNDS, np.uint64)

    def __len__(self) -> int:
        return self._n

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers at these places of the order."""
        values = self._mixed(places.astype(np.uint64))
        while (beyond := values >= self._n).any():
            values[beyond] = self._mixed(values[beyond])
        return values.astype(np.int64)

    def _mixed(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_hash(right, key) & self._mask)
        return (left << self._half) | right


def _hash(values: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        mixed = values + key
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


class BlockShuffle:
    """Blocks of neighbouring patches in random order, several of them mixed: chunks are shared within a block.

    Parameters
    ----------
    index
        The patches.
    block
        Patches of a block on each spatial axis.
    pool
        Blocks that are mixed.
    seed
        Of the order.
    share, shares
        Only every so-manieth block: all shares together have each patch once.
    """

    def __init__(
        self, index: PatchIndex, block: Sequence[int], pool: int, seed: Sequence[int], share: int = 0, shares: int = 1
    ) -> None:
        self._index, self._pool, self._seed = index, pool, seed
        ndim = len(index.layouts[0].grid.counts) if index.layouts else 0
        self._counts = np.array([layout.grid.counts for layout in index.layouts] or [()], np.int64)
        self._block = np.minimum(np.array(block, np.int64), np.maximum(self._counts, 1)) if ndim else self._counts
        self._lines = -(-self._counts // self._block) if ndim else self._counts
        planes = [layout.planes for layout in index.layouts]
        self._first = index.sums(planes * self._lines.prod(1)) if planes else np.zeros(1, np.int64)
        self._order = Permutation(int(self._first[-1]), seed)
        self._places = range(share, len(self._order), shares)

    def __len__(self) -> int:
        """Number of patches of this share."""
        if self._places.step == 1:
            return len(self._index)
        return sum(int(self._corners(blocks)[3].prod(1).sum()) for blocks in self._blocks())

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng(self._seed)
        blocks = self._numbers()
        pool = [list(block) for block in itertools.islice(blocks, self._pool)]
        left = np.array([len(block) for block in pool], np.int64)
        while left.any():
            # Drawn in proportion to what is left, so that a large block does not remain alone in the end.
            chosen = int(np.searchsorted(np.cumsum(left), rng.integers(left.sum()), "right"))
            yield pool[chosen].pop()
            left[chosen] -= 1
            if not left[chosen] and (block := next(blocks, None)) is not None:
                pool[chosen], left[chosen] = block, len(block)

    def _blocks(self) -> Iterator[NDArray[np.int64]]:
        for i in range(0, len(self._places), AT_ONCE):
            yield self._order(np.asarray(self._places[i : i + AT_ONCE], np.int64))

    def _numbers(self) -> Iterator[list[int]]:
        """Numbers of the patches of each block, shuffled."""
        rng = np.random.default_rng([*self._seed, 1])
        for blocks in self._blocks():
            for image, sample, corner, shape in zip(*self._corners(blocks), strict=True):
                layout = self._index.layout(int(image))
                assert layout is not None
                first = int(self._index.first[image]) + int(sample) * len(layout.grid)
                numbers = first + _box(layout, corner, shape)
                rng.shuffle(numbers)
                yield numbers.tolist()

    def _corners(self, blocks: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Image, sample, first place and extent of each block."""
        images = np.searchsorted(self._first, blocks, "right") - 1
        kinds = self._index.layout_of[images]
        lines, counts, extent = self._lines[kinds], self._counts[kinds], self._block[kinds]
        samples, rest = np.divmod(blocks - self._first[images], lines.prod(1))
        corner = np.empty_like(lines)
        for axis in reversed(range(lines.shape[1])):
            rest, corner[:, axis] = np.divmod(rest, lines[:, axis])
        corner *= extent
        return images, samples, corner, np.minimum(extent, counts - corner)


def _box(layout: PlaneLayout, corner: NDArray[np.int64], shape: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers within a plane of the patches of a box."""
    numbers = np.zeros((1,) * len(shape), np.int64)
    for axis, (first, n, count) in enumerate(zip(corner, shape, layout.grid.counts, strict=True)):
        places = np.arange(first, first + n).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        numbers = numbers * count + places
    return numbers.ravel()
