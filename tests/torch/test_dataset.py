"""Datasets of patches in a DataLoader, with and without worker processes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Subset

from patchloom.errors import ImageError, UnreadableImageError
from patchloom.torch import PatchDataset, PatchStream
from tests.loop.counting import CountingArray, reads
from tests.loop.test_patches import noise

Loader = DataLoader[Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images: a tiled TIFF and, in a folder of its own, a PNG."""
    tifffile.imwrite(tmp_path / "a.tif", noise(200, 150, 3), tile=(64, 64), photometric="rgb")
    (tmp_path / "b").mkdir()
    Image.fromarray(noise(70, 90, 3, seed=1)).save(tmp_path / "b" / "a.png")
    return tmp_path


def pixels(name: str) -> NDArray[np.uint8]:
    return noise(200, 150, 3) if name == "a.tif" else noise(70, 90, 3, seed=1)


def check(batch: dict[str, Any], patch: int) -> list[tuple[str, int, int]]:
    """Compare a batch with the images; returns names and origins."""
    seen = []
    for cut, name, index, start in zip(batch["patch"], batch["image"], batch["index"], batch["start"], strict=True):
        y, x = start.tolist()
        np.testing.assert_array_equal(cut, pixels(name)[y : y + patch, x : x + patch].transpose(2, 0, 1))
        assert ["a.tif", "b/a.png"].index(name) == index
        seen.append((name, y, x))
    return seen


def test_items_know_their_image_and_place(folder: Path) -> None:
    dataset = PatchDataset(folder, patch=64, stride=48)
    item = dataset[5]
    assert set(item) == {"patch", "image", "index", "start"}
    assert (item["image"], item["index"], item["start"].tolist()) == ("a.tif", 0, [48, 86])
    assert item["patch"].dtype == torch.uint8
    assert len(dataset) == 4 * 3 + 2 * 2
    assert list(dataset.images) == ["a.tif", "b/a.png"]
    assert dataset.number(0, (48, 86)) == 5
    grid = dataset.grid(1)
    assert grid is not None
    assert grid.counts == (2, 2)


@pytest.mark.parametrize("kind", [PatchDataset, PatchStream])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_loader_gives_every_patch_once(folder: Path, kind: Any, workers: int) -> None:
    dataset = kind(folder, patch=64, stride=48)
    seen = [place for batch in DataLoader(dataset, batch_size=5, num_workers=workers) for place in check(batch, 64)]
    assert len(seen) == len(set(seen)) == 16
    if kind is PatchDataset:
        assert seen == [(dataset[i]["image"], *dataset[i]["start"].tolist()) for i in range(16)]


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("kind", [PatchDataset, PatchStream])
def test_workers_may_be_forked_or_spawned_and_persist(folder: Path, kind: Any, context: str) -> None:
    dataset = kind(folder, patch=64, stride=48)
    if kind is PatchDataset:
        dataset[0], dataset[-1]  # handles are open when workers start
    loader: Loader = DataLoader(
        dataset, batch_size=4, num_workers=2, multiprocessing_context=context, persistent_workers=True
    )
    for _ in range(2):
        assert len({place for batch in loader for place in check(batch, 64)}) == 16


def test_a_transform_is_applied_to_the_patch(folder: Path) -> None:
    dataset = PatchDataset(folder, patch=64, transform=lambda patch: patch.float() / 255)
    assert dataset[0]["patch"].dtype == torch.float32
    assert dataset[0]["patch"].max() <= 1
    stream = PatchStream(folder, patch=64, transform=lambda patch: patch.float() / 255)
    torch.testing.assert_close(next(iter(stream))["patch"], dataset[0]["patch"])


def test_planes_are_samples() -> None:
    image = noise(3, 40, 40)
    batch = next(iter(DataLoader(PatchDataset({"t": image}, 20, axes="TYX"), batch_size=12)))
    assert batch["sample"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    np.testing.assert_array_equal(batch["patch"][5, 0], image[1, :20, 20:])


def test_images_that_are_held_are_not_read_again(folder: Path) -> None:
    dataset = PatchDataset(folder, patch=64, cache="memory")
    (folder / "a.tif").unlink()
    loader: Loader = DataLoader(dataset, batch_size=5, num_workers=2)
    assert sum(len(check(batch, 64)) for batch in loader) == len(dataset)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_decodes_every_chunk_once_with_any_number_of_workers(tmp_path: Path, workers: int) -> None:
    log = tmp_path / "log"
    images = {f"im{i}": CountingArray(f"im{i}", noise(700, 700), 256, log) for i in range(4)}
    loader: Loader = DataLoader(PatchStream(images, patch=256, stride=128), batch_size=7, num_workers=workers)
    assert sum(len(batch["patch"]) for batch in loader) == 4 * 25
    assert set(reads(log).values()) == {1}
    assert len(reads(log)) == 4 * 9


def test_ranks_and_workers_share_a_stream_out(folder: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    for rank in range(3):
        stream = PatchStream(folder, patch=64, stride=48, rank=rank, world=3)
        seen += [place for batch in DataLoader(stream, batch_size=5, num_workers=2) for place in check(batch, 64)]
    assert len(seen) == len(set(seen)) == 16


def broken(folder: Path) -> Path:
    """The same images and one whose header is fine, and whose pixels are not."""
    tifffile.imwrite(folder / "c.tif", noise(128, 128, 3), tile=(64, 64), photometric="rgb", compression="zlib")
    content = (folder / "c.tif").read_bytes()
    (folder / "c.tif").write_bytes(content[:400] + b"\xff" * (len(content) - 400))
    with tifffile.TiffFile(folder / "c.tif") as file:
        assert file.pages[0].shape == (128, 128, 3)
    return folder


@pytest.mark.parametrize("kind", [PatchDataset, PatchStream])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_names_the_file(folder: Path, kind: Any, workers: int) -> None:
    loader: Loader = DataLoader(kind(broken(folder), patch=64), batch_size=3, num_workers=workers)
    with pytest.raises((UnreadableImageError, RuntimeError), match=r"c\.tif"):
        list(loader)


@pytest.mark.parametrize("kind", [PatchDataset, PatchStream])
@pytest.mark.parametrize("workers", [0, 2])
def test_training_goes_on_without_the_image_that_cannot_be_read(folder: Path, kind: Any, workers: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inherited by workers; the message is tested where there are none
        dataset = kind(broken(folder), patch=64, stride=48, on_error="skip")
        loader: Loader = DataLoader(dataset, batch_size=5, num_workers=workers)
        seen = [place for batch in loader for place in check(batch, 64)]
    assert len(set(seen)) == 16
    assert dataset.failures() == ["c.tif"]
    assert "c.tif" not in {name for name, *_ in seen}
    if kind is PatchDataset:
        assert "1 skipped" in repr(dataset)


def test_the_warning_says_how_many_images_were_skipped(folder: Path) -> None:
    dataset = PatchDataset(broken(folder), patch=64, on_error="skip")
    with pytest.warns(UserWarning, match=r"c\.tif.*skipped, 1 image so far"):
        items = dataset.__getitems__([0, len(dataset) - 1])
    assert [item["image"] for item in items] == ["a.tif"]
    assert dataset[len(dataset) - 1]["image"] == "a.tif", "the next that can be read"


def test_where_no_image_can_be_read_that_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "n").mkdir()
    dataset = PatchDataset(broken(tmp_path / "n"), patch=64, on_error="skip")
    with pytest.warns(UserWarning, match=r"c\.tif"), pytest.raises(ImageError, match="none of the images"):
        dataset[0]


def test_patches_that_a_filter_keeps_make_a_subset() -> None:
    image = noise(64, 96)
    image[:32] = 0
    dataset = PatchDataset({"a": image}, 32)
    kept = dataset.kept(lambda patch: not patch.any())
    assert kept == [3, 4, 5]
    assert len(Subset(dataset, kept)) == 3
    stream = PatchStream({"a": image}, 32, skip=lambda patch: not patch.any())
    assert [item["start"].tolist() for item in stream] == [[32, 0], [32, 32], [32, 64]]


def test_all_kinds_of_pixels_make_batches() -> None:
    for dtype in (np.uint8, np.uint16, np.int16, np.uint32, np.float32, np.float64, np.bool_):
        batch = next(iter(DataLoader(PatchDataset({"a": noise(16, 16).astype(dtype)}, 8), batch_size=4)))
        assert batch["patch"].numpy().dtype == dtype
