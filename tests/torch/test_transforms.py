"""Random and centre patches of tensors, arrays and photographs, alone and in workers."""

from __future__ import annotations

import copy
import doctest
import pickle
import subprocess
import sys
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from patchloom.errors import UsageError
from patchloom.torch import CentrePatch, RandomPatch, transforms

Pair = namedtuple("Pair", ["image", "label"])
CROPS = (RandomPatch, CentrePatch)
PADS = {"reflect": "reflect", "edge": "edge", "constant": "constant"}


def positions(*shape: int) -> np.ndarray:
    """Each pixel is its number, so that a patch shows where it is from."""
    return np.arange(np.prod(shape), dtype=np.int32).reshape(shape)


class Starts(Dataset[torch.Tensor]):
    """The places of random patches."""

    def __init__(self, transform: RandomPatch) -> None:
        self.transform = transform
        self.image = torch.as_tensor(positions(1000, 1000))

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(self.image)[0, 0]


def places(transform: RandomPatch, seed: int = 0, epochs: int = 1, **options: Any) -> list[list[int]]:
    """First pixels of the patches of each epoch."""
    torch.manual_seed(seed)
    loader = DataLoader(Starts(transform), batch_size=4, **options)
    return [torch.cat(list(loader)).tolist() for _ in range(epochs)]


class TestPatches:
    @pytest.mark.parametrize("crop", CROPS)
    @given(data=st.data(), ndim=st.sampled_from([2, 3]))
    def test_the_patch_is_where_the_start_says(self, crop: Any, data: st.DataObject, ndim: int) -> None:
        size = tuple(data.draw(st.integers(1, 9)) for _ in range(ndim))
        patch = tuple(data.draw(st.integers(1, n)) for n in size)
        image = positions(*size)
        box = None
        for each in (image, torch.as_tensor(image)):
            cut, start = crop(patch, with_start=True)(each)
            assert type(cut) is type(each) and len(start) == ndim
            box = tuple(slice(a, a + p) for a, p in zip(start, patch, strict=True))
            np.testing.assert_array_equal(cut, image[box])

    @pytest.mark.parametrize("crop", CROPS)
    @pytest.mark.parametrize(
        ("image", "expected"),
        [
            (torch.zeros(3, 9, 8), (3, 4, 5)),
            (torch.zeros(2, 5, 3, 9, 8), (2, 5, 3, 4, 5)),
            (np.zeros((9, 8)), (4, 5)),
            (np.zeros((9, 8, 3), np.uint8), (4, 5, 3)),
        ],
    )
    def test_channels_are_kept_where_each_kind_has_them(self, crop: Any, image: Any, expected: Any) -> None:
        assert crop((4, 5))(image).shape == expected

    def test_three_numbers_are_a_volume(self) -> None:
        assert RandomPatch((2, 3, 4))(torch.zeros(1, 5, 6, 7)).shape == (1, 2, 3, 4)
        assert CentrePatch([2, 3, 4])(np.zeros((5, 6, 7, 2))).shape == (2, 3, 4, 2)

    @pytest.mark.parametrize("crop", CROPS)
    def test_patches_of_arrays_are_views(self, crop: Any) -> None:
        array, tensor = positions(9, 8), torch.as_tensor(positions(3, 9, 8))
        assert np.shares_memory(crop(4)(array), array)
        assert crop(4)(tensor).untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()

    def test_every_place_comes_with_the_same_chance(self) -> None:
        crop = RandomPatch((2, 3), seed=0, with_start=True)
        image = np.zeros((3, 5))
        starts = [crop(image)[1] for _ in range(6000)]
        counts = np.unique(starts, axis=0, return_counts=True)[1]
        assert len(counts) == 2 * 3 and counts.min() > 850 and counts.max() < 1150

    def test_the_centre_is_in_the_middle(self) -> None:
        assert CentrePatch(4, with_start=True)(np.zeros((10, 7)))[1] == (3, 1)

    @pytest.mark.parametrize("crop", CROPS)
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "F", "I", "I;16", "CMYK", "LA"])
    @pytest.mark.parametrize("pad", PADS)
    def test_photographs_of_any_mode_are_cut_and_padded(self, crop: Any, mode: str, pad: Any) -> None:
        image = Image.fromarray(positions(9, 8).astype("uint8")).convert(mode)
        if mode == "P":
            image.putpalette(bytes(range(256)) * 3)
        for patch in ((4, 5), (12, 5)):
            cut, start = crop(patch, pad=pad, with_start=True)(image)
            assert (cut.mode, cut.height, cut.width) == (mode, *patch)
            assert cut.getpalette() == image.getpalette()
            expected = crop(patch, pad=pad)._cropped(np.asarray(image), start, (9, 8))
            np.testing.assert_array_equal(np.asarray(cut), expected)

    @pytest.mark.parametrize("pad", PADS)
    def test_small_images_are_padded_as_numpy_pads(self, pad: Any) -> None:
        image = positions(3, 9)
        more = {"constant_values": 7} if pad == "constant" else {}
        centred, start = CentrePatch((8, 4), pad=pad, fill=7, with_start=True)(torch.as_tensor(image))
        assert start == (-3, 2)
        np.testing.assert_array_equal(centred, np.pad(image, ((3, 2), (0, 0)), PADS[pad], **more)[:, 2:6])
        patch, (y, x) = RandomPatch((8, 4), pad=pad, fill=7, with_start=True)(image)
        assert y == 0
        np.testing.assert_array_equal(patch, np.pad(image, ((0, 5), (0, 0)), PADS[pad], **more)[:, x : x + 4])


class TestInputs:
    @pytest.mark.parametrize("crop", CROPS)
    def test_image_and_mask_get_the_same_patch(self, crop: Any) -> None:
        pixels = positions(9, 8)
        colours = np.repeat(pixels[..., None], 3, 2)
        for _ in range(5):
            image, mask, photograph = crop(4)(
                torch.as_tensor(colours).permute(2, 0, 1), pixels, Image.fromarray(pixels)
            )
            np.testing.assert_array_equal(image[1], mask)
            np.testing.assert_array_equal(np.asarray(photograph), mask)

    @pytest.mark.parametrize(
        "inputs",
        [
            {"image": torch.zeros(3, 9, 8), "name": "a", "label": 3},
            (torch.zeros(3, 9, 8), 3),
            [torch.zeros(3, 9, 8), torch.tensor(3)],
            Pair(torch.zeros(3, 9, 8), torch.tensor([1, 2])),
            {"image": [torch.zeros(3, 9, 8)], "boxes": torch.zeros(5, 3), "nothing": None},
            {"image": torch.zeros(3, 9, 8), "label": np.zeros(2)},
        ],
    )
    def test_containers_keep_their_kind_and_what_is_no_image(self, inputs: Any) -> None:
        cut = RandomPatch(4)(inputs)
        assert type(cut) is type(inputs)
        before = inputs.items() if isinstance(inputs, dict) else enumerate(inputs)
        for key, value in before:
            if not (isinstance(value, list) or (torch.is_tensor(value) and value.shape == (3, 9, 8))):
                assert cut[key] is value
        image = cut["image"] if isinstance(cut, dict) else cut[0]
        assert (image[0] if isinstance(image, list) else image).shape == (3, 4, 4)

    def test_several_inputs_give_a_tuple(self) -> None:
        assert isinstance(CentrePatch(4)(np.zeros((9, 8)), 3), tuple)

    def test_the_start_comes_with_any_container(self) -> None:
        cut, (y, x) = CentrePatch(4, with_start=True)({"image": positions(9, 8)})
        assert cut["image"][0, 0] == y * 8 + x

    def test_transforms_follow_one_another(self) -> None:
        def compose(*steps: Any) -> Any:
            def run(*inputs: Any) -> Any:
                for step in steps:
                    result = step(*inputs)
                    inputs = result if isinstance(result, tuple) else (result,)
                return inputs if len(inputs) > 1 else inputs[0]

            return run

        image, mask = compose(RandomPatch(6), CentrePatch(4))(torch.as_tensor(positions(9, 8)), positions(9, 8))
        np.testing.assert_array_equal(image, mask)


class TestMistakes:
    @pytest.mark.parametrize("crop", CROPS)
    @pytest.mark.parametrize("image", [np.zeros((9, 8)), torch.zeros(9, 8), Image.new("L", (8, 9))])
    def test_an_image_below_the_patch_names_both_sizes(self, crop: Any, image: Any) -> None:
        with pytest.raises(UsageError, match=r"9 x 8 pixels is smaller than the patch of 4 x 10.*pad="):
            crop((4, 10))(image)

    @pytest.mark.parametrize("inputs", [(), (3,), ("name", torch.zeros(4)), (np.zeros((2, 3, 4, 5)),)])
    def test_no_image_is_an_error(self, inputs: Any) -> None:
        with pytest.raises(UsageError, match="no image of 2 spatial axes"):
            CentrePatch(2)(*inputs)

    @pytest.mark.parametrize("mask", [np.zeros((18, 16)), Image.new("L", (3, 3))])
    def test_a_mask_of_another_size_is_an_error(self, mask: Any) -> None:
        with pytest.raises(UsageError, match="one image has 9 x 8 pixels, another"):
            CentrePatch(4)(np.zeros((9, 8)), mask)

    @pytest.mark.parametrize("crop", CROPS)
    @pytest.mark.parametrize(
        ("patch", "message"), [(0, "at least 1"), ((1,), "1 numbers for 2"), (2.5, "whole number")]
    )
    def test_patches_that_cannot_be_are_refused(self, crop: Any, patch: Any, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            crop(patch)

    def test_an_unknown_pad_is_refused(self) -> None:
        with pytest.raises(UsageError, match="pad is one of"):
            RandomPatch(3, pad="wrap")  # type: ignore[arg-type]


class TestSeeds:
    def test_a_seed_fixes_the_places(self) -> None:
        assert places(RandomPatch(8, seed=7), 0) == places(RandomPatch(8, seed=7), 1) != places(RandomPatch(8, seed=8))

    def test_without_a_seed_pytorch_decides(self) -> None:
        assert places(RandomPatch(8), 0) == places(RandomPatch(8), 0) != places(RandomPatch(8), 1)

    def test_two_transforms_without_a_seed_differ(self) -> None:
        image = positions(1000, 1000)
        assert RandomPatch(8)(image)[0, 0] != RandomPatch(8)(image)[0, 0]

    @pytest.mark.parametrize("seed", [7, None])
    def test_workers_and_epochs_have_places_of_their_own_and_are_reproducible(self, seed: int | None) -> None:
        workers = {"num_workers": 2, "multiprocessing_context": "fork"}
        first, second = places(RandomPatch(8, seed=seed), 1, epochs=2, **workers)
        assert len({*first, *second}) == 48
        assert places(RandomPatch(8, seed=seed), 1, epochs=2, **workers) == [first, second]
        assert places(RandomPatch(8, seed=seed), 2, **workers) != [first]

    def test_a_generator_that_was_used_before_the_fork_is_not_shared(self) -> None:
        used = RandomPatch(8, seed=7)
        used(positions(20, 20))
        workers = {"num_workers": 2, "multiprocessing_context": "fork"}
        assert places(used, 1, **workers) == places(RandomPatch(8, seed=7), 1, **workers)

    def test_spawned_workers_have_the_places_of_forked_ones(self) -> None:
        made = [places(RandomPatch(8, seed=7), num_workers=2, multiprocessing_context=c) for c in ("fork", "spawn")]
        assert made[0] == made[1] and len({*made[0][0]}) == 24

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda crop: pickle.loads(pickle.dumps(crop))])
    def test_a_copy_goes_on_where_the_original_is(self, copied: Any) -> None:
        crop, image = RandomPatch(8, seed=7), positions(1000, 1000)
        crop(image)
        assert copied(crop)(image)[0, 0] == crop(image)[0, 0]


def test_examples_run() -> None:
    results = doctest.testmod(transforms)
    assert results.failed == 0 and results.attempted > 3


def test_arrays_need_neither_torch_nor_torchvision() -> None:
    code = (
        "import sys, numpy as np; from patchloom.torch import CentrePatch, RandomPatch;"
        "assert RandomPatch(4)(CentrePatch(8)(np.zeros((9, 9)))).shape == (4, 4);"
        "assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_how_a_transform_prints() -> None:
    assert repr(RandomPatch(4, seed=7)) == "RandomPatch((4, 4), seed=7, pad=None)"
    assert repr(CentrePatch((4, 5), pad="edge")) == "CentrePatch((4, 5), pad='edge')"
