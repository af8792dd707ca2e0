"""Samplers: reproducible, aware of ranks, and what each of them promises."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from patchloom.errors import ImageMismatchError, UsageError
from patchloom.torch import (
    BalancedSampler,
    GridSampler,
    PatchDataset,
    RandomCropSampler,
    ShuffledSampler,
    WeightedSampler,
)
from tests.loop.counting import CountingArray, reads
from tests.loop.test_patches import noise

IMAGES = {"a": noise(300, 400), "b": noise(90, 100, seed=1), "c": noise(20, 300, seed=2)}


@pytest.fixture
def dataset() -> PatchDataset:
    return PatchDataset(IMAGES, patch=32, stride=24)


def make(kind: str, dataset: PatchDataset, **options: Any) -> Any:
    if kind == "grid":
        options.pop("seed", None)
        return GridSampler(dataset, **options)
    if kind == "shuffled":
        return ShuffledSampler(dataset, block=3, pool=2, **options)
    if kind == "crops":
        return RandomCropSampler(dataset, 101, **options)
    if kind == "balanced":
        return BalancedSampler(dataset, 101, **options)
    if kind == "function":
        return WeightedSampler(dataset, lambda name, region: 0.5 if name == "b" else 0.1, 101, **options)
    return WeightedSampler(dataset, {name: image[::4, ::4] for name, image in IMAGES.items()}, 101, **options)


KINDS = ["grid", "shuffled", "crops", "balanced", "function", "masks"]


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_draw_together_what_one_process_draws(dataset: PatchDataset, kind: str) -> None:
    alone = list(make(kind, dataset, seed=3))
    together = []
    for rank in range(3):
        sampler = make(kind, dataset, seed=3, rank=rank, world=3)
        drawn = list(sampler)
        assert len(drawn) == len(sampler)
        together += drawn
    assert Counter(together) == Counter(alone)
    if kind in ("grid", "shuffled"):
        assert sorted(alone) == list(range(len(dataset)))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_seed_and_epoch_give_the_order(dataset: PatchDataset, kind: str) -> None:
    sampler = make(kind, dataset, seed=3)
    first = list(sampler)
    assert list(make(kind, dataset, seed=3)) == list(sampler) == first
    assert list(make(kind, dataset, seed=4)) != first
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_workers_does_not_matter(dataset: PatchDataset, kind: str) -> None:
    def drawn(workers: int) -> list[tuple[str, list[int]]]:
        loader = DataLoader(dataset, batch_size=8, sampler=make(kind, dataset, seed=3), num_workers=workers)
        return [place for batch in loader for place in zip(batch["image"], batch["start"].tolist(), strict=True)]

    assert drawn(0) == drawn(2)


def test_crops_have_the_pixels_of_their_place_and_reach_all_of_an_image(dataset: PatchDataset) -> None:
    seen = np.zeros((300, 400), int)
    for crop in RandomCropSampler(dataset, 2000, seed=1):
        item = dataset[crop]
        y, x = item["start"].tolist()
        if item["image"] == "a":
            np.testing.assert_array_equal(item["patch"][0], IMAGES["a"][y : y + 32, x : x + 32])
            seen[y : y + 32, x : x + 32] += 1
    assert (seen > 0).mean() > 0.95
    assert seen[:4].any()
    assert seen[-4:].any()
    assert seen[:, :4].any()
    assert seen[:, -4:].any()
    assert seen[100:200, 100:300].std() < 0.5 * seen[100:200, 100:300].mean()


def test_balanced_draws_are_as_many_of_each_image(dataset: PatchDataset) -> None:
    counts = Counter(dataset[i]["image"] for i in BalancedSampler(dataset, 100, seed=1))
    assert sorted(counts.values()) == [33, 33, 34]


def test_masks_draw_what_they_mark() -> None:
    masks = {name: np.zeros((image.shape[0] // 4, image.shape[1] // 4)) for name, image in IMAGES.items()}
    masks["a"][40:45, 60:70] = 1
    masks["b"][10:15, 10:15] = 2
    dataset = PatchDataset(IMAGES, patch=32)
    items = [dataset[crop] for crop in WeightedSampler(dataset, masks, 1000, seed=1)]
    counts = Counter(item["image"] for item in items)
    assert counts["c"] == 0
    assert counts["a"] == pytest.approx(500, abs=80), "50 pixels of weight 1 in the one, 25 of weight 2 in the other"
    for item in items:
        y, x = item["start"].tolist()
        if item["image"] == "a":
            assert 160 - 1 <= y + 16 <= 180 + 1
            assert 240 - 1 <= x + 16 <= 280 + 1


def test_a_function_gives_the_probability_with_which_a_patch_is_kept(dataset: PatchDataset) -> None:
    sampler = WeightedSampler(dataset, lambda name, region: 1.0 if region.start[1] >= 96 else 0.25, 4000, seed=1)
    right = np.mean([dataset.patches.crop(int(i)).start[1] >= 96 for i in sampler])
    share = np.mean([dataset.patches.crop(i).start[1] >= 96 for i in range(len(dataset))])
    assert right == pytest.approx(share / (share + 0.25 * (1 - share)), abs=0.03)


def test_weights_that_cannot_be_used_are_refused(dataset: PatchDataset) -> None:
    with pytest.raises(UsageError, match="c has no mask"):
        WeightedSampler(dataset, {"a": noise(8, 8), "b": noise(8, 8)}, 10)
    with pytest.raises(UsageError, match="no mask has any weight"):
        WeightedSampler(dataset, {name: np.zeros((4, 4)) for name in IMAGES}, 10)
    with pytest.raises(ImageMismatchError, match="below 0"):
        WeightedSampler(dataset, {name: np.full((4, 4), -1.0) for name in IMAGES}, 10)
    with pytest.raises(UsageError, match="from 0 to 1, not 3"):
        list(WeightedSampler(dataset, lambda name, region: 3.0, 10))
    with pytest.raises(UsageError, match="no weight"):
        list(WeightedSampler(dataset, lambda name, region: 0.0, 10))
    with pytest.raises(UsageError, match="at least 1"):
        RandomCropSampler(dataset, 0)
    with pytest.raises(UsageError, match="rank 3 of 3"):
        GridSampler(dataset, rank=3, world=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_shuffling_by_blocks_decodes_a_chunk_far_less_often_than_shuffling_all(tmp_path: Path, workers: int) -> None:
    def decoded(name: str, **options: Any) -> float:
        log = tmp_path / f"{name}{workers}"
        image = CountingArray("a", np.broadcast_to(np.uint8(1), (8192, 8192)), 256, log)
        dataset = PatchDataset({"a": image}, patch=256, stride=192, cache="16MB")
        if "sampler" in options:
            options["sampler"] = options["sampler"](dataset)
        loader = DataLoader(dataset, batch_size=8, num_workers=workers, **options)
        assert sum(len(batch["patch"]) for batch in loader) == len(dataset)
        return sum(reads(log).values()) / 32**2

    def sampler(dataset: PatchDataset) -> ShuffledSampler:
        return ShuffledSampler(dataset, pool=4, batch_size=8, num_workers=workers)

    by_block = decoded("block", sampler=sampler)
    by_patch = decoded("patch", shuffle=True)
    assert by_block < 2.2
    assert by_patch > 3
