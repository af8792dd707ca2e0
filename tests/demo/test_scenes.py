import itertools

import numpy as np
import pytest
import tifffile

from patchloom.demo.files import overview_of, rows_of, window_of, write_scene
from patchloom.demo.scenes import CLASSES, SCENES, Scene

SCENE = Scene("section.tif", (1500, 1100), 7)


def test_a_block_is_the_same_whatever_was_made_before():
    fresh = Scene("section.tif", (1500, 1100), 7)
    fresh.block(800, 400, 256, 256)
    for again, once in zip(fresh.block(512, 256, 256, 300), SCENE.block(512, 256, 256, 300), strict=True):
        np.testing.assert_array_equal(again, once)


def test_blocks_in_any_order_make_the_same_image_as_one_block():
    whole, truth = SCENE.block(0, 0, 1500, 1100)
    order = np.random.default_rng(0).permutation(list(itertools.product(range(0, 1500, 380), range(0, 1100, 444))))
    for top, left in order.tolist():
        height, width = min(380, 1500 - top), min(444, 1100 - left)
        rgb, labels = SCENE.block(top, left, height, width)
        here = slice(top, top + height), slice(left, left + width)
        difference = np.abs(rgb.astype(int) - whole[here])
        assert difference.max() <= 1  # the order of float32 sums differs with the size of the block
        assert np.mean(truth[here] != labels) < 1e-4


def test_every_class_occurs_in_the_demo_scenes():
    found = set()
    for scene in SCENES[1:3]:
        found |= set(np.unique(scene.block(0, 0, *scene.shape)[1][::8, ::8]).tolist())
    assert found == set(range(len(CLASSES)))


def test_the_truth_says_what_the_pixels_show():
    rgb, truth = Scene("x", (2048, 2560), 8).block(0, 0, 2048, 2560)
    background, stroma, fat, _, lymphocytes, tumour = (rgb[truth == i].mean() for i in range(len(CLASSES)))
    assert background > fat > stroma > max(lymphocytes, tumour)
    assert np.percentile(rgb[truth == 0], 1) > 200  # a nucleus at the rim may reach onto the glass


def test_scenes_of_other_seeds_differ_in_tissue_and_stain():
    (first, truth), (second, other) = (Scene("x", (1024, 1024), seed).block(256, 256, 512, 512) for seed in (1, 2))
    assert np.mean(truth != other) > 0.2
    assert np.abs(first.mean((0, 1)) - second.mean((0, 1))).max() > 3


def test_a_block_begins_at_a_multiple_of_four():
    with pytest.raises(ValueError, match="multiples of 4"):
        SCENE.block(2, 0, 64, 64)


def test_the_largest_scene_has_67_megapixels_and_the_others_one_base_name():
    assert SCENES[0].shape == (8192, 8192)
    assert len({scene.name for scene in SCENES}) == len(SCENES)
    assert {scene.name.rsplit("/")[-1] for scene in SCENES[1:]} == {"biopsy.tif"}


def test_a_written_scene_is_a_pyramidal_jpeg_tiff_and_its_truth_is_exact(tmp_path):
    image, truth, rows = tmp_path / "scenes/a/s.tif", tmp_path / "truth/a/s.tif", []
    write_scene(SCENE, image, truth, done=rows.append)
    rgb, labels = SCENE.block(0, 0, *SCENE.shape)
    np.testing.assert_allclose(tifffile.imread(truth), labels)
    with tifffile.TiffFile(image) as file:
        assert [level.shape for level in file.series[0].levels] == [(1500, 1100, 3), (375, 275, 3), (94, 69, 3)]
        page = file.pages.first
        assert (page.is_tiled, page.compression.name) == (True, "JPEG")
        assert page.get_resolution("micrometer") == (1.0, 1.0)
        assert np.abs(page.asarray().astype(int) - rgb).mean() < 4
        small = file.series[0].levels[1].asarray()
    assert np.abs(small.astype(int) - rgb[2::4, 2::4]).mean() < 40
    assert sum(rows) == 1500 * 1100
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["s.tif", "s.tif"]


def test_files_are_read_in_bands_and_windows(tmp_path):
    image, truth = tmp_path / "scene.tif", tmp_path / "truth.tif"
    write_scene(SCENE, image, truth)
    rgb, labels = SCENE.block(0, 0, *SCENE.shape)
    bands = [(y, band.copy()) for y, band in rows_of(truth)]
    assert [y for y, _ in bands] == list(range(0, 1500, 256))
    np.testing.assert_array_equal(np.concatenate([band for _, band in bands]), labels)
    here = slice(200, 800), slice(500, 1100)
    np.testing.assert_array_equal(window_of(truth, *here), labels[here])
    np.testing.assert_array_equal(window_of(image, *here), tifffile.imread(image)[here])
    assert np.abs(overview_of(image).mean((0, 1)) - rgb.mean((0, 1))).max() < 2


def test_one_thread_writes_the_same_bytes_as_three(tmp_path):
    scene = Scene("s.tif", (1100, 700), 5)
    for threads in (1, 3):
        write_scene(scene, tmp_path / f"{threads}.tif", tmp_path / f"{threads}-truth.tif", threads=threads)
    assert (tmp_path / "1.tif").read_bytes() == (tmp_path / "3.tif").read_bytes()
    assert (tmp_path / "1-truth.tif").read_bytes() == (tmp_path / "3-truth.tif").read_bytes()
