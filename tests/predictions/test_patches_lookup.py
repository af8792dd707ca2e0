"""Lookups in tables: which row groups are read, from several threads, after a table was replaced, in damaged files."""

import doctest
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest

from patchloom.errors import RunDamagedError
from patchloom.predictions import patches
from patchloom.predictions.patches import PatchFile, PatchFiles, UnitRows, encode_unit, key_ranges, score_columns

from .test_patches import a_file, a_head, some_rows


def count_reads(file, monkeypatch):
    reads = []
    read = file._file.read_row_group
    monkeypatch.setattr(file, "_file", file._file)
    file._file = type("Counting", (), {"read_row_group": lambda self, i, **k: reads.append(i) or read(i, **k)})()
    return reads


def test_a_lookup_reads_one_row_group_and_the_next_one_in_it_none(tmp_path, monkeypatch):
    head = a_head(256)
    rows = some_rows(head, rows=40, columns=32)
    file = a_file(tmp_path, head, rows)
    reads = count_reads(file, monkeypatch)
    for i in (0, 1, 127, 128, 1279, 1200):
        np.testing.assert_array_equal(file.row("a", (), tuple(rows.starts[i])), rows.values[i])
    assert reads == [0, 1, 9]
    assert file.row("a", (), (1, 1)) is None
    assert file.row("zzz", (), (0, 0)) is None
    assert len(reads) <= 4


def test_row_groups_of_wide_rows_are_smaller(tmp_path):
    sizes = {}
    for count in (4, 256, 2048):
        file = a_file(tmp_path, a_head(count), some_rows(a_head(count), rows=50, columns=100))
        sizes[count] = file._ends[0]
    assert sizes == {4: 4096, 256: 128, 2048: 16}


def test_key_ranges_are_those_of_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(patches, "ROW_GROUP", 5)
    head = a_head()
    parts = [some_rows(head, image, (t,)) for image in "abc" for t in (0, 1)]
    file = a_file(tmp_path, head, *parts, loop_axes="T")
    table = pq.read_table(tmp_path / "unit.parquet", columns=["image", "t", "y", "x"])
    keys = [tuple(row.values()) for row in table.to_pylist()]
    ranges = key_ranges(file._file.schema_arrow.metadata)
    assert ranges == [(min(keys[i : i + 5]), max(keys[i : i + 5])) for i in range(0, len(keys), 5)]
    for part in parts:
        for start, value in zip(part.starts, part.values, strict=True):
            np.testing.assert_array_equal(file.row(part.image, part.loops, tuple(start)), value)


def test_images_in_any_order_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(patches, "ROW_GROUP", 7)
    head = a_head(0)
    parts = [some_rows(head, name, seed=i) for i, name in enumerate(("b", "größe/ä", "a", "", "S-017.svs"))]
    file = a_file(tmp_path, head, *parts)
    for part in parts:
        assert file.row(part.image, (), (64, 96)) == part.values[-1]
        np.testing.assert_array_equal(file.rows(part.image, ()).values, part.values)


def test_a_row_does_not_change_when_another_is_changed(tmp_path):
    file = a_file(tmp_path, a_head(), some_rows(a_head()))
    first = file.row("a", (), (0, 0))
    kept = first.copy()
    first[:] = 7
    np.testing.assert_array_equal(file.row("a", (), (0, 0)), kept)


def test_a_part_without_rows_is_possible(tmp_path):
    head = a_head()
    none = UnitRows("a", (), *(np.empty((0, 2), np.int64) for _ in range(3)), np.empty((0, 3), "f4"))
    file = a_file(tmp_path, head, none, some_rows(head, "b"))
    assert file.row("a", (), (0, 0)) is None
    assert file.rows("a", ()).values.shape == (0, 3)
    assert len(file.rows("b", ()).values) == 12


def test_threads_may_look_up_in_one_table(tmp_path):
    head = a_head(64, classes=[f"c{i}" for i in range(64)])
    rows = some_rows(head, rows=30, columns=40)
    file = a_file(tmp_path, head, rows)
    order = np.random.default_rng(0).permutation(len(rows.starts))[:200]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: file.row("a", (), tuple(rows.starts[i])), order))
    np.testing.assert_array_equal(found, rows.values[order])


def test_a_table_that_was_predicted_again_is_read_again(tmp_path):
    head = a_head()
    files = PatchFiles()
    for seed in range(3):
        rows = some_rows(head, seed=seed)
        partial = tmp_path / f"{seed}.partial"
        partial.write_bytes(encode_unit(head, "", 2, [rows]))
        partial.replace(tmp_path / "unit.parquet")
        found = files.open(tmp_path / "unit.parquet", head, "", 2).row("a", (), (32, 32))
        np.testing.assert_array_equal(found, rows.values[5])


@pytest.mark.parametrize("size", [0, 3, 8, 500])
def test_a_truncated_table_is_an_error_that_names_it(tmp_path, size):
    head = a_head()
    path = tmp_path / "unit.parquet"
    path.write_bytes(encode_unit(head, "", 2, [some_rows(head)])[:size])
    with pytest.raises(RunDamagedError, match=r"unit\.parquet"):
        PatchFiles().open(path, head, "", 2)


def test_a_missing_table_is_an_error_that_names_it(tmp_path):
    with pytest.raises(RunDamagedError, match=r"unit\.parquet is missing"):
        PatchFiles().open(tmp_path / "unit.parquet", a_head(), "", 2)


def test_a_table_of_another_head_is_an_error(tmp_path):
    a_file(tmp_path, a_head(3), some_rows(a_head(3)))
    with pytest.raises(RunDamagedError, match="footer"):
        PatchFile(tmp_path / "unit.parquet", a_head(4), "", 2)


def test_damage_anywhere_ends_in_an_answer_or_in_one_kind_of_error(tmp_path):
    head = a_head(100, "f2")
    rows = some_rows(head)
    path = tmp_path / "unit.parquet"
    good = encode_unit(head, "", 2, [rows])
    noticed = 0
    for at in range(0, len(good), 23):
        data = bytearray(good)
        data[at] ^= 0x44
        path.write_bytes(data)
        try:
            PatchFile(path, head, "", 2).row("a", (), (32, 32))
        except RunDamagedError:
            noticed += 1
    assert noticed > len(good) / 23 / 2


def test_classes_that_are_called_like_other_columns_get_an_underscore():
    names = ("image", "Y", "t", "depth", "y_", "a", "A", "", "prediction")
    found = score_columns(a_head(len(names), classes=names))
    assert found == ["image_", "Y_", "t_", "depth_", "y__", "a", "A_", "_", "prediction"]
    assert len({name.casefold() for name in found}) == len(found)


def test_one_class_called_prediction_is_a_column_of_numbers(tmp_path):
    head = a_head(1, classes=["prediction"])
    rows = some_rows(head)
    file = a_file(tmp_path, head, rows)
    assert str(pq.read_schema(tmp_path / "unit.parquet").field("prediction").type) == "float"
    np.testing.assert_array_equal(file.row("a", (), (32, 64)), rows.values[6])


def test_examples_are_right():
    found = doctest.testmod(patches)
    assert found.attempted
    assert not found.failed
