"""A loader of images as a loader of patches: what belongs to an image goes along with each of its patches."""

from __future__ import annotations

import doctest
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from patchloom.errors import UsageError
from patchloom.torch import loaders, merge_batch, patches_of, split_batch

Sample = namedtuple("Sample", ["images", "labels"])


class Images(Dataset[Any]):
    """Ten images whose pixels are their number, with the number as label and a name."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        return torch.full((3, 20, 24), float(index)), index, f"image {index}"


class Streamed(IterableDataset[Any]):
    """The same without a length."""

    def __iter__(self) -> Iterator[Any]:
        return (Images()[index] for index in range(10))


def images(samples: int = 2) -> np.ndarray:
    return np.random.default_rng(0).random((samples, 3, 20, 24), "float32")


def only(loader: Any, *args: Any, **options: Any) -> Any:
    """The one batch of patches."""
    [batch] = patches_of(loader, *args, **options)
    return batch


class TestDataLoaders:
    @pytest.mark.parametrize(
        "workers",
        [
            {},
            {"num_workers": 2, "multiprocessing_context": "fork"},
            {"num_workers": 2, "multiprocessing_context": "spawn"},
        ],
        ids=["none", "fork", "spawn"],
    )
    def test_each_patch_has_the_label_and_the_name_of_its_image(self, workers: Any) -> None:
        loader = patches_of(DataLoader(Images(), batch_size=4, **workers), patch=8)
        seen = []
        for patches, regions, labels, names in loader:
            assert patches.shape[1:] == (3, 8, 8) and regions.shape == (len(patches), 3)
            assert torch.equal(patches.mean((1, 2, 3)).long(), labels)
            assert list(names) == [f"image {label}" for label in labels]
            assert torch.equal(regions[:, 0], labels - labels[0])
            seen += labels.tolist()
        assert seen == [label for label in range(10) for _ in range(9)]

    def test_the_length_is_the_loaders(self) -> None:
        loader = DataLoader(Images(), batch_size=4)
        assert len(patches_of(loader, patch=8)) == 3
        assert len(list(patches_of(loader, patch=8))) == 3

    def test_a_loader_without_a_length_has_none_and_is_followed(self) -> None:
        loader = patches_of(DataLoader(Streamed(), batch_size=4), patch=8)
        with pytest.raises(TypeError):
            len(loader)
        assert loader and len(list(loader)) == 3

    def test_it_can_be_iterated_again(self) -> None:
        loader = patches_of(DataLoader(Images(), batch_size=5), patch=8)
        first, second = ([labels.tolist() for _, _, labels, _ in loader] for _ in range(2))
        assert first == second and len(first) == 2

    def test_patches_can_be_merged_batch_by_batch(self) -> None:
        batches = [images(3), images(2)]
        for batch, (patches, regions) in zip(batches, patches_of(batches, patch=8, overlap=2), strict=True):
            np.testing.assert_array_equal(merge_batch(patches, regions, batch.shape), batch)


class TestBatches:
    def test_options_are_those_of_split_batch(self) -> None:
        options = {"stride": 7, "edge": "pad", "pad": "constant", "fill": 3, "channels_last": True}
        batch = np.moveaxis(images(), 1, -1)
        for found, expected in zip(only([batch], 9, **options), split_batch(batch, 9, **options), strict=True):
            np.testing.assert_array_equal(found, expected)

    def test_a_generator_of_arrays_is_a_loader(self) -> None:
        patches, regions = only((batch for batch in [images()]), patch=10)
        assert isinstance(patches, np.ndarray) and len(patches) == len(regions) == 12

    @pytest.mark.parametrize("kind", [tuple, list])
    def test_tuples_and_lists_keep_their_kind(self, kind: Any) -> None:
        batch = only([kind([images(), np.array([5, 6])])], patch=(20, 12))
        assert type(batch) is kind
        assert batch[2].tolist() == [5, 5, 6, 6]

    def test_a_dict_keeps_its_keys_and_gains_regions(self) -> None:
        batch = only([{"id": ["a", "b"], "image": images(), "scale": 0.5}], patch=(20, 12))
        assert list(batch) == ["id", "image", "scale", "regions"]
        assert batch["id"] == ["a", "a", "b", "b"] and batch["scale"] == 0.5
        assert batch["regions"].tolist() == [[0, 0, 0], [0, 0, 12], [1, 0, 0], [1, 0, 12]]

    def test_a_named_tuple_gains_a_field(self) -> None:
        loader = [Sample(images(), [1, 2]), Sample(images(), [3, 4])]
        first, second = patches_of(loader, patch=(20, 12))
        assert type(first) is type(second) and type(first).__name__ == "Sample"
        assert first._fields == ("images", "regions", "labels") and second.labels == [3, 3, 4, 4]

    def test_regions_follow_the_patches_wherever_they_are(self) -> None:
        names, patches, regions = only([(["a", "b"], images())], patch=(20, 12))
        assert names == ["a", "a", "b", "b"] and len(patches) == len(regions) == 4

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (np.array(["x", "y"]), ["x", "x", "y", "y"]),
            (torch.tensor([[1, 2], [3, 4]]), [[1, 2], [1, 2], [3, 4], [3, 4]]),
            (("x", "y"), ("x", "x", "y", "y")),
            ([None, {"a": 1}], [None, None, {"a": 1}, {"a": 1}]),
            ({"deep": {"er": [1, 2]}, "text": "xy"}, {"deep": {"er": [1, 1, 2, 2]}, "text": "xy"}),
            (Sample(torch.tensor([1, 2]), "xy"), Sample([1, 1, 2, 2], "xy")),
            ("xy", "xy"),
            (torch.tensor(3), 3),
            (np.arange(3), [0, 1, 2]),
            ([1, 2, 3], [1, 2, 3]),
            (None, None),
        ],
    )
    def test_what_has_one_entry_a_sample_gets_one_a_patch(self, value: Any, expected: Any) -> None:
        def plain(found: Any) -> Any:
            if isinstance(found, Sample):
                return Sample(*map(plain, found))
            return found.tolist() if hasattr(found, "tolist") else found

        _, _, found = only([(torch.as_tensor(images()), value)], patch=(20, 12))
        assert type(found) is type(value) and plain(found) == expected

    @pytest.mark.parametrize(
        ("batch", "key"),
        [
            ((np.zeros((2, 1, 1, 1)), images()), 1),
            ((np.zeros((2, 1, 1, 1)), images()), -1),
            ({"other": np.zeros((2, 1, 1, 1)), "image": images()}, "image"),
            (Sample(np.zeros((2, 1, 1, 1)), images()), "labels"),
        ],
    )
    def test_the_key_says_which_entry_is_the_images(self, batch: Any, key: Any) -> None:
        found = only([batch], patch=(20, 12), key=key)
        patches = found[key] if isinstance(found, dict) else found[1]
        assert patches.shape == (4, 3, 20, 12)

    def test_dropped_images_leave_nothing(self) -> None:
        patches, _, labels = only([(images(), ["a", "b"])], patch=32, edge="drop")
        assert len(patches) == len(labels) == 0


class TestMistakes:
    @pytest.mark.parametrize(
        ("batch", "options", "message"),
        [
            (([1, 2], "text"), {}, r"no array with at least 4 axes \(list|int"),
            ({"image": np.zeros((3, 9, 9))}, {}, r"image: ndarray \(3, 9, 9\)"),
            ("text", {}, "no array"),
            (3, {}, "no array"),
            (3, {"key": 0}, "a batch is a int"),
            ({"image": np.zeros((1, 3, 9, 9))}, {"key": "picture"}, r"no entry 'picture' \(it has 'image'"),
            ((np.zeros((1, 3, 9, 9)),), {"key": 1}, "no entry 1"),
            ((np.zeros((1, 3, 9, 9)),), {"key": "image"}, "no entry 'image'"),
            ({"image": np.zeros((1, 3, 9, 9)), "regions": 3}, {}, "already has 'regions'"),
            (np.zeros((1, 3, 9, 9)), {"overlap": 4}, "overlap is below the patch"),
        ],
    )
    def test_a_batch_that_cannot_be_split_says_why(self, batch: Any, options: Any, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            list(patches_of([batch], patch=4, **options))


def test_examples_run() -> None:
    results = doctest.testmod(loaders)
    assert results.failed == 0 and results.attempted > 2


def test_lists_of_arrays_need_no_torch() -> None:
    code = (
        "import sys, numpy as np; from patchloom.torch import patches_of;"
        "[(patches, _, labels)] = patches_of([(np.zeros((2, 3, 8, 8)), ['a', 'b'])], patch=4);"
        "assert len(patches) == len(labels) == 8 and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
