"""Tables of vector heads: one Parquet file a unit."""

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import RunDamagedError
from patchloom.models.model import Head
from patchloom.predictions.patches import (
    ROW_GROUP,
    PatchFile,
    PatchFiles,
    UnitRows,
    encode_unit,
    key_columns,
    score_columns,
)


def a_head(count=3, dtype="f4", classes=None):
    shape = () if count == 0 else (count,)
    names = tuple(classes or map(str, range(count)))
    return Head("scores", "vector", np.dtype(dtype), shape, classes=names)


def some_rows(head, image="a", loops=(), rows=3, columns=4, seed=0):
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    values = np.random.default_rng(seed).random((len(places), *head.shape)).astype(head.dtype)
    return UnitRows(image, loops, places, places * 32, np.full_like(places, 32), values)


def a_file(folder, head, *rows, loop_axes=""):
    path = folder / "unit.parquet"
    path.write_bytes(encode_unit(head, loop_axes, 2, rows))
    return PatchFile(path, head, loop_axes, 2)


SHAPES = [(3, "f4"), (0, "f4"), (100, "f4"), (100, "f2"), (3, "f2"), (2, "u1"), (0, "f8"), (1, "i8")]


@pytest.mark.parametrize(("count", "dtype"), SHAPES)
def test_a_row_comes_back_as_it_was_written(tmp_path, count, dtype):
    head = a_head(count, dtype)
    rows = some_rows(head)
    file = a_file(tmp_path, head, rows)
    for start, expected in zip(rows.starts, rows.values, strict=True):
        found = file.row("a", (), tuple(start))
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == head.dtype
        assert np.shape(found) == head.shape


def test_what_is_not_there_is_none(tmp_path):
    file = a_file(tmp_path, a_head(), some_rows(a_head()))
    assert file.row("a", (), (1, 0)) is None
    assert file.row("b", (), (0, 0)) is None


def test_images_and_loops_in_one_file_are_kept_apart(tmp_path):
    head = a_head()
    parts = [some_rows(head, image, (t,), seed=seed) for seed, (image, t) in enumerate([("a", 0), ("a", 1), ("b", 0)])]
    file = a_file(tmp_path, head, *parts, loop_axes="T")
    for part in parts:
        np.testing.assert_array_equal(file.row(part.image, part.loops, (32, 64)), part.values[6])
        found = file.rows(part.image, part.loops)
        for name in ("places", "starts", "shapes", "values"):
            np.testing.assert_array_equal(getattr(found, name), getattr(part, name))


def test_other_programs_read_the_columns_that_are_documented(tmp_path):
    head = a_head(2, classes=("stroma", "x"))
    a_file(tmp_path, head, some_rows(head))
    frame = pandas.read_parquet(tmp_path / "unit.parquet")
    assert list(frame.columns) == ["image", "row", "col", "y", "x", "height", "width", "stroma", "x_"]
    assert frame["y"].tolist() == sorted(frame["y"])
    assert key_columns("TZ", 2) == ["image", "t", "z", "row", "col", "y", "x", "height", "width"]
    assert key_columns("", 3) == ["image", "slab", "row", "col", "z", "y", "x", "depth", "height", "width"]


def test_embeddings_are_one_column_and_named_classes_are_columns_however_many(tmp_path):
    assert score_columns(a_head(256)) == ["prediction"]
    assert len(score_columns(a_head(100, classes=[f"class {i}" for i in range(100)]))) == 100


def test_equal_rows_give_equal_bytes():
    head = a_head()
    assert encode_unit(head, "", 2, [some_rows(head)]) == encode_unit(head, "", 2, [some_rows(head)])


def test_row_groups_are_small_and_a_hint_finds_the_row(tmp_path):
    head = a_head()
    rows = some_rows(head, rows=100, columns=50)
    file = a_file(tmp_path, head, rows)
    metadata = pq.ParquetFile(tmp_path / "unit.parquet").metadata
    assert max(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)) <= ROW_GROUP
    for near in (0, 4990):
        np.testing.assert_array_equal(file.row("a", (), (99 * 32, 49 * 32), near), rows.values[-1])


def test_a_flipped_byte_in_a_page_is_an_error(tmp_path):
    head = a_head()
    path = tmp_path / "unit.parquet"
    data = bytearray(encode_unit(head, "", 2, [some_rows(head, rows=40, columns=20)]))
    data[len(data) // 3] ^= 0x10
    path.write_bytes(data)
    file = PatchFile(path, head, "", 2)
    with pytest.raises(RunDamagedError, match=r"unit\.parquet"):
        list(file.rows("a", ()))


def test_files_are_kept_open_and_the_oldest_is_let_go(tmp_path):
    head = a_head()
    for i in range(4):
        (tmp_path / f"{i}.parquet").write_bytes(encode_unit(head, "", 2, [some_rows(head, seed=i)]))
    files = PatchFiles(capacity=2)
    first = files.open(tmp_path / "0.parquet", head, "", 2)
    assert files.open(tmp_path / "0.parquet", head, "", 2) is first
    for i in range(1, 4):
        files.open(tmp_path / f"{i}.parquet", head, "", 2)
    assert files.open(tmp_path / "0.parquet", head, "", 2) is not first
    np.testing.assert_array_equal(first.row("a", (), (0, 0)), some_rows(head).values[0])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["f4", "f2", "f8", "u1", "i4"]), st.integers(0, 5))
def test_any_shape_and_dtype_survives(tmp_path_factory, rows, columns, dtype, count):
    head = a_head(count, dtype)
    part = some_rows(head, rows=rows, columns=columns)
    file = a_file(tmp_path_factory.mktemp("t"), head, part)
    np.testing.assert_array_equal(file.rows("a", ()).values, part.values)
