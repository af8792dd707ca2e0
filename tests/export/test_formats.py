"""Formats on maps and tables of every kind, with a stand-in for the run."""

import csv
import errno
import json
import tracemalloc
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas
import PIL.Image
import pytest
import tifffile
import zarr

from patchloom.errors import NotPredictedError, OutputError, RunDamagedError, UsageError
from patchloom.export import blocks as blocks_module
from patchloom.export.blocks import blocks, write_npy
from patchloom.export.export import atomic, export, formats
from patchloom.export.png import PALETTE
from patchloom.models.model import Head
from patchloom.predictions.layout import PlaneInfo
from patchloom.predictions.maps import StitchedMap
from patchloom.predictions.patches import UnitRows, encode_unit
from patchloom.predictions.query import PatchTable

RNG = np.random.default_rng(0)


class StandInImage:
    """One map with its levels."""

    def __init__(self, levels, axes, nodata, classes=(), **info):
        self.levels, self.axes, self.nodata, self.classes = levels, axes, nodata, classes
        self.info = PlaneInfo(levels[0].shape[-2:], **info)

    def stitched(self, head=None, level=0):
        if level >= len(self.levels):
            raise UsageError(f"level {level} does not exist")
        pixels = self.levels[level]
        spacing = {axis: size * 2**level for axis, size in (self.info.spacing or {}).items()}
        return StitchedMap(pixels, self.axes, spacing, self.nodata, self.classes, "a")


class StandInRun(dict):
    """Run of images by name, and of tables."""

    def __init__(self, images, kinds=("dense",), files=(), head=None):
        super().__init__(images)
        self.files, self.head = files, head
        self.heads = tuple(Head(kind, kind, np.dtype("f4"), (2,)) for kind in kinds)

    def __missing__(self, name):
        raise NotPredictedError(f"no {name}")

    def images(self):
        return iter(self)

    def patches(self, where=None, sort=None, limit=None, head=None, image=None):
        return PatchTable(self.files, self.head, 2, where=where, sort=sort, limit=limit, image=image)


def stored(pixels, chunks=None):
    chunks = chunks or (*(1,) * (pixels.ndim - 2), 128, 128)
    array = zarr.create_array({}, shape=pixels.shape, dtype=pixels.dtype, chunks=chunks)
    array[...] = pixels
    return array


def a_run(pixels, axes, nodata=255, classes=(), chunks=None, levels=1, **info):
    pyramid = [pixels[..., :: 2**level, :: 2**level] for level in range(levels)]
    return StandInRun({"a": StandInImage([stored(one, chunks) for one in pyramid], axes, nodata, classes, **info)})


def a_table(folder, head, name="a", rows=None):
    places = np.stack(np.meshgrid(np.arange(3), np.arange(4), indexing="ij"), -1).reshape(-1, 2)
    values = RNG.random((12, *head.shape)).astype(head.dtype) if rows is None else rows
    path = folder / "unit.parquet"
    part = UnitRows(name, (), places, places * 32, np.full_like(places, 32), values)
    path.write_bytes(encode_unit(head, "", 2, [part]))
    return StandInRun({name: None}, ("vector",), [path], head), values


MAPS = [("YX", (300, 700), "u1"), ("CYX", (3, 300, 700), "f4"), ("CYX", (5, 130, 90), "f2"), ("ZYX", (6, 70, 90), "f4"),
        ("TCYX", (2, 3, 60, 50), "u2"), ("CZYX", (2, 5, 40, 50), "f8"), ("TYX", (3, 40, 50), "i4"),
        ("CYX", (1, 1, 1), "f4"), ("SYX", (3, 40, 50), "u1"), ("STCZYX", (2, 2, 2, 2, 30, 40), "u1"),
        ("YX", (20, 30), "bool")]


@pytest.mark.parametrize(("axes", "shape", "dtype"), MAPS)
def test_npy_and_tiff_hold_any_map(tmp_path, axes, shape, dtype):
    pixels = (RNG.random(shape) * 200).astype(dtype)
    run = a_run(pixels, axes)
    for name in ("m.npy", "m.tif", "m.ome.tiff", "M.TIF"):
        export(run, tmp_path / name)
    np.testing.assert_array_equal(np.load(tmp_path / "m.npy"), pixels)
    for name in ("m.tif", "m.ome.tiff", "M.TIF"):
        with tifffile.TiffFile(tmp_path / name) as file:
            assert file.is_ome
            np.testing.assert_array_equal(file.asarray().reshape(shape), pixels)
    with tifffile.TiffFile(tmp_path / "m.tif") as file:
        found = {axis: n for axis, n in zip(file.series[0].axes, file.series[0].shape, strict=True) if n > 1}
    sizes = dict(zip(axes, shape, strict=True))
    sizes["T"] = sizes.pop("S", 1) * sizes.pop("T", 1)
    assert found == {axis: n for axis, n in sizes.items() if n > 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["M.TIF", "m.npy", "m.ome.tiff", "m.tif"]


@pytest.mark.parametrize("chunks", [(4, 16, 16), (6, 32, 16), (1, 7, 5)])
def test_each_chunk_is_decoded_once_however_many_planes_it_spans(tmp_path, monkeypatch, chunks):
    monkeypatch.setattr(blocks_module, "BLOCK", (32, 48))
    monkeypatch.setattr(blocks_module, "PLANES_A_CHUNK", 3)
    pixels = RNG.random((6, 70, 90)).astype("f4")
    run = a_run(pixels, "ZYX", chunks=chunks)
    covered = np.zeros(pixels.shape, int)
    for index in blocks(run["a"].stitched()):
        covered[index] += 1
        assert all(part.start % chunk == 0 for part, chunk in zip(index, chunks, strict=True))
    assert (covered == 1).all()
    export(run, tmp_path / "m.npy")
    export(run, tmp_path / "m.tif")
    np.testing.assert_array_equal(np.load(tmp_path / "m.npy"), pixels)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "m.tif"), pixels)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_tiff_says_the_size_of_a_pixel_and_the_names_of_channels(tmp_path):
    pixels = RNG.random((2, 100, 90)).astype("f4")
    run = a_run(pixels, "CYX", classes=("stroma & gland", "tumour"), spacing={"Y": 0.5, "X": 0.25},
                unit={"Y": "micrometer", "X": "micrometer"})
    export(run, tmp_path / "m.tif")
    with tifffile.TiffFile(tmp_path / "m.tif") as file:
        root = ET.fromstring(file.ome_metadata)
        resolution = [numerator / denominator for numerator, denominator in
                      (file.pages[0].tags[name].value for name in ("XResolution", "YResolution"))]
    sizes = next(element for element in root.iter() if element.tag.endswith("Pixels")).attrib
    assert (sizes["PhysicalSizeX"], sizes["PhysicalSizeY"], sizes["PhysicalSizeXUnit"]) == ("0.25", "0.5", "µm")
    names = [element.get("Name") for element in root.iter() if element.tag.endswith("Channel")]
    assert names == ["stroma & gland", "tumour"]
    assert resolution == pytest.approx([40_000, 20_000], rel=1e-4)


@pytest.mark.parametrize(("unit", "expected"), [("nanometer", "nm"), ("degree", None), (None, "pixel")])
def test_a_tiff_states_only_units_that_ome_knows(tmp_path, unit, expected):
    units = {"Y": unit, "X": unit} if unit else None
    run = a_run(np.zeros((30, 40), "u1"), "YX", spacing={"Y": 2.0, "X": 2.0}, unit=units)
    export(run, tmp_path / "m.tif")
    with tifffile.TiffFile(tmp_path / "m.tif") as file:
        root = ET.fromstring(file.ome_metadata)
    sizes = next(element for element in root.iter() if element.tag.endswith("Pixels")).attrib
    assert sizes.get("PhysicalSizeXUnit") == expected


@pytest.mark.parametrize("geo", [{}, {"crs": "EPSG:32618", "origin": (10.0, 20.0), "spacing": {"Y": 1.0, "X": 1.0}}])
def test_a_tiff_has_the_smaller_levels_too(tmp_path, geo):
    pixels = RNG.integers(0, 255, (2, 1400, 1100)).astype("u1")
    export(a_run(pixels, "CYX", levels=3, **geo), tmp_path / "m.tif")
    with tifffile.TiffFile(tmp_path / "m.tif") as file:
        assert [level.shape for level in file.series[0].levels] == [(2, 1400, 1100), (2, 700, 550), (2, 350, 275)]
        for level in range(3):
            np.testing.assert_array_equal(file.series[0].levels[level].asarray(), pixels[:, :: 2**level, :: 2**level])
    export(a_run(pixels, "CYX", levels=3, **geo), tmp_path / "one.tif", level=2)
    assert tifffile.imread(tmp_path / "one.tif").shape == (2, 350, 275)


@pytest.mark.parametrize(("unit", "key"), [("degree", "GeographicTypeGeoKey"), ("meter", "ProjectedCSTypeGeoKey")])
def test_a_georeferenced_map_says_where_it_is_at_every_level(tmp_path, unit, key):
    pixels = RNG.random((2, 600, 500)).astype("f4")
    run = a_run(pixels, "CYX", nodata=float("nan"), classes=("a", "b"), levels=2, crs="EPSG:4326",
                origin=(-73.5, 40.25), spacing={"Y": 0.5, "X": 0.25}, unit={"Y": unit, "X": unit})
    for level in range(2):
        export(run, tmp_path / "m.tif", level=level)
        with tifffile.TiffFile(tmp_path / "m.tif") as file:
            page = file.pages[0]
            assert page.geotiff_tags["ModelPixelScale"] == [0.25 * 2**level, 0.5 * 2**level, 0.0]
            assert page.geotiff_tags["ModelTiepoint"] == [0, 0, 0, -73.5, 40.25, 0]
            assert int(page.geotiff_tags[key]) == 4326
            assert page.nodata is not None and np.isnan(page.nodata)
            assert 'role="description">b<' in page.tags[42112].value
            assert page.samplesperpixel == 2


def test_other_programs_open_what_we_write(tmp_path):
    classes = RNG.integers(0, 4, (300, 700)).astype("u1")
    export(a_run(classes, "YX"), tmp_path / "m.tif")
    with PIL.Image.open(tmp_path / "m.tif") as picture:
        np.testing.assert_array_equal(np.asarray(picture), classes)
    scores = RNG.random((2, 300, 700)).astype("f4")
    export(a_run(scores, "CYX"), tmp_path / "s.tif")
    with PIL.Image.open(tmp_path / "s.tif") as picture:
        assert picture.n_frames == 2
        picture.seek(1)
        np.testing.assert_array_equal(np.asarray(picture), scores[1])


def test_types_that_a_format_does_not_hold_are_refused(tmp_path):
    with pytest.raises(UsageError, match="int64") as error:
        export(a_run(np.zeros((8, 8), "i8"), "YX"), tmp_path / "m.tif")
    assert ".npy" in error.value.hint
    for pixels, axes in ((np.zeros((4, 8, 8), "u1"), "CYX"), (np.zeros((3, 8, 8), "u1"), "TYX"),
                         (np.zeros((3, 8, 8), "u2"), "CYX"), (np.full((8, 8), -3, "i2"), "YX")):
        with pytest.raises(UsageError, match="a PNG does not hold"):
            export(a_run(pixels, axes), tmp_path / "m.png")
    assert list(tmp_path.iterdir()) == []


def test_a_png_that_would_be_too_large_is_refused_before_anything_is_read(tmp_path):
    array = zarr.create_array({}, shape=(20_000, 20_000), dtype="u1", chunks=(512, 512))
    run = StandInRun({"a": StandInImage([array], "YX", 255)})
    with pytest.raises(UsageError, match="20,000 x 20,000") as error:
        export(run, tmp_path / "m.png")
    assert "--level" in error.value.hint


@pytest.mark.parametrize(("dtype", "nodata"), [
    ("u1", 255), ("i2", 32767), ("u2", 65535), ("i8", 2**63 - 1), ("i4", -1),
])
def test_what_was_never_predicted_is_transparent_in_a_png_of_classes(tmp_path, dtype, nodata):
    classes = RNG.integers(0, 12, (300, 200)).astype(dtype)
    classes[:50] = nodata
    export(a_run(classes, "YX", nodata), tmp_path / "m.png")
    with PIL.Image.open(tmp_path / "m.png") as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture)[50:], classes[50:])
        colours = np.asarray(picture.convert("RGBA"))
    assert (colours[:50, :, 3] == 0).all()
    assert (colours[50:, :, 3] == 255).all()
    np.testing.assert_array_equal(colours[50:, :, :3], np.asarray(PALETTE)[classes[50:].astype(int)])


def test_no_two_classes_have_the_same_colour():
    assert len(PALETTE) == len(set(PALETTE)) == 256


def test_many_classes_are_a_grey_png_of_16_bits(tmp_path):
    classes = np.arange(300 * 200).reshape(300, 200).astype("i4")
    export(a_run(classes, "YX", -1), tmp_path / "m.png")
    with PIL.Image.open(tmp_path / "m.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), classes)


def test_a_png_of_scores_goes_from_black_to_white(tmp_path):
    scores = np.asarray([[[0, 1, 0.5, 2, -1, np.nan, np.inf]]], "f2")
    export(a_run(scores, "CYX", np.nan, chunks=(1, 1, 7)), tmp_path / "m.png")
    assert np.asarray(PIL.Image.open(tmp_path / "m.png")).tolist() == [[0, 255, 128, 255, 0, 0, 255]]


def test_memory_does_not_grow_with_the_map(tmp_path):
    array = zarr.create_array(tmp_path / "z", shape=(8192, 8192), dtype="f4", chunks=(256, 256), shards=(512, 2048),
                              fill_value=0.5)
    run = StandInRun({"a": StandInImage([array], "YX", 0)})
    for name in ("m.npy", "m.tif"):
        tracemalloc.start()
        export(run, tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8192 * 8192 * 4 / 4
    assert np.load(tmp_path / "m.npy", mmap_mode="r")[-1, -1] == 0.5


SCORES = Head("h", "vector", np.dtype("f4"), (2,), classes=("stroma", "tumour"))


def test_a_csv_has_plain_names_and_short_numbers(tmp_path):
    run, values = a_table(tmp_path, SCORES, rows=np.full((12, 2), 0.1, "f4"))
    export(run, tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[0] == "image,row,col,y,x,height,width,stroma,tumour"
    assert lines[6] == "a,1,1,32,32,32,32,0.1,0.1"
    assert len(lines) == 1 + len(values)


@pytest.mark.parametrize("name", ["a,b.tif", 'say "x"', "two\nlines", "größe 2/ä.svs", "=1+1", "crlf\r\n"])
def test_names_of_images_survive_csv(tmp_path, name):
    run, values = a_table(tmp_path, SCORES, name)
    export(run, tmp_path / "t.csv", image=name)
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert {row[0] for row in rows[1:]} == {name}
    np.testing.assert_array_equal(np.asarray([row[-2:] for row in rows[1:]], "f4"), values)


@pytest.mark.parametrize("dtype", ["f4", "f2", "f8", "u1"])
def test_embeddings_are_json_in_csv_and_lists_in_parquet(tmp_path, dtype):
    head = Head("h", "vector", np.dtype(dtype), (100,), classes=tuple(map(str, range(100))))
    values = (RNG.standard_normal((12, 100)) * 40).astype(dtype)
    if np.dtype(dtype).kind == "f":
        values[0, :3] = np.nan, np.inf, -np.inf
    run, _ = a_table(tmp_path, head, rows=values)
    export(run, tmp_path / "t.csv")
    export(run, tmp_path / "t.parquet")
    with (tmp_path / "t.csv").open(newline="") as file:
        found = [json.loads(row["prediction"]) for row in csv.DictReader(file)]
    np.testing.assert_array_equal(np.asarray(found, dtype), values)
    frame = pandas.read_parquet(tmp_path / "t.parquet")
    np.testing.assert_array_equal(np.stack(frame["prediction"]), values)
    assert frame["image"].tolist() == ["a"] * 12


def test_a_single_number_a_patch_is_the_column_prediction(tmp_path):
    run, values = a_table(tmp_path, Head("h", "vector", np.dtype("f2"), ()))
    export(run, tmp_path / "t.csv")
    np.testing.assert_array_equal(pandas.read_csv(tmp_path / "t.csv")["prediction"].astype("f2"), values)


def test_a_run_without_what_a_format_needs_says_what_to_export_to(tmp_path):
    run, _ = a_table(tmp_path, SCORES)
    with pytest.raises(UsageError, match="no maps") as error:
        export(run, tmp_path / "m.tif")
    assert ".csv" in error.value.hint
    with pytest.raises(UsageError, match="no table") as error:
        export(a_run(np.zeros((8, 8), "u1"), "YX"), tmp_path / "t.parquet")
    assert ".tif" in error.value.hint


def test_an_unknown_ending_names_those_that_are_known(tmp_path):
    with pytest.raises(UsageError, match=r"m\.bmp") as error:
        export(a_run(np.zeros((8, 8), "u1"), "YX"), tmp_path / "m.bmp")
    assert all(suffix in error.value.hint for suffix in (".csv", ".npy", ".parquet", ".png", ".tif"))
    assert {".csv", ".npy", ".parquet", ".png", ".tif", ".tiff"} <= set(formats())


class Failing:
    """Map whose last block cannot be read."""

    def __init__(self, stitched, error):
        self._stitched, self._error = stitched, error

    def __getattr__(self, name):
        return getattr(self._stitched, name)

    def __getitem__(self, index):
        if index[-2].stop >= self._stitched.shape[-2]:
            raise self._error
        return self._stitched[index]


@pytest.mark.parametrize("name", ["sub/folder/m.npy", "sub/m.tif", "old.npy"])
@pytest.mark.parametrize("error", [RunDamagedError("damaged"), KeyboardInterrupt(), OSError(errno.ENOSPC, "no room")])
def test_what_fails_half_way_leaves_nothing_and_keeps_what_was_there(tmp_path, monkeypatch, name, error):
    (tmp_path / "old.npy").write_bytes(b"old")
    run = a_run(RNG.random((1, 1200, 40)).astype("f4"), "CYX", chunks=(1, 128, 40))
    original = run["a"].stitched
    monkeypatch.setattr(run["a"], "stitched", lambda *args: Failing(original(*args), error))
    expected = OutputError if getattr(error, "errno", None) else type(error)
    with pytest.raises(expected) as raised:
        export(run, tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["old.npy"]
    assert (tmp_path / "old.npy").read_bytes() == b"old"
    if expected is OutputError:
        assert "no room" in raised.value.message


def test_a_file_is_replaced_only_when_it_is_complete(tmp_path):
    (tmp_path / "t.csv").write_text("old")
    with atomic(tmp_path / "t.csv") as partial:
        partial.write_text("new")
        assert (tmp_path / "t.csv").read_text() == "old"
    assert (tmp_path / "t.csv").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_written_is_an_output_error(tmp_path):
    run = a_run(np.zeros((8, 8), "u1"), "YX")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.npy").mkdir()
    for name in ("file/m.npy", "folder.npy"):
        with pytest.raises(OutputError):
            export(run, tmp_path / name)
    with pytest.raises(OutputError, match="cannot be written"):
        export(run, Path("/proc/m.npy"))


def test_an_npy_file_is_what_numpy_would_write(tmp_path):
    pixels = RNG.random((2, 3, 40, 50)).astype("f4")
    write_npy(a_run(pixels, "TCYX")["a"].stitched(), tmp_path / "ours.npy")
    np.save(tmp_path / "theirs.npy", pixels)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()
