"""Whole images as patches: made small, classified, looked up; each costs what it has to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageOps
from tests.engine.test_bad_input import onnx_model

import patchloom
from patchloom.errors import ImageMismatchError, ModelInputError, UsageError

RESIZE, CROP = 64, 48


def drawing(rows: int, columns: int, seed: int) -> np.ndarray:
    """Two colours and noise."""
    random = np.random.default_rng(seed)
    picture = np.empty((rows, columns, 3))
    picture[: rows // 2], picture[rows // 2 :] = random.integers(0, 256, (2, 3))
    return np.clip(picture + random.normal(0, 5, picture.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Thirty JPEG files of many sizes, one of them turned by EXIF, one in grey as RGB."""
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    for i in range(30):
        exif = PillowImage.Exif()
        exif[0x0112] = 6 if i == 7 else 1
        name = f"more/{i:02d}.jpg" if i % 3 == 0 else f"{i:02d}.jpg"
        picture = PillowImage.fromarray(drawing(70 + 7 * i, 200 - 3 * i, i))
        picture.save(folder / name, quality=92, exif=exif)
    return folder


def channels(batch: np.ndarray) -> np.ndarray:
    """Mean of each channel, and of the upper half."""
    values = batch.astype(np.float64)
    return np.concatenate([values.mean((2, 3)), values[:, :, : batch.shape[2] // 2].mean((1, 2, 3))[:, None]], 1)


def naive(path: Path) -> np.ndarray:
    """Resize and CenterCrop of torchvision, in three lines, and the model."""
    with PillowImage.open(path) as stored:
        picture = ImageOps.exif_transpose(stored)
    factor = min(picture.size)
    size = tuple(RESIZE * n // factor for n in picture.size)
    left, top = (round((n - CROP) / 2) for n in size)
    small = picture.resize(size, PillowImage.Resampling.BILINEAR).crop((left, top, left + CROP, top + CROP))
    return channels(np.asarray(small).transpose(2, 0, 1)[None])[0]


def whole(source: Any, out: Path, model: Any = channels, **options: Any) -> patchloom.Run:
    return patchloom.predict(source, model, out, **{"patch": "image", "resize": RESIZE, "centre_crop": CROP} | options)


def test_a_folder_is_classified_as_a_naive_loop_does(photographs: Path, tmp_path: Path) -> None:
    run = whole(photographs, tmp_path / "run")
    assert len(run) == 30
    for path in photographs.rglob("*.jpg"):
        predictions = run[path.relative_to(photographs).as_posix()]
        assert list(predictions) == [(0, 0)]
        assert np.abs(predictions[0, 0] - naive(path)).max() < 0.3  # JPEG is decoded small where that pays
    assert run.verify() == []


def test_tables_say_how_large_the_images_are(photographs: Path, tmp_path: Path) -> None:
    run = whole(photographs, tmp_path / "run")
    table = run.patches().to_pandas().set_index("image")
    for path in photographs.rglob("*.jpg"):
        name = path.relative_to(photographs).as_posix()
        with PillowImage.open(path) as stored:
            columns, rows = ImageOps.exif_transpose(stored).size
        row = table.loc[name]
        assert (row["y"], row["x"], row["height"], row["width"]) == (0, 0, rows, columns)
        assert run[name].describe((0, 0)) == {"y": 0, "x": 0, "height": rows, "width": columns, "row": 0, "col": 0}
        assert list(run[name].at(rows - 1, columns - 1)) == [(0, 0)]
        assert run[name].at(rows, 0) == {}


def test_broken_files_cost_one_image_each(photographs: Path, tmp_path: Path) -> None:
    whole_file = (photographs / "01.jpg").read_bytes()
    (photographs / "01.jpg").write_bytes(whole_file[: len(whole_file) // 2])
    (photographs / "02.jpg").write_bytes(b"\xff\xd8\xff but nothing else")
    PillowImage.fromarray(drawing(70, 80, 0)).convert("L").save(photographs / "grey.png")
    with pytest.warns(UserWarning, match="3 images failed"):
        run = whole(photographs, tmp_path / "run")
    assert {failure.image: failure.kind for failure in run.failures()} == {
        "01.jpg": "unreadable-image", "02.jpg": "unreadable-image", "grey.png": "image-mismatch"
    }  # fmt: skip
    assert len(run) == 28
    (photographs / "01.jpg").write_bytes(whole_file)
    (photographs / "02.jpg").unlink()
    (photographs / "grey.png").unlink()
    resumed = patchloom.open(tmp_path / "run")
    with pytest.warns(UserWarning, match="2 images failed"):
        resumed = resumed.resume(model=channels)
    np.testing.assert_allclose(resumed.patch("01.jpg", 0, 0), naive(photographs / "01.jpg"), atol=0.3)


def test_a_run_goes_on_where_it_was(photographs: Path, tmp_path: Path) -> None:
    seen = 0

    def failing(batch: np.ndarray) -> np.ndarray:
        nonlocal seen
        seen += len(batch)
        return channels(batch)

    names = sorted(path.relative_to(photographs).as_posix() for path in photographs.rglob("*.jpg"))
    half = [str(photographs / name) for name in names[:15]]
    options: dict[str, Any] = {"model": failing, "model_id": "channels"}
    whole(half, tmp_path / "run", **options)
    counted = seen
    whole([*half, *(str(photographs / name) for name in names[15:])], tmp_path / "run", **options)
    assert seen - counted <= 15 + 2  # the images that are new, and a trial
    assert len(patchloom.open(tmp_path / "run")) == 30


def test_another_size_is_another_run(photographs: Path, tmp_path: Path) -> None:
    whole(photographs, tmp_path / "run")
    with pytest.raises(patchloom.PatchloomError, match="different centre_crop"):
        whole(photographs, tmp_path / "run", centre_crop=40)


def test_the_size_is_the_fixed_input_of_the_model(photographs: Path, tmp_path: Path) -> None:
    model = onnx_model(tmp_path / "fixed.onnx", 3, 32)
    run = patchloom.predict(photographs, model, tmp_path / "run", patch="image")
    assert run["01.jpg"].stitched().shape == (3, 32, 32)
    with PillowImage.open(photographs / "01.jpg") as stored:
        expected = np.asarray(stored.resize((32, 32), PillowImage.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(run["01.jpg"][0, 0] - expected).mean() < 1


def test_a_fixed_input_refuses_another_size(photographs: Path, tmp_path: Path) -> None:
    model = onnx_model(tmp_path / "fixed.onnx", 3, 32)
    with pytest.raises(ModelInputError, match="32,32 pixels, and 48,48") as caught:
        whole(photographs, tmp_path / "run", str(model))
    assert "--centre-crop 32,32" in caught.value.hint


def test_without_a_size_images_are_taken_as_they_are(tmp_path: Path) -> None:
    images = {f"{i}": drawing(40, 50, i) for i in range(5)} | {"odd": drawing(50, 40, 9)}
    with pytest.warns(UserWarning, match="1 image failed"):
        run = patchloom.predict(images, channels, tmp_path / "run", patch="image")
    for name in map(str, range(5)):
        expected = channels(images[name].transpose(2, 0, 1)[None])[0]
        np.testing.assert_allclose(run.patch(name, 0, 0), expected)
    (failure,) = run.failures()
    assert (failure.image, failure.kind) == ("odd", ImageMismatchError.kind)
    assert "50x40 pixels, and the others 40x50" in failure.message


def test_dense_predictions_are_maps_of_the_size_that_the_model_saw(tmp_path: Path) -> None:
    images = {"wide": drawing(100, 200, 0), "high": drawing(200, 100, 1)}
    run = patchloom.predict(images, lambda batch: batch, tmp_path / "run", patch="image", resize=(32, 48))
    for name, pixels in images.items():
        small = PillowImage.fromarray(pixels).resize((48, 32), PillowImage.Resampling.BILINEAR)
        np.testing.assert_array_equal(run[name].stitched()[:], np.asarray(small).transpose(2, 0, 1))


def test_loops_are_patches_of_their_own(tmp_path: Path) -> None:
    stack = np.stack([drawing(60, 90, i) for i in range(3)])
    run = patchloom.predict({"stack": stack}, channels, tmp_path / "run", patch="image", resize=16, centre_crop=16,
                            axes="TYXC")  # fmt: skip
    assert list(run["stack"]) == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": 64}, "resize is for whole images"),
        ({"patch": 64, "centre_crop": 64}, "centre_crop is for whole images"),
        ({"patch": "image", "overlap": 8}, "no overlap"),
        ({"patch": "image", "resize": 32, "centre_crop": 48}, "centre_crop 48 is larger than resize 32"),
        ({"patch": "image", "resize": (32, 64), "centre_crop": (48, 48)}, "larger than resize 32,64"),
        ({"patch": "image", "resize": (1, 2, 3)}, "resize: one number, or two"),
        ({"patch": "picture"}, "whole numbers"),
    ],
)
def test_options_that_do_not_fit_are_errors_before_anything_runs(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        patchloom.predict({"a": drawing(64, 64, 0)}, channels, tmp_path / "run", **options)


def test_the_command_line_has_the_same_options(photographs: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "patchloom", "predict", str(photographs), "-m", "tests.cli.models:scores", "--patch",
         "image", "--resize", "64", "--centre-crop", "48", "-o", str(tmp_path / "run"), "--quiet"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    run = patchloom.open(tmp_path / "run")
    config = run.document.config
    assert (config.patch, config.resize, config.centre_crop) == ("image", (64,), (48,))
    assert len(run) == 30
    assert run.patch("01.jpg", 0, 0)[0] == pytest.approx(naive(photographs / "01.jpg")[:3].mean() / 255, abs=2e-3)
