"""What strategies tell write functions, and what they say when something is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from patchloom.errors import IncompleteImageError, OutputError, PredictionError, UsageError
from patchloom.writing import (
    ImagePrediction,
    WriteImage,
    WriteRun,
    WriteTiles,
    WriteTilesZarr,
    write_func_for,
    write_npy,
    write_tiff,
)


def samples(count: int = 5, **changes: Any) -> list[ImagePrediction]:
    common: dict[str, Any] = {"axes": "SYX", "data_shape": (5, 64, 64), "data_index": 0, "source": "a/s.tif"} | changes
    return [ImagePrediction(np.full((1, 64, 64), i, np.float32), sample=i, **common) for i in range(count)]


class Recorder:
    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, *, file_path: Path, img: Any, **kwargs: Any) -> None:
        self.calls.append({"file_path": file_path, "img": np.array(img), **kwargs})


def test_the_write_function_gets_path_image_and_arguments(tmp_path: Path) -> None:
    write_func = Recorder()
    strategy = WriteImage(write_func, ".tiff", {"compression": "zlib"})
    strategy.write_batch(tmp_path, samples()[:3])
    assert write_func.calls == []
    strategy.write_batch(tmp_path, samples()[3:])
    strategy.close()
    (call,) = write_func.calls
    assert call["file_path"] == tmp_path / "a" / "s.tiff"
    assert call["file_path"].parent.is_dir()
    assert call["compression"] == "zlib"
    assert set(call) == {"file_path", "img", "compression"}
    assert call["img"].shape == (5, 1, 64, 64)
    assert call["img"][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_write_function_that_asks_for_axes_is_told_them(tmp_path: Path) -> None:
    strategy = WriteImage(write_tiff, ".tiff")
    strategy.write_batch(tmp_path, samples())
    with tifffile.TiffFile(tmp_path / "a/s.tiff") as file:
        assert file.series[0].axes in ("TYX", "TCYX")
    told = WriteImage(write_func_for(".zarr"), ".zarr", {"axes": "TCYX"})
    told.write_batch(tmp_path, samples())
    names = zarr.open_array(tmp_path / "a/s.zarr/0", mode="r").metadata.dimension_names
    assert names == ("t", "c", "y", "x")


def test_one_sample_of_a_plain_image_has_no_axis_of_samples(tmp_path: Path) -> None:
    strategy = WriteImage(write_npy, ".npy")
    strategy.write_batch(tmp_path, [ImagePrediction(np.zeros((1, 64, 64)), "YX", (64, 64), 0)])
    assert np.load(tmp_path / "array_0.npy").shape == (1, 64, 64)


def test_too_many_in_one_batch_writes_nothing(tmp_path: Path) -> None:
    strategy = WriteImage(write_npy, ".npy")
    with pytest.raises(ValueError, match=r"data index 0 .*expected 5, found 6"):
        strategy.write_batch(tmp_path, [*samples(5), *samples(1)])
    assert list(tmp_path.iterdir()) == []


def test_incomplete_images_can_be_a_warning(tmp_path: Path) -> None:
    strategy = WriteImage(write_npy, ".npy", on_incomplete="warn")
    strategy.write_batch(tmp_path, samples(3))
    with pytest.warns(UserWarning, match=r"1 image was never completed.*a/s\.tif \(data index 0\): 3 of 5 samples"):
        strategy.close()
    strategy.close()


def test_of_many_incomplete_images_some_are_named_and_all_counted(tmp_path: Path) -> None:
    strategy = WriteImage(write_npy, ".npy")
    for index in range(20):
        strategy.write_batch(tmp_path, samples(1, data_index=index, source=f"{index}.tif"))
    with pytest.raises(IncompleteImageError, match=r"20 images were .* 0\.tif .* 7\.tif .*; and 12 more"):
        strategy.close()


def test_a_write_function_that_fails_costs_its_image_only(tmp_path: Path) -> None:
    def write_func(*, file_path: Path, img: Any) -> None:
        if file_path.stem == "bad":
            raise RuntimeError("broken")
        write_npy(file_path, img)

    strategy = WriteImage(write_func, ".npy")
    with pytest.raises(RuntimeError, match="broken"):
        strategy.write_batch(tmp_path, samples(source="bad.tif") + samples(source="good.tif", data_index=1))
    strategy.write_batch(tmp_path, [])
    assert (tmp_path / "good.npy").exists()
    with pytest.raises(RuntimeError, match="broken"):
        strategy.write_batch(tmp_path, samples(source="bad.tif"))  # may be tried again
    strategy.close()


def test_tensors_are_taken(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    strategy = WriteImage(write_npy, ".npy")
    for i, dtype in enumerate([torch.float32, torch.bfloat16, torch.int64, torch.float16]):
        data = torch.ones((1, 8, 8), dtype=dtype, requires_grad=dtype == torch.float32)
        strategy.write_batch(tmp_path, [ImagePrediction(data, "YX", torch.Size((8, 8)), torch.tensor(i))])
    strategy.close()
    found = [np.load(tmp_path / f"array_{i}.npy").dtype.name for i in range(4)]
    assert found == ["float32", "float32", "int64", "float16"]


def test_a_prediction_of_another_size_than_its_image_is_an_error(tmp_path: Path) -> None:
    strategy = WriteImage(write_npy, ".npy")
    with pytest.raises(PredictionError, match=r"\(32, 32\) pixels, and the image has \(64, 64\)"):
        strategy.write_batch(tmp_path, [ImagePrediction(np.zeros((1, 32, 32)), "YX", (64, 64), 0)])


def test_a_tile_is_no_whole_image_and_the_other_way_round(tmp_path: Path) -> None:
    tile = ImagePrediction(np.zeros((1, 32, 32)), "YX", (64, 64), 0, start=(0, 32))
    with pytest.raises(PredictionError, match=r"is no whole image.*WriteTiles"):
        WriteImage(write_npy, ".npy").write_batch(tmp_path, [tile])
    for strategy in (WriteTiles(write_npy, ".npy"), WriteTilesZarr(), WriteRun(model_id="m")):
        with pytest.raises(PredictionError, match="is no tile"):
            strategy.write_batch(tmp_path, samples(1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("strategy", [WriteTiles(write_npy, ".npy", overlap=8), WriteTilesZarr(stride=24)])
def test_a_tile_that_the_grid_does_not_have_is_an_error(strategy: Any, tmp_path: Path) -> None:
    tile = ImagePrediction(np.zeros((1, 32, 32)), "YX", (64, 64), 0, start=(0, 31))
    with pytest.raises(PredictionError, match=r"tile at \(0, 31\).*stride \(24, 24\)"):
        strategy.write_batch(tmp_path, [tile])


def test_tiles_that_leave_gaps_are_incomplete_unless_the_stride_is_known(tmp_path: Path) -> None:
    tiles = [
        ImagePrediction(np.ones((1, 16, 16), np.float32), "YX", (40, 40), 0, source="s", start=(y, x))
        for y in (0, 24)
        for x in (0, 24)
    ]
    unknowing = WriteTiles(write_npy, ".npy")
    unknowing.write_batch(tmp_path, tiles)
    with pytest.raises(IncompleteImageError, match=r"s \(data index 0\): 4 tiles"):
        unknowing.close()
    for blend in ("crop", "constant"):
        strategy = WriteTiles(write_npy, ".npy", stride=24, blend=blend)  # type: ignore[arg-type]
        strategy.write_batch(tmp_path, tiles)
        strategy.close()
        image = np.load(tmp_path / "s.npy")
        assert np.isnan(image[0, 16:24]).all() and np.isnan(image[0, :, 16:24]).all()
        assert (image[0, :16, :16] == 1).all()


def test_blended_whole_numbers_are_rounded(tmp_path: Path) -> None:
    strategy = WriteTiles(write_npy, ".npy", overlap=8, blend="constant")
    for x, value in ((0, 1), (8, 4)):
        data = np.full((16, 16), value, np.uint8)
        strategy.write_batch(tmp_path, [ImagePrediction(data, "YX", (16, 24), 0, source="s", start=(0, x))])
    strategy.close()
    assert np.load(tmp_path / "s.npy")[0].tolist() == [1] * 8 + [2] * 8 + [4] * 8


@pytest.mark.parametrize(
    "make",
    [
        lambda: WriteTiles(write_npy, ".npy", stride=8, overlap=8),
        lambda: WriteTiles(write_npy, ".npy", blend="best"),  # type: ignore[arg-type]
        lambda: WriteTiles(write_npy, ".npy", edge="far"),  # type: ignore[arg-type]
        lambda: WriteTilesZarr(blend="gaussian"),
        lambda: WriteImage(write_npy, ".npy", on_incomplete="cry"),  # type: ignore[arg-type]
        lambda: WriteRun(model_id=""),
    ],
)
def test_options_that_cannot_be_are_errors(make: Any) -> None:
    with pytest.raises(UsageError):
        make()


def test_an_overlap_that_is_not_below_the_patch_is_an_error(tmp_path: Path) -> None:
    tile = ImagePrediction(np.zeros((16, 16)), "YX", (64, 64), 0, start=(0, 0))
    for strategy in (WriteTiles(write_npy, ".npy", overlap=16), WriteTilesZarr(overlap=20)):
        with pytest.raises(UsageError, match="overlap is below the patch"):
            strategy.write_batch(tmp_path, [tile])


def test_a_folder_that_cannot_be_written_is_an_error_in_the_users_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    tile = ImagePrediction(np.zeros((64, 64)), "YX", (64, 64), 0, start=(0, 0))
    for strategy in (WriteImage(write_npy, ".npy"), WriteTiles(write_npy, ".npy"), WriteTilesZarr()):
        with pytest.raises(OutputError):
            strategy.write_batch(tmp_path / "file", [tile])


def test_volumes_and_planes_of_three_channels_are_told_apart(tmp_path: Path) -> None:
    data, common = np.zeros((3, 16, 16)), {"axes": "ZYX", "data_shape": (3, 16, 16), "data_index": 0}
    volume, plane = ImagePrediction(data, **common), ImagePrediction(data, **common, ndim=2)  # type: ignore[arg-type]
    strategy = WriteImage(write_npy, ".npy")
    strategy.write_batch(tmp_path, [volume])
    strategy.close()
    assert np.load(tmp_path / "array_0.npy").shape == (3, 16, 16)
    strategy.write_batch(tmp_path, [plane])
    with pytest.raises(IncompleteImageError, match="1 of 3 samples"):
        strategy.close()
