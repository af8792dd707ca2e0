"""Runs that are filled from a caller's own loop are runs like any other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchloom
from patchloom.errors import ConfigMismatchError, IncompleteImageError, OutputError, PredictionError, RunLockedError
from patchloom.geometry.grid import Grid
from patchloom.writing import ImagePrediction, WriteRun

PATCH, OVERLAP = 64, 16


def image() -> Any:
    return np.random.default_rng(1).integers(0, 255, (2, 700, 650), dtype=np.uint8)


def dense(batch: Any) -> Any:
    pixels = batch.astype(np.float32)
    return np.concatenate([pixels - pixels.mean(axis=(1, 2, 3), keepdims=True), np.sqrt(pixels)], axis=1)


def vector(batch: Any) -> Any:
    return np.stack([batch.mean(axis=(1, 2, 3)), batch.max(axis=(1, 2, 3))], axis=1)


def tiles(model: Any, pixels: Any, source: str = "a/s.tif") -> list[ImagePrediction]:
    return [
        ImagePrediction(model(plane[one.region.slices][None, None])[0], "TYX", pixels.shape, 0, t, source,
                        one.region.start)
        for t, plane in enumerate(pixels)
        for one in Grid.of(plane.shape, PATCH, overlap=OVERLAP)
    ]  # fmt: skip


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_maps_are_those_of_the_engine(blend: Any, tmp_path: Path) -> None:
    expected = patchloom.predict(
        {"a/s.tif": image()}, dense, tmp_path / "engine", patch=PATCH, overlap=OVERLAP, blend=blend, axes="TYX",
        model_id="m",
    )["a/s.tif"]  # fmt: skip
    strategy = WriteRun(model_id="m", overlap=OVERLAP, blend=blend)
    strategy.write_batch(tmp_path / "ours", tiles(dense, image()))
    strategy.close()
    run = patchloom.open(tmp_path / "ours")
    assert list(run) == ["a/s.tif"]
    assert run.verify() == []
    ours = run["a/s.tif"]
    for level in (0, 1):
        found, wanted = np.asarray(ours.stitched(level=level)), np.asarray(expected.stitched(level=level))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * 255)
        if blend == "crop":
            assert found.tobytes() == wanted.tobytes()
    np.testing.assert_array_equal(ours[1, 48, 96], expected[1, 48, 96])


def test_vectors_are_those_of_the_engine(tmp_path: Path) -> None:
    expected = patchloom.predict(
        {"a/s.tif": image()}, vector, tmp_path / "engine", patch=PATCH, overlap=OVERLAP, classes=["mean", "max"],
        axes="TYX", model_id="m",
    )  # fmt: skip
    strategy = WriteRun(model_id="m", patch=PATCH, overlap=OVERLAP, classes=["mean", "max"])
    for tile in reversed(tiles(vector, image())):
        strategy.write_batch(tmp_path / "ours", [tile])
    strategy.close()
    run = patchloom.open(tmp_path / "ours")
    assert run.patches().to_pandas().equals(expected.patches().to_pandas())
    np.testing.assert_array_equal(run.patch("a/s.tif", 1, 48, 96), expected.patch("a/s.tif", 1, 48, 96))


def test_a_second_loop_goes_on_with_what_the_first_did_not_complete(tmp_path: Path) -> None:
    all_tiles = tiles(dense, image())
    strategy = WriteRun(model_id="m", overlap=OVERLAP)
    strategy.write_batch(tmp_path, all_tiles[: len(all_tiles) * 3 // 4])
    with pytest.raises(IncompleteImageError):
        strategy.close()
    (status,) = patchloom.open(tmp_path).status().images()
    assert status.state == "partial"
    assert 0 < status.patches_done < status.patches
    again = WriteRun(model_id="m", overlap=OVERLAP)
    again.write_batch(tmp_path, all_tiles)
    again.close()
    run = patchloom.open(tmp_path)
    assert run.verify() == []
    assert next(run.status().images()).state == "done"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("dense/**/c/**/*") if path.is_file()}
    again.write_batch(tmp_path, all_tiles)  # is there already
    again.close()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_image_of_another_shape_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    strategy = WriteRun(model_id="m", overlap=OVERLAP)
    for pixels in (image(), image()[:, :200]):
        strategy.write_batch(tmp_path, tiles(dense, pixels))
        strategy.close()
        run = patchloom.open(tmp_path)
        assert run["a/s.tif"].stitched().shape == (2, 2, *pixels.shape[1:])
        assert run.verify() == []


def test_a_run_of_another_model_or_grid_is_left_alone(tmp_path: Path) -> None:
    strategy = WriteRun(model_id="m", overlap=OVERLAP)
    strategy.write_batch(tmp_path, tiles(dense, image()[:, :200]))
    strategy.close()
    for other in (WriteRun(model_id="n", overlap=OVERLAP), WriteRun(model_id="m", overlap=OVERLAP, blend="hann")):
        with pytest.raises(ConfigMismatchError):
            other.write_batch(tmp_path, tiles(dense, image()[:, :200]))
        other.close()
    with pytest.raises(PredictionError, match="do not fit the run"):
        strategy.write_batch(tmp_path, tiles(lambda batch: dense(batch)[:, :1], image()))
    strategy.close()
    assert patchloom.open(tmp_path).verify() == []


def test_images_of_one_run_have_predictions_of_one_kind(tmp_path: Path) -> None:
    strategy = WriteRun(model_id="m", patch=PATCH, overlap=OVERLAP)
    strategy.write_batch(tmp_path, tiles(dense, image()[:, :200]))
    other = [ImagePrediction(**{**vars(tile), "data_index": 1}) for tile in tiles(vector, image(), "b.tif")]
    with pytest.raises(PredictionError, match=r"data index 1.*do not fit the run"):
        strategy.write_batch(tmp_path, other)
    strategy.close()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    strategy = WriteRun(model_id="m", overlap=OVERLAP)
    with pytest.raises(OutputError, match="is no run"):
        strategy.write_batch(tmp_path, tiles(dense, image())[:1])
    strategy.close()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_writers_do_not_share_a_run(tmp_path: Path) -> None:
    first, second = WriteRun(model_id="m", overlap=OVERLAP), WriteRun(model_id="m", overlap=OVERLAP)
    all_tiles = tiles(dense, image()[:, :200])
    first.write_batch(tmp_path, all_tiles[:1])
    with pytest.raises(RunLockedError):
        second.write_batch(tmp_path, all_tiles)
    first.write_batch(tmp_path, all_tiles[1:])
    first.close()
    second.write_batch(tmp_path, all_tiles)
    second.close()


def test_vectors_need_the_size_of_a_tile(tmp_path: Path) -> None:
    strategy = WriteRun(model_id="m")
    with pytest.raises(PredictionError, match="shape"):
        strategy.write_batch(tmp_path, tiles(vector, image())[:1])
    strategy.close()


UNCLOSED = """
import sys
import numpy as np
from patchloom.writing import ImagePrediction, WriteRun
strategy = WriteRun(model_id="m")
for start in [(0, 0), (0, 512)]:
    tile = ImagePrediction(np.ones((1, 512, 512), np.float32), "YX", (2048, 1024), 0, source="s.tif", start=start)
    strategy.write_batch(sys.argv[1], [tile])
raise RuntimeError("the loop broke")
"""


def test_a_program_that_breaks_ends_and_leaves_a_run_with_what_was_complete(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNCLOSED, tmp_path], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "RuntimeError: the loop broke"
    run = patchloom.open(tmp_path)
    assert run.verify() == []
    assert [status.patches_done for status in run.status().images()] == [2]
    assert (run["s.tif"].stitched()[0, :512] == 1).all()
