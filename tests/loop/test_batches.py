"""Splitting a batch and merging it is what a naive loop over patches does, for NumPy and for PyTorch."""

from __future__ import annotations

import doctest
import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from patchloom.errors import UsageError
from patchloom.loop import batches
from patchloom.loop.batches import merge_batch, split_batch
from patchloom.testing.oracle import Oracle, positions_in_patch, smoothed
from patchloom.testing.strategies import Layout, layouts

BLENDS = ("crop", "constant", "gaussian", "hann")
WEIGHTED = BLENDS[1:]
PADS = ("reflect", "edge", "constant")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
KINDS = st.sampled_from([np.asarray, torch.as_tensor])


def noise(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Reproducible pixels without ties."""
    return (np.random.default_rng(seed).random(shape) * 200).astype(dtype)


def options(layout: Layout, **more: Any) -> dict[str, Any]:
    return {"patch": layout.patch, "stride": layout.stride, "edge": layout.edge, **more}


def naive_split(images: np.ndarray, oracle: Oracle) -> tuple[list[np.ndarray], list[list[int]]]:
    found = [(image, *each) for image, pixels in enumerate(images) for each in oracle.patches(pixels)]
    return [pixels for _, _, pixels in found], [[image, *origin] for image, origin, _ in found]


def stitched(images: np.ndarray, oracle: Oracle, model: Any) -> np.ndarray:
    return np.stack([oracle.stitch(image, model) for image in images])


def is_view(patches: Any, images: Any) -> bool:
    if isinstance(images, np.ndarray):
        return np.shares_memory(patches, images)
    return patches.untyped_storage().data_ptr() == images.untyped_storage().data_ptr()


def moved_last(array: Any) -> Any:
    """Channels last."""
    return np.moveaxis(array, 1, -1) if isinstance(array, np.ndarray) else array.movedim(1, -1)


class TestSplitting:
    @given(layouts(), st.sampled_from(PADS), KINDS, st.booleans(), st.integers(0, 3))
    def test_patches_are_those_of_a_naive_loop(
        self, layout: Layout, pad: str, kind: Any, last: bool, samples: int
    ) -> None:
        images = noise((samples, 2, *layout.size), "int16")
        expected, starts = naive_split(images, layout.oracle.replace(pad=pad, fill=7))
        batch = kind(moved_last(images) if last else images)
        patches, regions = split_batch(batch, **options(layout, pad=pad, fill=7, channels_last=last))
        assert type(patches) is type(regions) is type(batch)
        assert patches.dtype == batch.dtype and str(regions.dtype).endswith("int64")
        expected_array = np.array(expected, np.int16).reshape(-1, 2, *layout.patch)
        np.testing.assert_array_equal(patches, moved_last(expected_array) if last else expected_array)
        np.testing.assert_array_equal(regions, np.reshape(starts, (-1, 1 + len(layout.size))))

    def test_the_example_of_the_documentation_has_one_region_a_patch(self) -> None:
        patches, regions = split_batch(torch.zeros(2, 3, 64, 96), patch=32, stride=32)
        assert patches.shape == (12, 3, 32, 32) and regions.shape == (12, 3)
        assert regions[:4].tolist() == [[0, 0, 0], [0, 0, 32], [0, 0, 64], [0, 32, 0]]

    @pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
    @pytest.mark.parametrize(
        ("shape", "patch", "stride"),
        [
            ((1, 3, 64, 40), (16, 40), (16, 40)),  # whole rows
            ((1, 3, 64, 40), (16, 40), (8, 40)),  # that overlap
            ((1, 3, 64, 40), (64, 8), (64, 4)),  # whole columns
            ((5, 3, 16, 16), 16, None),  # whole images
            ((5, 3, 20, 20), 16, 10),  # one patch an image
            ((4, 1, 64, 40), (16, 40), None),  # rows of images of one channel follow each other in memory
        ],
    )
    def test_patches_are_views_where_strides_allow(self, kind: Any, shape: Any, patch: Any, stride: Any) -> None:
        images = kind(noise(shape))
        edge = "drop" if shape[-1] == 20 else "shift"
        assert is_view(split_batch(images, patch, stride, edge=edge)[0], images)

    @pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
    def test_patches_are_a_contiguous_copy_elsewhere(self, kind: Any) -> None:
        images = kind(noise((2, 3, 40, 40)))
        patches, _ = split_batch(images, 16)
        assert not is_view(patches, images)
        assert patches.flags.c_contiguous if isinstance(patches, np.ndarray) else patches.is_contiguous()

    @pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int64", "float16", "complex64"])
    @pytest.mark.parametrize("pad", PADS)
    def test_any_dtype_is_kept(self, dtype: str, pad: str) -> None:
        images = noise((1, 2, 5, 9), dtype)
        patches, _ = split_batch(images, 4, edge="pad", pad=pad, fill=1)
        assert patches.dtype == dtype
        from_torch, _ = split_batch(torch.as_tensor(images), 4, edge="pad", pad=pad, fill=1)
        np.testing.assert_array_equal(from_torch.numpy(), patches)

    def test_strides_of_any_kind_are_followed(self) -> None:
        whole = noise((2, 3, 40, 50))
        expected = split_batch(np.ascontiguousarray(whole[:, ::-1, ::2, ::-1]), 8, overlap=3)[0]
        np.testing.assert_array_equal(split_batch(whole[:, ::-1, ::2, ::-1], 8, overlap=3)[0], expected)
        tensor = torch.as_tensor(whole).to(memory_format=torch.channels_last)
        np.testing.assert_array_equal(split_batch(tensor, 8)[0], split_batch(whole, 8)[0])

    def test_a_read_only_array_stays_read_only(self) -> None:
        images = noise((1, 1, 8, 8))
        images.flags.writeable = False
        assert not split_batch(images, (4, 8))[0].flags.writeable

    def test_what_numpy_understands_is_taken_as_an_array(self) -> None:
        patches, _ = split_batch([[[[1, 2], [3, 4]]]], 1)
        assert patches.ravel().tolist() == [1, 2, 3, 4]

    @pytest.mark.parametrize("number", [np.int64(4), torch.tensor(4), (np.int32(4), 4), np.array([4, 4])])
    def test_numbers_of_any_kind_are_taken(self, number: Any) -> None:
        assert split_batch(noise((1, 1, 8, 8)), number)[0].shape == (4, 1, 4, 4)

    def test_the_device_is_kept(self) -> None:
        images = torch.empty(2, 3, 40, 50, device="meta")
        patches, regions = split_batch(images, 16, edge="pad")
        assert patches.device == regions.device == images.device and patches.shape == (2 * 3 * 4, 3, 16, 16)

    def test_drop_that_leaves_nothing_gives_no_patches(self) -> None:
        patches, regions = split_batch(noise((2, 3, 8, 8)), 16, edge="drop")
        assert patches.shape == (0, 3, 16, 16) and regions.shape == (0, 3)

    def test_gradients_are_how_often_a_pixel_is_in_a_patch(self) -> None:
        images = torch.rand(2, 1, 10, 11, requires_grad=True)
        split_batch(images, 4, 3)[0].sum().backward()
        assert images.grad is not None
        expected = np.zeros((10, 11))
        for y, x in itertools.product([0, 3, 6], [0, 3, 6, 7]):
            expected[y : y + 4, x : x + 4] += 1
        np.testing.assert_array_equal(images.grad[1, 0], expected)

    @pytest.mark.parametrize("edge", ["shift", "pad", "drop"])
    @pytest.mark.parametrize("pad", PADS)
    def test_gradients_are_right(self, edge: Any, pad: Any) -> None:
        images = torch.rand(2, 1, 5, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda batch: split_batch(batch, (3, 4 - 2 * (edge == "drop")), 2, edge=edge, pad=pad)[0], (images,)
        )


class TestGuessingTheLayout:
    @pytest.mark.parametrize(
        ("shape", "patch", "last"),
        [
            ((2, 3, 64, 64), 32, False),
            ((2, 64, 64, 3), 32, True),
            ((2, 64, 64, 1), 2, True),
            ((2, 64, 64, 5), 32, False),  # five channels are not guessed
            ((2, 8, 64, 4), 4, False),  # the patch fits: 8 channels of 64 x 4
            ((2, 3, 64, 4), 32, False),  # does not fit channels last either
            ((2, 16, 64, 64, 3), (8, 32, 32), True),
            ((2, 3, 16, 64, 64), (8, 32, 32), False),
        ],
    )
    def test_channels_are_last_only_if_first_makes_no_sense(self, shape: Any, patch: Any, last: bool) -> None:
        images = noise(shape)
        guessed, _ = split_batch(images, patch)
        np.testing.assert_array_equal(guessed, split_batch(images, patch, channels_last=last)[0])

    @pytest.mark.parametrize("shape", [(2, 3, 40, 40), (2, 40, 40, 3)])
    def test_merging_guesses_as_splitting_does(self, shape: tuple[int, ...]) -> None:
        images = noise(shape)
        patches, regions = split_batch(images, 16, overlap=4)
        np.testing.assert_array_equal(merge_batch(patches, regions, shape), images)

    @pytest.mark.parametrize(
        ("shape", "predictions"), [((1, 64, 64, 3), (4, 2, 32, 32)), ((1, 3, 64, 64), (4, 32, 32, 2))]
    )
    def test_predictions_of_another_layout_than_the_batch_are_refused(self, shape: Any, predictions: Any) -> None:
        _, regions = split_batch(noise((1, 3, 64, 64)), 32)
        with pytest.raises(UsageError, match="channels_last="):
            merge_batch(noise(predictions), regions, shape)


class TestMerging:
    @given(layouts(), st.sampled_from(BLENDS), KINDS, st.booleans())
    def test_merged_predictions_are_what_the_oracle_stitches(
        self, layout: Layout, blend: str, kind: Any, last: bool
    ) -> None:
        oracle = layout.oracle.replace(blend=blend)
        images = noise((2, 2, *layout.size))
        patches, regions = split_batch(images, **options(layout, channels_last=False))
        assume(len(patches))
        # One patch on a long axis may be that of any stride: no grid can be told from it, and crop needs one.
        alone = (
            n == 1 and size >= 2 * p for n, size, p in zip(layout.grid.counts, layout.size, layout.patch, strict=True)
        )
        assume(blend != "crop" or not any(alone))
        expected = stitched(images, oracle, positions_in_patch)
        predictions, shape = positions_in_patch(patches), images.shape
        if last:
            predictions, shape = moved_last(predictions), (2, *layout.size, 2)
        merged = merge_batch(kind(predictions), kind(regions), shape, blend, channels_last=last)
        assert type(merged) is type(kind(predictions)) and str(merged.dtype).endswith("float32")
        found = np.asarray(merged)
        if last:
            expected = moved_last(expected)
        if blend == "crop":
            np.testing.assert_array_equal(found, expected)
        else:
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.nanmax(np.abs(expected)))

    @given(layouts(), st.sampled_from(BLENDS), KINDS)
    def test_splitting_and_merging_gives_the_batch_back(self, layout: Layout, blend: Any, kind: Any) -> None:
        layout = Layout(layout.size, layout.patch, tuple(map(min, layout.stride, layout.patch)), "shift")
        images = kind(noise((3, 2, *layout.size)))
        patches, regions = split_batch(images, **options(layout, channels_last=False))
        merged = merge_batch(patches, regions, images.shape, blend, channels_last=False)
        np.testing.assert_allclose(merged, images, rtol=0 if blend == "crop" else 1e-6)

    @given(st.data(), layouts((2,)), st.sampled_from(BLENDS), KINDS)
    def test_any_part_of_the_patches_in_any_order_is_merged_or_refused(
        self, data: st.DataObject, layout: Layout, blend: Any, kind: Any
    ) -> None:
        images = noise((2, 1, *layout.size))
        patches, regions = split_batch(images, **options(layout, channels_last=False))
        chosen = data.draw(st.lists(st.sampled_from(range(len(patches))), unique=True)) if len(patches) else []
        some, where = kind(smoothed(patches[chosen])), regions[chosen].tolist()
        try:
            merged = np.asarray(merge_batch(some, where, images.shape, blend, channels_last=False))
        except UsageError:
            assert blend == "crop"
            return
        window = np.ones(layout.patch) if blend == "crop" else batches.window(blend, layout.patch)
        values, total = np.zeros(images.shape), np.zeros(images.shape)
        known = np.zeros(images.shape, bool)
        for (sample, y, x), (patch,) in zip(where, np.asarray(some), strict=True):
            box = (sample, 0, slice(y, y + layout.patch[0]), slice(x, x + layout.patch[1]))
            inside = tuple(map(slice, total[box].shape))
            values[box] += (patch * window)[inside]
            total[box] += window[inside]
            known[box] |= merged[box] == patch[inside]
        assert np.isnan(merged[total == 0]).all()
        if blend == "crop":
            # Patches that are missing take what they own with them; the rest is from one of those that are there.
            assert known[~np.isnan(merged)].all()
        else:
            np.testing.assert_allclose(merged[total > 0], (values / np.maximum(total, 1e-30))[total > 0], rtol=1e-4)

    def test_regions_may_be_lists_arrays_or_tensors(self) -> None:
        images = noise((2, 1, 20, 20))
        patches, regions = split_batch(images, 8)
        for form in (regions.tolist(), tuple(map(tuple, regions)), list(regions), torch.as_tensor(regions),
                     list(torch.as_tensor(regions)), regions.astype("uint16")):  # fmt: skip
            np.testing.assert_array_equal(merge_batch(patches, form, images.shape), images)

    def test_a_missing_patch_is_nodata_under_crop(self) -> None:
        images = noise((2, 1, 20, 20))
        patches, regions = split_batch(images, 10)
        merged = merge_batch(patches[1:], regions[1:], images.shape)
        assert np.isnan(merged[0, 0, :10, :10]).all() and np.isnan(merged).sum() == 100
        np.testing.assert_array_equal(merged[~np.isnan(merged)], images[~np.isnan(merged)])
        assert (merge_batch(patches[1:], regions[1:], images.shape, nodata=-1)[0, 0, :10, :10] == -1).all()

    @pytest.mark.parametrize("blend", WEIGHTED)
    def test_a_missing_patch_takes_no_weight_from_its_neighbours(self, blend: Any) -> None:
        images = np.ones((1, 1, 32, 32), np.float32)
        patches, regions = split_batch(images, 16, 8)
        merged = merge_batch(np.delete(patches, 4, 0), np.delete(regions, 4, 0), images.shape, blend)
        np.testing.assert_allclose(merged, 1, rtol=1e-6)

    @pytest.mark.parametrize("blend", WEIGHTED)
    def test_starts_of_no_grid_are_merged_by_weights(self, blend: Any) -> None:
        images = noise((1, 2, 30, 30))
        regions = [(0, 0, 0), (0, 7, 3), (0, 11, 14)]
        patches = np.stack([images[0, :, y : y + 16, x : x + 16] for _, y, x in regions])
        merged = merge_batch(patches, regions, images.shape, blend)
        covered = np.zeros(images.shape, bool)
        for _, y, x in regions:
            covered[:, :, y : y + 16, x : x + 16] = True
        np.testing.assert_array_equal(np.isnan(merged), ~covered)
        np.testing.assert_allclose(merged[covered], images[covered], rtol=1e-6)

    def test_starts_of_no_grid_are_refused_by_crop(self) -> None:
        with pytest.raises(UsageError, match=r"no grid.*crop"):
            merge_batch(noise((3, 1, 8, 8)), [(0, 0, 0), (0, 3, 0), (0, 9, 0)], (1, 1, 30, 8), "crop")

    @pytest.mark.parametrize("blend", BLENDS)
    def test_a_region_that_comes_twice_counts_once(self, blend: Any) -> None:
        images = noise((1, 1, 20, 20))
        patches, regions = split_batch(images, 8, 6)
        twice = np.concatenate([patches[:2] * 0, patches])
        merged = merge_batch(twice, np.concatenate([regions[:2], regions]), images.shape, blend)
        np.testing.assert_allclose(merged, images, rtol=1e-6)

    def test_predictions_without_channels_give_none(self) -> None:
        images = noise((2, 3, 20, 20))
        patches, regions = split_batch(images, 8)
        np.testing.assert_array_equal(merge_batch(patches[:, 1], regions, images.shape), images[:, 1])

    def test_the_number_of_channels_is_that_of_the_predictions(self) -> None:
        images = noise((2, 3, 20, 20))
        patches, regions = split_batch(images, 8)
        assert merge_batch(patches[:, [0] * 7], regions, images.shape).shape == (2, 7, 20, 20)

    @pytest.mark.parametrize("blend", BLENDS)
    @pytest.mark.parametrize("nodata", [None, 3])
    def test_no_regions_give_nodata_everywhere(self, blend: Any, nodata: float | None) -> None:
        merged = merge_batch(np.zeros((0, 2, 8, 8), np.uint8), [], (1, 3, 20, 20), blend, nodata=nodata)
        empty = 255 if blend == "crop" else np.nan
        np.testing.assert_array_equal(merged, np.full((1, 2, 20, 20), empty if nodata is None else nodata))

    @pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
    @pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int64"])
    def test_whole_numbers_are_kept_by_crop_and_become_float32_by_weights(self, kind: Any, dtype: str) -> None:
        images = kind(noise((1, 1, 20, 20), dtype))
        patches, regions = split_batch(images, 8, edge="drop")
        cropped = merge_batch(patches, regions, images.shape)
        assert cropped.dtype == images.dtype
        np.testing.assert_array_equal(cropped[..., :16, :16], images[..., :16, :16])
        assert cropped[0, 0, -1, -1] == (0 if dtype == "bool" else np.iinfo(dtype).max)
        blended = merge_batch(patches, regions, images.shape, "hann")
        assert str(blended.dtype).endswith("float32") and bool(np.isnan(np.asarray(blended))[0, 0, -1, -1])

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_small_floats_are_summed_in_float32(self, dtype: torch.dtype) -> None:
        images = torch.full((1, 1, 64, 64), 1 / 3).to(dtype)
        patches, regions = split_batch(images, 16, 4)
        merged = merge_batch(patches, regions, images.shape, "constant")
        assert merged.dtype == dtype
        torch.testing.assert_close(merged, images, rtol=max(torch.finfo(dtype).eps, 1e-6), atol=0)

    @pytest.mark.parametrize("blend", BLENDS)
    @pytest.mark.parametrize("part", [slice(None), slice(2, None)])
    def test_gradients_are_right(self, blend: Any, part: slice) -> None:
        _, regions = split_batch(noise((2, 1, 5, 6)), 3, 2)
        patches = torch.rand(len(regions), 2, 3, 3, dtype=torch.float64, requires_grad=True)[part]
        assert torch.autograd.gradcheck(
            lambda some: merge_batch(some, regions[part], (2, 1, 5, 6), blend, nodata=0),
            (patches.detach().requires_grad_(),),
        )

    def test_the_device_is_kept(self) -> None:
        _, regions = split_batch(noise((2, 3, 40, 50)), 16, edge="pad")
        for blend in BLENDS:
            merged = merge_batch(torch.empty(len(regions), 5, 16, 16, device="meta"), regions, (2, 3, 40, 50), blend)
            assert merged.device.type == "meta" and merged.shape == (2, 5, 40, 50)


class TestMistakes:
    @pytest.mark.parametrize(
        ("shape", "more", "message"),
        [
            ((3, 64, 64), {"patch": 32}, "images has 3 axes"),
            ((1, 3, 64, 64), {"patch": (8, 8, 8)}, "3 numbers for 2 axes"),
            ((1, 3, 64, 64), {"patch": 8.5}, "whole number"),
            ((1, 3, 64, 64), {"patch": 0}, "at least 1"),
            ((1, 3, 64, 64), {"patch": 8, "overlap": 8}, "overlap is below the patch"),
            ((1, 3, 64, 64), {"patch": 8, "overlap": 2, "stride": 6}, "excludes"),
            ((1, 3, 64, 64), {"patch": 8, "stride": (4, 4, 4)}, "stride .* 3 numbers"),
            ((1, 3, 64, 64), {"patch": 8, "edge": "wrap"}, "edge is one of"),
            ((1, 3, 64, 64), {"patch": 8, "pad": "wrap"}, "pad is one of"),
            (
                (1, 3, 60, 64),
                {"patch": 8, "edge": "pad", "pad": "constant", "fill": 300},
                "fill 300 is no value of uint8",
            ),
            ((1, 3, 0, 64), {"patch": 8}, "at least 1"),
        ],
    )
    @pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
    def test_splitting_says_what_is_wrong(self, shape: Any, more: Any, message: str, kind: Any) -> None:
        with pytest.raises(UsageError, match=message):
            split_batch(kind(np.zeros(shape, np.uint8)), **more)

    @pytest.mark.parametrize("images", ["text", None, [[1], [1, 2]], [object()]])
    def test_what_is_no_array_is_refused(self, images: Any) -> None:
        with pytest.raises(UsageError, match="images"):
            split_batch(images, 8)

    @pytest.mark.parametrize(
        ("predictions", "regions", "shape", "more", "message"),
        [
            ((2, 1, 8, 8), [(0, 0, 0)], (1, 1, 8, 8), {}, "2 predictions and 1 regions"),
            ((1, 1, 8, 8), [(0, 0, 0)], (1, 8, 8), {}, "shape has 3 axes"),
            ((1, 1, 8, 8), [(0, 0, 0, 0)], (1, 1, 8, 8), {}, r"regions are \(1, 4\)"),
            ((1, 1, 8, 8), [(0, 0.5, 0)], (1, 1, 8, 8), {}, "not whole numbers"),
            ((1, 1, 8, 8), [(1, 0, 0)], (1, 1, 8, 8), {}, r"region \(1, 0, 0\) is outside of 1 images"),
            ((1, 1, 8, 8), [(0, 0, -1)], (1, 1, 8, 8), {}, "outside"),
            ((1, 1, 8, 8), [(0, 8, 0)], (1, 1, 8, 8), {}, "outside"),
            ((1, 5), [(0, 0, 0)], (1, 1, 8, 8), {}, "no 2 spatial axes"),
            ((1, 1, 8, 8), [(0, 0, 0)], (1, 1, 8, 8), {"blend": "max"}, "blend is one of"),
        ],
    )
    def test_merging_says_what_is_wrong(
        self, predictions: Any, regions: Any, shape: Any, more: Any, message: str
    ) -> None:
        with pytest.raises(UsageError, match=message):
            merge_batch(np.zeros(predictions), regions, shape, **more)

    @pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
    def test_nodata_that_the_dtype_cannot_hold_is_refused(self, kind: Any) -> None:
        with pytest.raises(UsageError, match="nodata nan is no value"):
            merge_batch(kind(np.zeros((1, 1, 8, 8), np.uint8)), [(0, 0, 0)], (1, 1, 8, 8), nodata=float("nan"))


def test_examples_run() -> None:
    results = doctest.testmod(batches)
    assert results.failed == 0 and results.attempted > 5


def test_numpy_arrays_need_no_torch() -> None:
    code = (
        "import sys, numpy as np; from patchloom.loop.batches import merge_batch, split_batch;"
        "images = np.zeros((2, 3, 20, 20));"
        "assert merge_batch(*split_batch(images, 8), images.shape, 'hann').shape == images.shape;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
