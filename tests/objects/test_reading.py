"""Images in object storage have the pixels of the files that they were made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image as Pillow

from patchloom.geometry.region import Region
from patchloom.images.registry import open_image
from patchloom.objects import ObjectPath

RNG = np.random.default_rng(5)
PIXELS = RNG.integers(0, 255, (700, 900, 3), np.uint8)


def _ome_zarr(path: Path) -> None:
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.create_array("0", data=PIXELS, chunks=(128, 128, 3), shards=(256, 256, 3))
    axes = [{"name": name} for name in "yxc"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}


MAKERS: dict[str, Callable[[Path], Any]] = {
    "tiles.tif": lambda path: tifffile.imwrite(path, PIXELS, tile=(128, 128), compression="zlib"),
    "big.tif": lambda path: tifffile.imwrite(path, PIXELS, tile=(64, 64), compression="deflate", bigtiff=True),
    "strips.tif": lambda path: tifffile.imwrite(path, PIXELS, rowsperstrip=50, compression="zlib"),
    "bands.tif": lambda path: tifffile.imwrite(path, PIXELS),
    "planes.ome.tif": lambda path: tifffile.imwrite(path, PIXELS.transpose(2, 0, 1), metadata={"axes": "CYX"}),
    "a.png": lambda path: Pillow.fromarray(PIXELS).save(path),
    "a.jpg": lambda path: Pillow.fromarray(PIXELS).save(path, quality=95),
    "little.png": lambda path: Pillow.fromarray(PIXELS[:50, :60]).save(path),
    "c.npy": lambda path: np.save(path, PIXELS),
    "f.npy": lambda path: np.save(path, np.asfortranarray(PIXELS)),
    "little.npy": lambda path: np.save(path, PIXELS[:20, :30]),
    "v2.zarr": lambda path: zarr.create_array(path, data=PIXELS, chunks=(128, 128, 3), zarr_format=2),
    "ome.zarr": _ome_zarr,
}


def put(local: Path, there: ObjectPath) -> ObjectPath:
    """Copy a file or folder."""
    for one in sorted(local.rglob("*")) if local.is_dir() else [local]:
        if one.is_file():
            (there / one.relative_to(local).as_posix() if one != local else there).write_bytes(one.read_bytes())
    return there


@pytest.mark.parametrize("name", MAKERS)
def test_an_object_has_the_pixels_of_its_file(name: str, s3_url: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path / name)
    file = open_image(tmp_path / name)
    there = open_image(str(put(tmp_path / name, ObjectPath(s3_url) / "some where" / name)))
    assert there.info == file.info
    shape = file.info.shape
    for start in ((0,) * len(shape), tuple(n // 3 for n in shape)):
        region = Region(start, tuple(max(1, n // 2) for n in shape))
        np.testing.assert_array_equal(there.read(region), file.read(region))
    regions = [Region(start, tuple(max(1, n // 4) for n in shape)) for start in ((0,) * len(shape), region.start)]
    if getattr(there, "is_far", False):
        there.fetch(regions)
    for region in regions:
        np.testing.assert_array_equal(there.read(region), file.read(region))
    there.close()
    file.close()
