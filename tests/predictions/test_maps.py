"""Stitched maps are indexed as NumPy arrays are, and read only what they need."""

import doctest

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices

from patchloom.errors import RunDamagedError
from patchloom.predictions import maps
from patchloom.predictions.maps import StitchedMap

PIXELS = np.random.default_rng(0).integers(0, 999, (3, 40, 50)).astype("i2")


def a_map(pixels=PIXELS, chunks=(1, 16, 16), store=None):
    array = zarr.create_array(
        store if store is not None else {},
        shape=pixels.shape,
        dtype=pixels.dtype,
        chunks=chunks,
        shards=tuple(2 * c for c in chunks),
        fill_value=-1,
    )
    array[...] = pixels
    return StitchedMap(array, "CYX", {"Y": 0.5, "X": 0.25}, -1, ("a", "b", "c"), "s")


STITCHED = a_map()


@given(basic_indices(PIXELS.shape, allow_newaxis=True, max_dims=6))
def test_any_basic_index_gives_what_numpy_gives(index):
    expected = PIXELS[index]
    found = STITCHED[index]
    np.testing.assert_array_equal(found, expected)
    assert np.shape(found) == expected.shape
    assert found.dtype == expected.dtype


@given(st.tuples(*(st.slices(n + 5) for n in PIXELS.shape)))
def test_slices_may_reach_over_the_edges_and_go_backwards(index):
    np.testing.assert_array_equal(STITCHED[index], PIXELS[index])


def test_a_single_value_is_a_number():
    assert isinstance(STITCHED[1, 2, 3], np.int16)
    assert STITCHED[np.int64(-1), -1, -1] == PIXELS[-1, -1, -1]


def test_it_says_what_it_is():
    assert (STITCHED.shape, STITCHED.ndim, STITCHED.size, STITCHED.nbytes) == ((3, 40, 50), 3, 6000, 12000)
    assert (STITCHED.axes, STITCHED.spacing, STITCHED.nodata) == ("CYX", {"Y": 0.5, "X": 0.25}, -1)
    assert STITCHED.classes == ("a", "b", "c")
    assert (STITCHED.extent("X"), STITCHED.extent("T"), len(STITCHED)) == (50, 1, 3)
    assert STITCHED.chunks == (1, 16, 16)
    assert repr(STITCHED) == "<StitchedMap 's': CYX (3, 40, 50) int16>"


def test_it_becomes_an_array_of_any_dtype():
    np.testing.assert_array_equal(np.asarray(STITCHED), PIXELS)
    assert np.asarray(STITCHED, "f4").dtype == np.float32
    assert np.array(STITCHED, copy=True).shape == PIXELS.shape
    with pytest.raises(ValueError, match="copy"):
        np.asarray(STITCHED, copy=False)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ((0, 0, 0, 0), "too many indices"),
        ((3,), "index 3 is out of bounds for axis 0 with size 3"),
        ((0, -41), "index -41 is out of bounds for axis 1 with size 40"),
        ((..., ...), "ellipsis"),
        (np.array([0, 1]), "numpy.asarray"),
        ([0, 1], "numpy.asarray"),
        (True, "whole numbers"),
        ("x", "whole numbers"),
        (1.0, "whole numbers"),
    ],
)
def test_other_indices_are_errors_as_numpy_words_them(index, message):
    with pytest.raises(IndexError, match=message):
        STITCHED[index]


def test_a_step_of_zero_is_an_error_as_in_numpy():
    with pytest.raises(ValueError, match="zero"):
        STITCHED[::0]


class Counting(zarr.storage.MemoryStore):
    """Counts the bytes that are read of chunks."""

    def __init__(self):
        super().__init__()
        self.read = 0

    async def get(self, key, *args, **options):
        found = await super().get(key, *args, **options)
        self.read += len(found) if found is not None else 0
        return found


def test_a_window_reads_only_its_chunks():
    store = Counting()
    pixels = np.random.default_rng(0).integers(0, 30000, (1, 1024, 1024)).astype("i2")
    stitched = a_map(pixels, (1, 64, 64), store)
    store.read = 0
    np.testing.assert_array_equal(stitched[0, 100:110, 200:210], pixels[0, 100:110, 200:210])
    assert 0 < store.read < pixels.nbytes / 50


def test_what_was_never_written_is_nodata(tmp_path):
    array = zarr.create_array(tmp_path, shape=(8, 8), dtype="f4", chunks=(4, 4), fill_value=float("nan"))
    assert np.isnan(StitchedMap(array, "YX", {}, float("nan"), (), "s")[2:6]).all()


def test_a_damaged_chunk_is_an_error_that_names_the_file(tmp_path):
    stitched = a_map(store=tmp_path)
    chunk = max((path for path in tmp_path.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(chunk.read_bytes())
    data[-3] ^= 0x11
    chunk.write_bytes(data)
    with pytest.raises(RunDamagedError, match=tmp_path.name):
        np.asarray(stitched)


def test_its_examples_are_right():
    found = doctest.testmod(maps)
    assert found.attempted > 3
    assert not found.failed
