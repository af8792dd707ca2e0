"""Random orders that are computed, not kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.geometry.grid import Grid
from patchloom.loop.index import PatchIndex, PlaneLayout
from patchloom.loop.order import BlockShuffle, Permutation


@settings(deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**32))
def test_a_permutation_has_each_number_once(n: int, seed: int) -> None:
    assert sorted(Permutation(n, seed)(np.arange(n)).tolist()) == list(range(n))


def test_a_permutation_is_random_enough() -> None:
    n = 10_000
    order = Permutation(n, 5)(np.arange(n))
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 0.05
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.05
    assert not np.array_equal(order, Permutation(n, 6)(np.arange(n)))


def test_a_permutation_of_very_many_is_computed_where_it_is_asked_for() -> None:
    n = 10**12
    numbers = Permutation(n, 1)(np.array([0, n - 1, n // 2]))
    assert len(set(numbers.tolist())) == 3
    assert ((numbers >= 0) & (numbers < n)).all()


def index(*shapes: tuple[int, int], loops: tuple[int, ...] = ()) -> PatchIndex:
    layouts = [PlaneLayout(Grid.of(shape, patch=10), "T" * len(loops), loops) for shape in dict.fromkeys(shapes)]
    numbers = {layout.grid.shape: i for i, layout in enumerate(layouts)}
    return PatchIndex(layouts, [numbers[shape] for shape in shapes])


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=4),
    block=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    pool=st.integers(1, 5),
    shares=st.integers(1, 4),
    loops=st.sampled_from([(), (3,)]),
)
def test_shares_of_a_shuffle_have_each_patch_once(
    shapes: list[tuple[int, int]], block: tuple[int, int], pool: int, shares: int, loops: tuple[int, ...]
) -> None:
    patches = index(*shapes, loops=loops)
    drawn = []
    for share in range(shares):
        shuffle = BlockShuffle(patches, block, pool, [7], share, shares)
        numbers = list(shuffle)
        assert len(numbers) == len(shuffle)
        drawn += numbers
    assert sorted(drawn) == list(range(len(patches)))


def test_few_blocks_are_under_way_at_a_time() -> None:
    patches = index((800, 800))
    drawn = np.array(list(BlockShuffle(patches, (8, 8), 4, [0])))
    blocks = drawn // 80 // 8 * 10 + drawn % 80 // 8
    window = [len(set(blocks[i : i + 64])) for i in range(0, len(blocks) - 64, 64)]
    assert max(window) <= 2 * 4
    assert np.mean(window) > 3, "blocks are mixed"


@pytest.mark.parametrize("seed", [[1, 0], [0, 1]])
def test_seed_and_epoch_give_the_order(seed: list[int]) -> None:
    patches = index((300, 300))
    assert list(BlockShuffle(patches, (4, 4), 3, seed)) == list(BlockShuffle(patches, (4, 4), 3, seed))
    assert list(BlockShuffle(patches, (4, 4), 3, seed)) != list(BlockShuffle(patches, (4, 4), 3, [0, 0]))
