"""The write functions: what they write can be read by others, and appears whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile
import zarr

from patchloom.errors import OutputError, UsageError
from patchloom.images.registry import open_image
from patchloom.writing import write_func_for, write_npy, write_png, write_tiff, write_zarr

SHAPE = (2, 3, 33, 47)


def pixels(shape: tuple[int, ...] = SHAPE, dtype: str = "float32") -> Any:
    return (np.random.default_rng(0).random(shape) * 200).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64", "int64", "uint64"])
@pytest.mark.parametrize("compression", ["zlib", None])
def test_tiff_keeps_pixels_and_type(dtype: str, compression: str | None, tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tiff", pixels(dtype=dtype), compression=compression)
    found = tifffile.imread(tmp_path / "a.tiff")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, pixels(dtype=dtype))


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [("YX", (33, 47), "YX"), ("SCYX", SHAPE, "TCYX"), ("TZYX", SHAPE, "TZYX"), (None, SHAPE, "TCYX")],
)
def test_ome_tiff_says_its_axes(axes: str | None, shape: tuple[int, ...], expected: str, tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tiff", pixels(shape), axes=axes)
    with tifffile.TiffFile(tmp_path / "a.tiff") as file:
        assert file.is_ome
        assert file.series[0].axes == expected
        assert file.pages[0].is_tiled


def test_ome_tiff_has_s_in_t(tmp_path: Path) -> None:
    image = pixels((2, 3, 1, 33, 47))
    write_tiff(tmp_path / "a.tiff", image, axes="STCYX")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tiff"), image.reshape(6, 33, 47))


@pytest.mark.parametrize(("dtype", "stored"), [("bool", "uint8"), ("float16", "float32")])
def test_tiff_widens_what_it_does_not_have(dtype: str, stored: str, tmp_path: Path) -> None:
    image = pixels((33, 47), dtype)
    write_tiff(tmp_path / "a.tiff", image)
    assert tifffile.imread(tmp_path / "a.tiff").dtype == stored
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tiff"), image.astype(stored))


@pytest.mark.parametrize("name", ["a.zarr", "a.tiff", "a.npy"])
def test_patchloom_reads_what_it_wrote(name: str, tmp_path: Path) -> None:
    function: Any = write_func_for(Path(name).suffix)
    function(tmp_path / name, pixels((3, 33, 47)))
    image = open_image(tmp_path / name)
    assert image.info.shape == (3, 33, 47)
    if name != "a.npy":
        assert image.info.axes == "CYX"
    image.close()


def test_zarr_says_what_it_is(tmp_path: Path) -> None:
    write_zarr(tmp_path / "a.zarr", pixels(), axes="TCYX", chunks=20, nodata=-1)
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    scale = group.attrs["ome"]["multiscales"][0]
    assert [axis["name"] for axis in scale["axes"]] == ["t", "c", "y", "x"]
    array: Any = group["0"]
    assert array.chunks == (1, 3, 20, 20)
    assert array.fill_value == -1
    np.testing.assert_array_equal(array[...], pixels())


def test_zarr_replaces_a_zarr_and_nothing_else(tmp_path: Path) -> None:
    for value in (1, 2):
        write_zarr(tmp_path / "a.zarr", np.full((8, 8), value))
    assert zarr.open_array(tmp_path / "a.zarr/0", mode="r")[0, 0] == 2
    (tmp_path / "b.zarr").mkdir()
    (tmp_path / "b.zarr" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="is no Zarr"):
        write_zarr(tmp_path / "b.zarr", np.zeros((8, 8)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "b.zarr"]


@pytest.mark.parametrize(
    ("image", "mode", "value"),
    [
        (np.full((1, 8, 9), 0.5, np.float32), "L", 128),
        (np.full((8, 9), 7), "L", 7),
        (np.full((8, 9), 700), "I;16", 700),
        (np.full((1, 1, 8, 9), 1, bool), "L", 1),
        (np.full((3, 8, 9), 9, np.uint8), "RGB", (9, 9, 9)),
        (np.full((4, 8, 9), np.nan), "RGBA", (0, 0, 0, 0)),
    ],
)
def test_png_shows_one_three_or_four_channels(image: Any, mode: str, value: Any, tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", image)
    with PIL.Image.open(tmp_path / "a.png") as picture:
        assert (picture.mode, picture.size, picture.getpixel((0, 0))) == (mode, (9, 8), value)


@pytest.mark.parametrize("image", [np.zeros((2, 8, 8)), np.full((8, 8), -1), np.full((3, 8, 8), 256)])
def test_png_refuses_the_rest(image: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a PNG does not hold"):
        write_png(tmp_path / "a.png", image)


@pytest.mark.parametrize("axes", ["YX", "YXC", "TTYX", "TQYX"])
@pytest.mark.parametrize("function", [write_tiff, write_zarr])
def test_axes_that_do_not_fit_are_an_error(axes: str, function: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="do not fit"):
        function(tmp_path / "a", pixels(), axes=axes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("function", [write_tiff, write_zarr, write_npy, write_png])
def test_a_failure_leaves_what_was_there(function: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.file"
    function(path, np.zeros((8, 8), np.uint8))
    before = sorted(tmp_path.rglob("*"))

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match="no room left"):
        function(path, np.ones((8, 8), np.uint8))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("function", [write_tiff, write_zarr, write_npy])
def test_memory_mapped_arrays_are_written(function: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", pixels((3, 600, 47)))
    function(tmp_path / "out", np.load(tmp_path / "in.npy", mmap_mode="r"))
    if function is write_zarr:
        found: Any = zarr.open_array(tmp_path / "out" / "0", mode="r")[...]
    else:
        found = (tifffile.imread if function is write_tiff else np.load)(tmp_path / "out")
    np.testing.assert_array_equal(found, pixels((3, 600, 47)))


@pytest.mark.parametrize("extension", ["tiff", ".TIF", ".ome.tiff", ".zarr", "npy", ".png"])
def test_functions_are_found_by_extension(extension: str) -> None:
    assert write_func_for(extension).__name__ in {"write_tiff", "write_zarr", "write_npy", "write_png"}


def test_an_unknown_extension_is_an_error_that_names_the_others() -> None:
    with pytest.raises(UsageError, match=r"\.xyz.*\.tiff"):
        write_func_for(".xyz")
