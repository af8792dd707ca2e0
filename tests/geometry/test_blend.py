"""Blend windows are what they are defined as, and what they are divided by makes them sum to one."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchloom.geometry.blend import Blend, BlendWeights, window
from patchloom.geometry.grid import Grid
from patchloom.testing import oracle
from patchloom.testing.strategies import Layout, layouts

WEIGHTED: tuple[Blend, ...] = ("constant", "gaussian", "hann")


@given(st.sampled_from(WEIGHTED), st.lists(st.integers(1, 12), min_size=1, max_size=3))
def test_windows_equal_the_formula_written_out_pixel_by_pixel(blend: Blend, shape: list[int]) -> None:
    np.testing.assert_allclose(window(blend, shape), oracle.weights(blend, shape), rtol=1e-12)


def test_gaussian_is_the_importance_map_of_monai() -> None:
    # compute_importance_map((4, 6), mode="gaussian", sigma_scale=0.125): exp(-x^2 / (2 (0.125 n)^2)), floor 0.001.
    y = [math.exp(-x * x / (2 * 0.5**2)) for x in (-1.5, -0.5, 0.5, 1.5)]
    x = [math.exp(-x * x / (2 * 0.75**2)) for x in (-2.5, -1.5, -0.5, 0.5, 1.5, 2.5)]
    expected = [[max(a * b, 1e-3) for b in x] for a in y]
    np.testing.assert_allclose(window("gaussian", (4, 6)), expected, rtol=1e-12)
    assert window("gaussian", (4, 6))[0, 0] == 1e-3
    assert y[0] * x[0] < 1e-3 < y[0] * x[1]


def test_gaussian_of_a_large_patch_has_the_numbers_of_the_formula() -> None:
    weights = window("gaussian", (512, 512))
    assert weights[0, 0] == weights[511, 0] == 1e-3
    assert weights[255, 255] == pytest.approx(math.exp(-2 * 0.5**2 / (2 * 64**2)))
    assert weights[255, 100] == pytest.approx(math.exp(-(0.5**2 + 155.5**2) / (2 * 64**2)))


def test_hann_is_sampled_in_the_middle_of_pixels() -> None:
    np.testing.assert_allclose(window("hann", (4,)), [math.sin(math.pi * (i + 0.5) / 4) ** 2 for i in range(4)])
    np.testing.assert_allclose(window("hann", (4,)), [0.1464466, 0.8535534, 0.8535534, 0.1464466], atol=1e-7)


@given(st.sampled_from(WEIGHTED), st.lists(st.integers(1, 40), min_size=1, max_size=2))
def test_no_weight_is_zero_and_all_are_symmetric(blend: Blend, shape: list[int]) -> None:
    weights = window(blend, shape)
    assert (weights > 0).all()
    np.testing.assert_allclose(weights, np.flip(weights), rtol=1e-9)


@pytest.mark.parametrize("blend", ["crop", "mean"])
def test_what_has_no_window_is_refused(blend: Blend) -> None:
    with pytest.raises(ValueError, match="no window"):
        window(blend, (4, 4))


@given(layouts((1, 2, 3)), st.sampled_from(WEIGHTED))
def test_weights_sum_to_one_at_every_covered_pixel(layout: Layout, blend: Blend) -> None:
    grid = layout.grid
    weights, total, covered = BlendWeights(grid, blend), reaching(grid), reaching(grid)
    for patch in grid:
        total[patch.region.slices] += weights(patch.place)
        covered[patch.region.slices] = 1
    np.testing.assert_allclose(total, covered, rtol=1e-5)


@given(layouts(), st.sampled_from(WEIGHTED))
def test_weights_are_the_window_over_the_sum_of_all_windows(layout: Layout, blend: Blend) -> None:
    grid = layout.grid
    total, one = reaching(grid), oracle.weights(blend, layout.patch)
    for patch in grid:
        total[patch.region.slices] += one
    weights = BlendWeights(grid, blend)
    for patch in grid:
        found = weights(patch.place)
        assert found.dtype == np.float32
        assert found.shape == layout.patch
        np.testing.assert_allclose(found, one / total[patch.region.slices], rtol=1e-6)


def reaching(grid: Grid) -> np.ndarray:
    """Zeros for all pixels that a patch may reach, those beyond the image, too."""
    return np.zeros([n + p for n, p in zip(grid.shape, grid.patch, strict=True)])


def test_a_patch_that_overlaps_nothing_has_the_weight_one() -> None:
    weights = BlendWeights(Grid.of((100, 100), 10, 20), "hann")
    assert (weights((1, 1)) == 1).all()


def test_weights_are_the_same_from_any_thread() -> None:
    weights = BlendWeights(Grid.of((100, 100), 20, 7), "gaussian")
    places = [patch.place for patch in Grid.of((100, 100), 20, 7)]
    expected = {place: weights(place).copy() for place in places}
    shared, wrong = BlendWeights(Grid.of((100, 100), 20, 7), "gaussian"), []

    def compare() -> None:
        wrong.extend(place for place in places if not np.array_equal(shared(place), expected[place]))

    threads = [threading.Thread(target=compare) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
