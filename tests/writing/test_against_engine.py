"""What a strategy writes is what the engine makes of the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import patchloom
from patchloom.geometry.axes import spatial_axes
from patchloom.geometry.grid import Grid
from patchloom.writing import ImagePrediction, WriteImage, WriteStrategy, WriteTiles, WriteTilesZarr, write_npy

CASES = [
    ("YX", (70, 93), 2),
    ("TYX", (3, 70, 45), 2),
    ("ZYX", (3, 40, 45), 2),
    ("ZYX", (30, 40, 45), 3),
    ("YX", (20, 93), 2),
]
PATCH, OVERLAP = 32, 8


def model(batch: Any) -> Any:
    """Two channels; neighbouring patches disagree where they overlap."""
    pixels = batch.astype(np.float32)
    mean = pixels.mean(axis=tuple(range(1, pixels.ndim)), keepdims=True)
    return np.concatenate([pixels - mean, np.sqrt(pixels)], axis=1)


def whole_image_model(batch: Any) -> Any:
    """Nothing but the pixel itself counts."""
    return np.concatenate([batch.astype(np.float32), np.sqrt(batch.astype(np.float32))], axis=1)


def image_of(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(5).integers(0, 255, shape, dtype=np.uint8)


def planes(image: Any, axes: str, ndim: int) -> Any:
    return image.reshape(-1, *image.shape[image.ndim - ndim :])


def tiles(image: Any, axes: str, ndim: int, edge: str = "shift") -> list[ImagePrediction]:
    """What a caller's own loop makes: each plane cut, padded like the engine pads, and predicted."""
    found = []
    patch = (PATCH // 2, PATCH, PATCH)[-ndim:]
    for sample, plane in enumerate(planes(image, axes, ndim)):
        grid = Grid.of(plane.shape, patch, overlap=OVERLAP, edge=edge)  # type: ignore[arg-type]
        for one in grid:
            beyond = [(0, max(0, b - n)) for b, n in zip(one.region.stop, plane.shape, strict=True)]
            pixels = np.pad(plane, beyond, mode="reflect")[one.region.slices]
            data = model(pixels[None, None])[0]
            found.append(ImagePrediction(data, axes, image.shape, 0, sample, "image.tif", one.region.start, ndim))
    return found


def engine(image: Any, axes: str, ndim: int, folder: Path, **options: Any) -> Any:
    patch = (PATCH // 2, PATCH, PATCH)[-ndim:]
    run = patchloom.predict(
        {"image.tif": image}, model, folder, patch=patch, overlap=OVERLAP, axes=axes, model_id="m", **options
    )
    return np.asarray(run["image.tif"].stitched())


@pytest.mark.parametrize("edge", ["shift", "pad"])
@pytest.mark.parametrize(("axes", "shape", "ndim"), CASES)
def test_tiles_are_stitched_as_the_engine_does(
    axes: str, shape: tuple[int, ...], ndim: int, edge: str, tmp_path: Path
) -> None:
    image = image_of(shape)
    for blend in ("crop", "gaussian"):
        expected = engine(image, axes, ndim, tmp_path / blend, blend=blend, edge=edge)
        for known in ({"overlap": OVERLAP, "edge": edge}, {}):
            strategy = WriteTiles(write_npy, ".npy", blend=blend, **known)  # type: ignore[arg-type]
            strategy.write_batch(tmp_path, tiles(image, axes, ndim, edge))
            strategy.close()
            found = np.load(tmp_path / "image.npy")
            assert found.dtype == expected.dtype
            if blend == "crop":
                assert found.tobytes() == expected.tobytes()
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * 255)


@pytest.mark.parametrize("edge", ["shift", "pad", "drop"])
@pytest.mark.parametrize(("axes", "shape", "ndim"), CASES)
def test_tiles_in_a_zarr_are_those_of_the_engine(
    axes: str, shape: tuple[int, ...], ndim: int, edge: str, tmp_path: Path
) -> None:
    image = image_of(shape)
    if edge == "drop" and not tiles(image, axes, ndim, edge):
        pytest.skip("no patch fits")
    expected = engine(image, axes, ndim, tmp_path / "run", edge=edge)
    strategies: list[WriteStrategy] = [WriteTilesZarr(overlap=OVERLAP, edge=edge, chunks=20)]  # type: ignore[arg-type]
    strategies.append(WriteTiles(write_npy, ".npy", overlap=OVERLAP, edge=edge))  # type: ignore[arg-type]
    for strategy in strategies:
        strategy.write_batch(tmp_path, tiles(image, axes, ndim, edge))
        strategy.close()
    stored: Any = zarr.open_array(tmp_path / "image.zarr" / "0", mode="r")
    # Not bytes: NaN, where a dropped edge was not predicted, has many.
    np.testing.assert_array_equal(stored[...], expected)
    np.testing.assert_array_equal(np.load(tmp_path / "image.npy"), expected)


@pytest.mark.parametrize(("axes", "shape", "ndim"), CASES)
def test_whole_images_are_those_of_the_engine(
    axes: str, shape: tuple[int, ...], ndim: int, tmp_path: Path
) -> None:
    image = image_of(shape)
    run = patchloom.predict(
        {"image.tif": image}, whole_image_model, tmp_path / "run", patch=(PATCH,) * ndim, axes=axes, model_id="m"
    )
    strategy = WriteImage(write_npy, ".npy")
    for sample, plane in enumerate(planes(image, axes, ndim)):
        data = whole_image_model(plane[None, None])[0]
        strategy.write_batch(tmp_path, [ImagePrediction(data, axes, shape, 0, sample, "image.tif", None, ndim)])
    strategy.close()
    stitched = run["image.tif"].stitched()
    assert np.load(tmp_path / "image.npy").tobytes() == np.asarray(stitched).tobytes()
    assert set(stitched.axes) == {"C", *axes, *spatial_axes(ndim)}


def test_a_map_of_half_the_size_is_stitched_as_the_engine_does(tmp_path: Path) -> None:
    def halving(batch: Any) -> Any:
        return batch[..., ::2, ::2].astype(np.float32) - batch.mean(axis=(1, 2, 3), keepdims=True)

    image = image_of((71, 94))
    run = patchloom.predict({"image.tif": image}, halving, tmp_path / "run", patch=32, overlap=8, model_id="m")
    expected = np.asarray(run["image.tif"].stitched())
    padded = np.pad(image, ((0, 1), (0, 0)), mode="reflect")
    found = [
        ImagePrediction(halving(padded[one.region.slices][None, None])[0], "YX", image.shape, 0, 0, "image.tif",
                        one.region.start)
        for one in Grid.of(padded.shape, 32, overlap=8)
    ]  # fmt: skip
    strategies = (WriteTiles(write_npy, ".npy", patch=32), WriteTiles(write_npy, ".npy", patch=32, overlap=8))
    for strategy in strategies:
        strategy.write_batch(tmp_path, found)
        strategy.close()
        assert np.load(tmp_path / "image.npy").tobytes() == expected.tobytes()
    into_zarr = WriteTilesZarr(patch=32, overlap=8)
    into_zarr.write_batch(tmp_path, found)
    into_zarr.close()
    stored: Any = zarr.open_array(tmp_path / "image.zarr" / "0", mode="r")
    assert stored[...].tobytes() == expected.tobytes()
