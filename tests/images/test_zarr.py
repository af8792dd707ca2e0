"""What is particular to Zarr: axes, groups, damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from patchloom.errors import ImageMismatchError, UnreadableImageError
from patchloom.geometry.region import Region
from patchloom.images import open_image


def test_dimension_names_are_axes_where_they_are_letters_of_ours(tmp_path: Path) -> None:
    shape: dict[str, Any] = {"shape": (3, 40, 50), "dtype": "u1", "chunks": (1, 20, 20)}
    zarr.create_array(tmp_path / "a.zarr", **shape, dimension_names=["t", "y", "x"])
    zarr.create_array(tmp_path / "b.zarr", **shape, dimension_names=["a", "y", "x"])
    old = zarr.create_array(tmp_path / "c.zarr", **shape, zarr_format=2)
    old.attrs["_ARRAY_DIMENSIONS"] = ["Z", "Y", "X"]
    assert [open_image(tmp_path / f"{name}.zarr").info.axes for name in "abc"] == ["TYX", "CYX", "ZYX"]
    assert open_image(tmp_path / "a.zarr", axes="SYX").info.axes == "SYX"


def test_a_group_of_one_array_is_that_array_and_of_several_is_a_mismatch(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    group.create_array("only", shape=(40, 50), dtype="u1", chunks=(20, 20))
    assert open_image(tmp_path / "g.zarr").info.shape == (40, 50)
    group.create_array("second", shape=(40, 50), dtype="u1", chunks=(20, 20))
    with pytest.raises(ImageMismatchError, match="2 arrays") as caught:
        open_image(tmp_path / "g.zarr")
    assert caught.value.hint


def test_plates_are_refused_with_a_hint(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "p.zarr", mode="w").attrs["plate"] = {"wells": []}
    with pytest.raises(ImageMismatchError, match="plate"):
        open_image(tmp_path / "p.zarr")


def test_damaged_metadata_and_chunks_are_named(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=(40, 50), dtype="u1", chunks=(20, 20))
    array[...] = np.arange(2000).reshape(40, 50) % 251
    image = open_image(tmp_path / "a.zarr")
    chunk = tmp_path / "a.zarr" / "c" / "1" / "1"
    chunk.write_bytes(b"damaged" + chunk.read_bytes()[7:])
    with pytest.raises(UnreadableImageError, match=r"a\.zarr"):
        image.read(Region((0, 0), (40, 50)))
    assert image.read(Region((0, 0), (20, 20))).shape == (20, 20)
    (tmp_path / "a.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node')
    with pytest.raises(UnreadableImageError, match=r"a\.zarr"):
        open_image(tmp_path / "a.zarr")


def test_chunks_that_are_not_stored_hold_the_fill_value(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(40, 50), dtype="f4", chunks=(20, 20), fill_value=7)
    image = open_image(tmp_path / "a.zarr")
    assert (image.read(Region((0, 0), (40, 50))) == 7).all()


def test_an_empty_zarr_folder_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(UnreadableImageError, match=r"a\.zarr"):
        open_image(tmp_path / "a.zarr")


def test_texts_and_objects_are_no_pixels(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[None, {}], [1, "x"]], dtype=object), allow_pickle=True)
    with pytest.raises(ImageMismatchError, match=r"a\.npy") as caught:
        open_image(tmp_path / "a.npy")
    assert "unpickled" in caught.value.hint
