"""Predictions, names and images side by side."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import patchloom
from patchloom.errors import UsageError


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def doubled(batch: NDArray[Any]) -> NDArray[np.float32]:
    return batch.astype(np.float32) * 2


def means(batch: NDArray[Any]) -> NDArray[np.float32]:
    return batch.mean(axis=(2, 3), dtype=np.float32)


def both(batch: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    return {"map": doubled(batch), "mean": means(batch)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(5):
        Image.fromarray(noise(16, 16, 3, seed=i)).save(tmp_path / f"{i}.png")
    return tmp_path


def test_predictions_of_maps_come_with_name_and_image(folder: Path) -> None:
    run = patchloom.predict(folder, doubled, folder / "run", patch=8)
    streamed = list(run.zip(images=True))
    assert [name for _, name, _ in streamed] == [f"{i}.png" for i in range(5)]
    for i, (prediction, name, image) in enumerate(streamed):
        assert (image.axes, image.shape, image.name) == ("YXC", (16, 16, 3), name)
        np.testing.assert_array_equal(image, noise(16, 16, 3, seed=i))
        np.testing.assert_array_equal(image[2:9:3, -1, ::-1], noise(16, 16, 3, seed=i)[2:9:3, -1, ::-1])
        np.testing.assert_array_equal(prediction, np.moveaxis(np.asarray(image), -1, 0) * np.float32(2))


def test_batches_are_lists_and_the_last_may_be_shorter(folder: Path) -> None:
    run = patchloom.predict(folder, means, folder / "run", patch=16)
    batches = list(run.zip(images=True, batch=2))
    assert [len(names) for _, names, _ in batches] == [2, 2, 1]
    predictions = np.concatenate([np.stack(values) for values, _, _ in batches])
    expected = [noise(16, 16, 3, seed=i).mean((0, 1), dtype=np.float32) for i in range(5)]
    np.testing.assert_allclose(predictions, expected, rtol=1e-6)


def test_without_images_there_are_pairs(folder: Path) -> None:
    run = patchloom.predict(folder, means, folder / "run", patch=16)
    assert [name for _, name in run.zip()] == [f"{i}.png" for i in range(5)]


def test_an_image_of_several_patches_gives_the_mapping_of_its_vectors(folder: Path) -> None:
    run = patchloom.predict(folder, means, folder / "run", patch=8)
    prediction, name = next(iter(run.zip()))
    np.testing.assert_array_equal(prediction[8, 0], run[name][8, 0])


def test_several_heads_are_a_dict_and_one_can_be_chosen(folder: Path) -> None:
    run = patchloom.predict(folder, both, folder / "run", patch=16)
    prediction, _ = next(iter(run.zip()))
    assert set(prediction) == {"map", "mean"}
    assert (prediction["map"].shape, prediction["mean"].shape) == ((3, 16, 16), (3,))
    chosen, _ = next(iter(run.zip(head="mean")))
    np.testing.assert_array_equal(chosen, prediction["mean"])
    with pytest.raises(UsageError, match="no head 'other'"):
        run.zip(head="other")


def test_an_image_that_was_skipped_has_no_prediction(folder: Path) -> None:
    run = patchloom.predict(folder, means, folder / "run", patch=16, skip=lambda patch: True)
    assert [prediction for prediction, _ in run.zip()] == [None] * 5
    run = patchloom.predict(folder, means, folder / "some", patch=16, skip=lambda patch: bool(patch[0, 0, 0] > 128))
    found = {name: prediction for prediction, name in run.zip()}
    for i in range(5):
        skipped = noise(16, 16, 3, seed=i)[0, 0, 0] > 128
        assert (found.get(f"{i}.png") is None) == skipped


def test_arrays_have_to_be_given_again(tmp_path: Path) -> None:
    images = {"b": noise(16, 16), "a": noise(16, 16, seed=1)}
    run = patchloom.predict(images, means, tmp_path / "run", patch=16)
    with pytest.raises(UsageError, match="given again"):
        run.zip(images=True)
    streamed = {name: np.asarray(image) for _, name, image in run.zip(images=images)}
    assert list(streamed) == ["b", "a"], "in the order of the source"
    np.testing.assert_array_equal(streamed["a"], images["a"])


def test_images_that_are_gone_are_told_of(folder: Path) -> None:
    run = patchloom.predict(folder, means, folder / "run", patch=16)
    (folder / "3.png").unlink()
    with pytest.warns(UserWarning, match="1 predicted images are not in the source"):
        assert len(list(run.zip(images=True))) == 4


def test_the_whole_is_never_in_memory(tmp_path: Path) -> None:
    images = {f"{i}": np.broadcast_to(np.uint8(i), (512, 512)) for i in range(40)}
    run = patchloom.predict(images, doubled, tmp_path / "run", patch=512, threads=1)
    sum(1 for prediction, *_ in run.zip(images=images) if np.asarray(prediction).any())
    tracemalloc.start()
    shown = sum(np.asarray(prediction).any() for prediction, *_ in run.zip(images=images))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shown == 39
    assert peak < 10 * 512 * 512 * 4, "40 maps take four times as much"


def test_a_bar_is_shown_on_stderr_where_it_is_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = patchloom.predict(folder, means, folder / "run", patch=16)
    list(run.zip(progress=True))
    shown = capsys.readouterr()
    assert "5/5 images" in shown.err
    assert shown.out == ""
    list(run.zip())
    assert capsys.readouterr().err == ""
