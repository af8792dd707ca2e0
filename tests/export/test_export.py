"""Exports are read back with other programs."""

import csv

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
import tifffile

import patchloom
from patchloom.errors import NotPredictedError, UsageError

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (700, 900, 3), dtype=np.uint8)


def scores(batch):
    return {"map": batch.astype("f4") / 255, "numbers": batch.mean((2, 3))}


def classes(batch):
    return (batch[:, 0] // 64).astype(np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return patchloom.predict({"a": IMAGE}, scores, tmp_path_factory.mktemp("run"), patch=256, classes="r,g,b")


@pytest.fixture(scope="module")
def two_images(tmp_path_factory):
    images = {"a/s": IMAGE[:300, :400], "b/s": IMAGE[300:500, :300]}
    return patchloom.predict(images, classes, tmp_path_factory.mktemp("two"), patch=128)


def test_a_tiff_holds_the_map_with_axes_and_channel_names(run, tmp_path):
    run.export(tmp_path / "map.tif")
    with tifffile.TiffFile(tmp_path / "map.tif") as file:
        assert file.is_ome
        assert file.series[0].axes == "CYX"
        assert 'Name="g"' in file.ome_metadata
        assert file.pages[0].is_tiled
        np.testing.assert_array_equal(file.asarray(), run["a"].stitched("map"))


def test_a_reduced_level_is_smaller(run, tmp_path):
    run.export(tmp_path / "map.tif", level=1)
    assert tifffile.imread(tmp_path / "map.tif").shape == (3, 350, 450)


def test_a_numpy_file_holds_the_map(run, tmp_path):
    run.export(tmp_path / "map.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "map.npy"), run["a"].stitched("map"))


def test_a_png_of_scores_is_rounded_to_bytes(run, tmp_path):
    run.export(tmp_path / "map.png")
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / "map.png")), IMAGE)


def test_a_png_of_classes_has_the_class_as_its_palette_index(two_images, tmp_path):
    two_images.export(tmp_path / "map.png", image="a/s")
    picture = PIL.Image.open(tmp_path / "map.png")
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), IMAGE[:300, :400, 0] // 64)
    assert len({tuple(colour) for colour in np.asarray(picture.convert("RGB")).reshape(-1, 3)}) == 4


def test_tables_hold_a_row_a_patch(run, tmp_path):
    run.export(tmp_path / "t.csv")
    run.export(tmp_path / "t.parquet")
    with (tmp_path / "t.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["image", "row", "col", "y", "x", "height", "width", "r", "g", "b"]
    assert len(rows) == 12
    assert pq.read_table(tmp_path / "t.parquet").num_rows == 12
    assert float(rows[0]["r"]) == pytest.approx(IMAGE[:256, :256, 0].mean())


def test_a_georeferenced_map_stays_georeferenced(tmp_path):
    tags = [(33550, 12, 3, (10.0, 10.0, 0.0), True), (33922, 12, 6, (0.0, 0.0, 0.0, 500000.0, 6000000.0, 0.0), True),
            (34735, 3, 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633), True)]
    tifffile.imwrite(tmp_path / "scene.tif", IMAGE, tile=(256, 256), extratags=tags, metadata=None)
    run = patchloom.predict(tmp_path / "scene.tif", lambda batch: batch, tmp_path / "run", patch=256)
    run.export(tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        geography = file.pages[0].geotiff_tags
        np.testing.assert_array_equal(file.asarray(), IMAGE.transpose(2, 0, 1))
    assert int(geography["ProjectedCSTypeGeoKey"]) == 32633
    assert geography["ModelPixelScale"][:2] == [10.0, 10.0]
    assert geography["ModelTiepoint"][3:5] == [500000.0, 6000000.0]


def test_a_stack_is_exported_with_its_planes(tmp_path):
    stack = RNG.integers(0, 255, (2, 3, 100, 120), dtype=np.uint8)
    run = patchloom.predict({"s": stack}, lambda batch: batch, tmp_path / "run", patch=64, axes="TCYX")
    run.export(tmp_path / "s.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "s.tif"), stack)


def test_one_image_formats_ask_which_of_several(two_images, tmp_path):
    with pytest.raises(UsageError, match="2 images") as error:
        two_images.export(tmp_path / "map.tif")
    assert "--image" in error.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "error"), [("map.xyz", UsageError), ("map.csv", UsageError)])
def test_formats_that_do_not_fit_are_refused_and_leave_nothing(two_images, tmp_path, name, error):
    with pytest.raises(error):
        two_images.export(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_an_unknown_image_is_an_error(run, tmp_path):
    for name in ("x.tif", "x.csv"):
        with pytest.raises(NotPredictedError):
            run.export(tmp_path / name, image="zzz")
