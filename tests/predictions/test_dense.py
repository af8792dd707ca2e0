"""Stitched maps on disk, judged by zarr-python."""

import itertools
import json
from fractions import Fraction

import numpy as np
import pytest
import zarr

from patchloom.errors import RunDamagedError
from patchloom.geometry.region import Region
from patchloom.geometry.units import dense_unit
from patchloom.models.model import Head
from patchloom.predictions.dense import DenseMap, default_nodata
from patchloom.predictions.map_files import FolderFiles
from patchloom.predictions.pyramid import halve, level_shapes
from patchloom.predictions.ranges import OpenFile
from patchloom.predictions.shards import Codec, ShardReader

CASES = [
    ((1300, 2900), 4, "f4", Fraction(1)),
    ((301, 1300), 3, "f4", Fraction(1)),
    ((40, 700, 900), 2, "f4", Fraction(1)),
    ((2000, 5000), None, "u1", Fraction(1)),
    ((1, 1), None, "u1", Fraction(1)),
    ((700, 1100), 3, "u1", Fraction(2)),
    ((33, 1001), 70, "f2", Fraction(1)),
    ((600, 1500), None, "f8", Fraction(1, 3)),
]


def a_map(folder, shape, channels, dtype, scale, loops=("", ())):
    head_shape = ((channels,) if channels else ()) + (8,) * len(shape)
    classes = tuple(map(str, range(channels or 0)))
    head = Head("p", "dense", np.dtype(dtype), head_shape, (Fraction(1),) * len(shape), classes)
    unit = tuple(int(u * scale) for u in dense_unit(len(shape), [(scale,) * len(shape)]))
    return DenseMap(
        FolderFiles(folder / "x.zarr"),
        head,
        *loops,
        shape,
        unit,
        default_nodata(head.dtype),
        channels is None,
        {"Y": 0.5, "X": 0.25},
        {"Y": "micrometer"},
        "x",
    )


def block_of(layout, pixels, index):
    def block(place):
        out = layout.empty_block()
        first = [(i * n + p) * c for i, n, p, c in zip(index, layout.shard_counts(0), place, layout.chunk, strict=True)]
        part = pixels[(slice(None), *(slice(a, a + c) for a, c in zip(first, layout.chunk, strict=True)))]
        out[tuple(map(slice, part.shape))] = part
        return out

    return block


def write_all(layout, pixels, loops):
    records = []
    for index in layout.shards(0, Region.whole(layout.shape)):
        records += layout.write_shard(0, loops, index, block_of(layout, pixels, index))
    for level in range(2, len(layout.levels)):
        for index in layout.shards(level, Region.whole(layout.levels[level])):
            records += layout.write_level_shard(level, loops, index)
    return records


@pytest.mark.parametrize(("shape", "channels", "dtype", "scale"), CASES)
@pytest.mark.parametrize("loops", [("", ()), ("T", (2,)), ("TZ", (2, 2))])
def test_zarr_python_reads_what_was_written_on_all_levels(tmp_path, shape, channels, dtype, scale, loops):
    if len(shape) == 3 and "Z" in loops[0]:
        pytest.skip("Z is no loop of a 3-D model")
    layout = a_map(tmp_path, shape, channels, dtype, scale, loops)
    layout.create()
    pixels = (np.random.default_rng(0).random((*loops[1], channels or 1, *shape)) * 200).astype(dtype)
    for index in itertools.product(*map(range, loops[1])):
        write_all(layout, pixels[index], index)
    expected = pixels if channels else pixels.reshape(*loops[1], *shape)
    if "Z" in loops[0] and channels:
        expected = np.moveaxis(expected, 1, 2)
    group = zarr.open_group(tmp_path / "x.zarr", mode="r")
    np.testing.assert_array_equal(group["0"][:], expected)
    assert [a.lower() for a in layout.axes] == [axis["name"] for axis in group.attrs["ome"]["multiscales"][0]["axes"]]
    for level in range(1, len(layout.levels)):
        expected = halve(expected, classes=channels is None)
        found = group[str(level)][:]
        np.testing.assert_allclose(found.astype("f4"), expected.astype("f4"), rtol=2e-3)


def test_spacing_doubles_from_level_to_level(tmp_path):
    layout = a_map(tmp_path, (1300, 2900), 4, "f4", Fraction(1))
    layout.create()
    document = json.loads((tmp_path / "x.zarr/zarr.json").read_text())
    datasets = document["attributes"]["ome"]["multiscales"][0]["datasets"]
    assert [d["coordinateTransformations"][0]["scale"] for d in datasets] == [
        [1.0, 0.5 * 2**level, 0.25 * 2**level] for level in range(len(layout.levels))
    ]


def test_a_chunk_that_was_not_written_reads_as_nodata(tmp_path):
    layout = a_map(tmp_path, (600, 600), 2, "f4", Fraction(1))
    layout.create()
    layout.write_shard(0, (), (0, 0), lambda place: layout.empty_block() * 0 + 1 if place == (0, 0) else None)
    array = zarr.open_array(tmp_path / "x.zarr/0", mode="r")
    assert np.isnan(array[:, 256:, :]).all()


def test_a_flipped_byte_in_a_chunk_is_noticed(tmp_path):
    layout = a_map(tmp_path, (200, 200), None, "u1", Fraction(1))
    pixels = np.random.default_rng(1).integers(0, 4, (1, 200, 200), dtype=np.uint8)
    (record,) = write_all(layout, pixels, ())
    data = bytearray(record.path.read_bytes())
    data[100] ^= 1
    record.path.write_bytes(data)
    shard = ShardReader(OpenFile(record.path), "x", (1, 1), (200, 200), Codec(np.dtype("u1")))
    with pytest.raises(RunDamagedError, match="checksum"):
        shard.read((0, 0))


def test_levels_halve_until_both_sides_are_small():
    assert level_shapes((7, 1500, 700)) == ((7, 1500, 700), (7, 750, 350), (7, 375, 175))


def test_means_of_integers_are_rounded_and_odd_edges_stand_for_themselves():
    block = np.array([[[0, 1, 9]], [[10, 20, 30]]], np.uint8).reshape(1, 2, 3)
    np.testing.assert_array_equal(halve(block, classes=False), [[[8, 20]]])
    np.testing.assert_array_equal(halve(block, classes=True), [[[0, 9]]])
