"""Patches of images as a ``tf.data.Dataset``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from patchloom.errors import UnreadableImageError
from patchloom.tensorflow import tf_dataset
from tests.loop.test_patches import noise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, name in enumerate(("a.png", "b.png")):
        Image.fromarray(noise(70, 90, 3, seed=i)).save(tmp_path / name)
    return tmp_path


def test_patches_come_with_name_and_place(folder: Path) -> None:
    dataset = tf_dataset(folder, patch=32, stride=24)
    assert int(dataset.cardinality()) == 2 * 3 * 4
    seen = []
    for batch in dataset.batch(5):
        assert batch["patch"].shape[1:] == (32, 32, 3)
        for patch, name, index, start in zip(*(batch[key].numpy() for key in ("patch", "image", "index", "start")),
                                             strict=True):
            y, x = start.tolist()
            np.testing.assert_array_equal(patch, noise(70, 90, 3, seed=int(index))[y : y + 32, x : x + 32])
            seen.append((name.decode(), y, x))
    assert len(seen) == len(set(seen)) == 24
    assert {name for name, *_ in seen} == {"a.png", "b.png"}


def test_channels_may_come_first_and_planes_are_samples() -> None:
    images = {"t": noise(2, 40, 40).astype(np.uint16)}
    items = list(tf_dataset(images, 40, axes="TYX", channels_last=False))
    assert [int(item["sample"]) for item in items] == [0, 1]
    assert items[1]["patch"].dtype == tf.uint16
    np.testing.assert_array_equal(items[1]["patch"][0], images["t"][1])


def test_it_feeds_a_model(folder: Path) -> None:
    dataset = tf_dataset(folder, patch=32).map(lambda item: tf.cast(item["patch"], tf.float32) / 255)
    model = tf.keras.Sequential([tf.keras.Input((32, 32, 3)), tf.keras.layers.GlobalAveragePooling2D()])
    means = model.predict(dataset.batch(4), verbose=0)
    expected = [item["patch"].numpy().mean((0, 1)) / 255 for item in tf_dataset(folder, patch=32)]
    np.testing.assert_allclose(means, expected, rtol=1e-4)


def test_what_is_skipped_is_left_out(folder: Path) -> None:
    dataset = tf_dataset(folder, patch=32, skip=lambda patch: True)
    assert list(dataset) == []
    kept = tf_dataset(folder, patch=32, skip=lambda patch: bool(patch[0, 0, 0] > 128))
    assert 0 < len(list(kept)) < 18


def test_an_image_that_cannot_be_read_is_an_error_or_is_left_out(folder: Path) -> None:
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:400])
    with pytest.raises((UnreadableImageError, tf.errors.InvalidArgumentError, tf.errors.UnknownError), match=r"a\.png"):
        list(tf_dataset(folder, patch=32))
    with pytest.warns(UserWarning, match=r"a\.png.*skipped, 1 image"):
        names = {item["image"].numpy() for item in tf_dataset(folder, patch=32, on_error="skip")}
    assert names == {b"b.png"}
