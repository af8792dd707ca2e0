"""Filtering, sorting and streaming tables."""

import doctest
import math
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from patchloom.errors import MissingExtraError, QueryError, RunDamagedError, UsageError
from patchloom.models.model import Head
from patchloom.predictions import conditions, query
from patchloom.predictions.conditions import parse_sort
from patchloom.predictions.patches import UnitRows, encode_unit
from patchloom.predictions.query import PatchTable

from .test_patches import some_rows

HEAD = Head("scores", "vector", np.dtype("f4"), (2,), classes=("stroma", "tumour"))
COLUMNS = ["image", "row", "col", "y", "x", "height", "width", "stroma", "tumour"]


def write(path, head, *rows, loop_axes=""):
    path.write_bytes(encode_unit(head, loop_axes, 2, rows))
    return path


@pytest.fixture
def files(tmp_path):
    return [write(tmp_path / f"{i}.parquet", HEAD, some_rows(HEAD, image, seed=i)) for i, image in enumerate("ba")]


def table(files, **options):
    return PatchTable(files, HEAD, 2, **options)


def test_without_conditions_all_rows_come_in_order_of_image_and_place(files):
    frame = table(files).to_pandas()
    assert list(frame.columns) == table(files).columns == COLUMNS
    assert frame["image"].tolist() == ["a"] * 12 + ["b"] * 12
    assert frame[["image", "row", "col"]].apply(tuple, axis=1).is_monotonic_increasing


def test_a_condition_filters_and_sort_and_limit_apply_to_what_is_left(files):
    frame = table(files).to_pandas()
    expected = frame[(frame.tumour > 0.5) & (frame.stroma < 0.5)].sort_values("tumour", ascending=False).head(3)
    found = table(files, where="tumour > 0.5 and stroma < 0.5", sort="-tumour", limit=3).to_pandas()
    assert found["tumour"].tolist() == expected["tumour"].tolist()


def test_rows_are_available_to_arrow_polars_and_as_dicts(files):
    assert table(files).to_polars().shape == (24, 9)
    assert table(files).to_arrow().num_rows == 24
    assert str(table(files).to_arrow().schema.field("image").type) == "string"
    assert set(next(iter(table(files)))) == set(COLUMNS)
    assert len(table(files, image="a")) == 12


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_a_missing_package_is_named_with_its_extra(files, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=package) as error:
        getattr(table(files), f"to_{package}")()
    assert f"patchloom[{package}]" in error.value.hint


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"where": "tumour > 0.4"},
        {"limit": 5},
        {"limit": 0},
        {"image": "b", "where": "row > 0"},
        {"limit": 100},
        {"where": "tumour > 7"},
    ],
)
def test_the_length_is_the_number_of_rows(files, options):
    chosen = table(files, **options)
    assert len(chosen) == len(list(chosen)) == chosen.to_arrow().num_rows
    assert bool(chosen) == (len(chosen) > 0)


def test_batches_are_no_larger_than_asked_for_and_hold_every_row_once(files):
    batches = list(table(files).batches(5))
    assert max(batch.num_rows for batch in batches) <= 5
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert rows == list(table(files))
    with pytest.raises(UsageError):
        next(table(files).batches(0))


def test_images_that_were_predicted_again_elsewhere_are_passed_over(files):
    assert len(table(files, current={files[0]: set()})) == 12
    assert len(table(files, current={files[0]: {"b"}})) == 24
    assert {row["image"] for row in table(files, current={files[0]: set()}, where="row >= 0", sort="-tumour")} == {"a"}


def test_no_files_is_an_empty_table_with_its_columns():
    empty = table([], where="tumour > 0.5", sort="tumour")
    assert len(empty) == 0
    assert empty.to_arrow().column_names == empty.columns == COLUMNS
    assert not empty


def test_tables_without_rows_are_empty(tmp_path):
    none = UnitRows("a", (), *(np.empty((0, 2), int) for _ in range(3)), np.empty((0, 2), "f4"))
    assert list(table([write(tmp_path / "t.parquet", HEAD, none)])) == []


def test_many_tables_stream_in_order_a_span_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(query, "SPAN_BYTES", 500)
    names = [f"{i:02}" for i in range(20)]
    files = []
    for i in np.random.default_rng(0).permutation(20):
        parts = [some_rows(HEAD, names[i], seed=i)]
        parts += [some_rows(HEAD, names[i] + "z", seed=i)] if i % 3 == 0 else []
        parts += [some_rows(HEAD, "19y")] if i == 5 else []  # one table that lies across others
        files.append(write(tmp_path / f"{7 * i % 20}.parquet", HEAD, *parts))
    chosen = table(files)
    assert len(list(chosen._spans())) > 3
    keys = [(row["image"], row["row"], row["col"]) for row in chosen]
    assert len(keys) == len(chosen) == 12 * 28
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    assert [row["image"] for row in table(files, limit=30)] == [key[0] for key in keys[:30]]


def test_blocks_side_by_side_are_one_image_row_by_row(tmp_path):
    whole = some_rows(HEAD, rows=4, columns=6)
    left = whole.places[:, 1] < 3
    files = []
    for name, half in (("l", left), ("r", ~left)):
        part = UnitRows("a", (), *(getattr(whole, n)[half] for n in ("places", "starts", "shapes", "values")))
        files.append(write(tmp_path / name, HEAD, part))
    assert [(row["row"], row["col"]) for row in table(files)] == list(map(tuple, whole.places.tolist()))


def test_images_with_and_without_loop_axes_are_one_table(tmp_path):
    files = [
        write(tmp_path / "a", HEAD, some_rows(HEAD, "a")),
        write(tmp_path / "b", HEAD, *(some_rows(HEAD, "b", (t, z)) for t in (0, 1) for z in (0, 1)), loop_axes="TZ"),
    ]
    chosen = table(files)
    assert chosen.columns[:3] == ["image", "t", "z"]
    assert [row["t"] for row in chosen] == [None] * 12 + [0] * 24 + [1] * 24
    assert len(table(files, where="t = 1 and z = 0")) == 12


def test_three_dimensions_have_slab_z_and_depth(tmp_path):
    places = np.stack(np.meshgrid(*map(np.arange, (2, 2, 2)), indexing="ij"), -1).reshape(-1, 3)
    rows = UnitRows("a", (), places, places * 8, np.full_like(places, 8), np.zeros((8, 2), "f4"))
    path = tmp_path / "t.parquet"
    path.write_bytes(encode_unit(HEAD, "", 3, [rows]))
    found = PatchTable([path], HEAD, 3, where="z = 8 and depth = 8", sort="-x")
    assert found.columns == ["image", "slab", "row", "col", "z", "y", "x", "depth", *COLUMNS[5:]]
    assert [row["x"] for row in found] == [8, 8, 0, 0]


@pytest.mark.parametrize(
    ("count", "dtype"),
    [
        (0, "f4"),
        (0, "f2"),
        (100, "f2"),
        (100, "f4"),
        (3, "f2"),
        (3, "f8"),
        (2, "u1"),
    ],
)
def test_predictions_keep_their_dtype_and_values(tmp_path, count, dtype):
    head = Head("h", "vector", np.dtype(dtype), (count,) if count else (), classes=tuple(map(str, range(count))))
    rows = some_rows(head)
    write(tmp_path / "t.parquet", head, rows)
    for sort in (None, "-col"):
        found = PatchTable([tmp_path / "t.parquet"], head, 2, where="row >= 0", sort=sort).to_arrow()
        expected = rows.values if sort is None else rows.values[np.lexsort((rows.places[:, 0], -rows.places[:, 1]))]
        columns = [np.asarray(found[name].to_pylist()) for name in PatchTable([], head, 2).score_columns]
        values = columns[0] if len(columns) == 1 else np.stack(columns, 1)
        np.testing.assert_array_equal(values.astype(dtype), expected)
        kind = found.schema.field(-1).type
        assert np.dtype(getattr(kind, "value_type", kind).to_pandas_dtype()) == head.dtype


def test_scores_that_are_no_numbers_meet_no_condition_and_come_last(tmp_path):
    rows = some_rows(HEAD)
    rows.values[4, 1] = math.nan
    files = [write(tmp_path / "t.parquet", HEAD, rows)]
    assert len(table(files, where="tumour > -1")) == 11
    for sort in ("-tumour", "tumour"):
        scores = [row["tumour"] for row in table(files, sort=sort)]
        assert math.isnan(scores[-1])
        assert not any(map(math.isnan, scores[:-1]))
    (missing,) = table(files, where="tumour is null")
    assert math.isnan(missing["tumour"])


@pytest.mark.parametrize(
    "where",
    [
        "tumor > 0.5",
        "tumour >",
        "1; drop table x",
        "tumour > 0.5) or (1 = 1",
        "",
        "  ",
        "tumour > 0.5 group by image",
        "tumour > 0.5 order by 1",
        "tumour > 0.5 limit 3",
        "tumour > 0.5 union select 1",
        "tumour > 0.5; select 1",
        "tumour > (select max(a) from read_csv('/etc/passwd') t(a))",
        "image in (select * from glob('/*'))",
        "tumour > (select 0)",
        "exists (select 1 from duckdb_settings())",
        "row_number() over () > 1",
        "tumour > ?",
        "tumour > $1",
        "max(tumour) > 1",
        "true",
        "1 > 0.9",
        "tumour > 0.5 and 1 > 0.9",
        "2 between 1 and 3",
        "read_text('/etc/passwd') = image",
        "#1 > 0",
        "tumour > 0.5 -- \n; select 1",
        "/* tumour > 1",
    ],
)
def test_what_is_no_condition_over_the_columns_is_refused(files, where):
    with pytest.raises(QueryError, match="where") as error:
        table(files, where=where)
    assert "columns are image" in error.value.hint
    assert "\n" not in error.value.message.replace(where, "")


def test_a_table_of_the_caller_is_not_within_reach(files):
    import pandas

    secret = pandas.DataFrame({"a": [1]})
    with pytest.raises(QueryError):
        table(files, where="tumour > (select max(a) from secret)")
    assert len(secret) == 1


@pytest.mark.parametrize(
    "where",
    [
        "image = 'a' and row between 1 and 2",
        "image like 'a%' or not tumour > 0.1",
        "Tumour > 0.5",
        "tumour + stroma > 1",
        "abs(tumour - stroma) < 0.2",
        "row in (1, 2)",
        "image in ('a', 'c') -- a comment",
        '"tumour" > 0.5',
        "tumour is not null",
        "greatest(tumour, stroma) > 0.5",
        "case when row = 1 then true else false end",
        "row % 2 = 0",
        "regexp_matches(image, '^a')",
    ],
)
def test_all_that_sql_says_about_a_row_is_possible(files, where):
    assert 0 < len(table(files, where=where)) <= 24


def test_an_error_that_only_the_rows_show_is_an_error_of_the_condition(files):
    with pytest.raises(QueryError, match=r"where.*Conversion"):
        list(table(files, where="image::integer > 5"))


def test_an_unknown_column_to_sort_by_is_named(files):
    with pytest.raises(QueryError, match="tumor") as error:
        table(files, sort="-tumor")
    assert "columns are image, row" in error.value.hint


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("-tumour", [("tumour", True)]),
        ("image, -Tumour", [("image", False), ("tumour", True)]),
        ("", []),
        ("+row", [("row", False)]),
        ('-"a,b",row', [("a,b", True), ("row", False)]),
        ("-non-tumour", [("non-tumour", True)]),
        ("0", [("0", False)]),
        ('"say ""x"""', [('say "x"', False)]),
    ],
)
def test_columns_to_sort_by_are_separated_by_commas(sort, expected):
    assert parse_sort(sort, [*COLUMNS, "a,b", "non-tumour", "0", 'say "x"']) == expected


def test_a_limit_below_zero_is_refused(files):
    with pytest.raises(QueryError, match="limit"):
        table(files, limit=-1)


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("non-tumour > 0.5", '"non-tumour"'),
        ("0 > 0.5", '"0"'),
        ("end > 0.5", '"end"'),
        ("größe 2 > 0.5", '"größe 2"'),
    ],
)
def test_a_class_with_a_special_name_is_shown_in_quotes(where, name):
    head = Head("scores", "vector", np.dtype("f4"), (4,), classes=("end", "non-tumour", "0", "größe 2"))
    with pytest.raises(QueryError) as error:
        PatchTable([], head, 2, where=where)
    assert f"{name} > 0.5" in error.value.hint


def test_text_in_double_quotes_is_explained(files):
    with pytest.raises(QueryError) as error:
        table(files, where='image = "S-017.svs"')
    assert "single quotes" in error.value.hint


def test_classes_with_special_names_are_written_in_quotes(tmp_path):
    head = Head("scores", "vector", np.dtype("f2"), (2,), classes=("0", 'non-"tumour"'))
    files = [write(tmp_path / "t.parquet", head, some_rows(head))]
    found = PatchTable(files, head, 2, where='"non-""tumour""" > 0.5', sort="-0").to_arrow()
    assert 0 < found.num_rows < 12
    assert str(found.schema.field("0").type) == "halffloat"
    assert found["0"].to_pylist() == sorted(found["0"].to_pylist(), reverse=True)


def test_a_damaged_table_is_an_error_that_names_it(files):
    good = files[1].read_bytes()
    found = 0
    for at in range(4, len(good), 97):
        data = bytearray(good)
        data[at] ^= 0x41
        files[1].write_bytes(data)
        try:
            list(table(files, where="tumour > 0.5 and stroma + row > 0"))
        except RunDamagedError as error:
            found += "1.parquet" in error.message
    assert found > len(good) / 97 / 2


def test_a_missing_table_is_an_error_that_names_it(files):
    chosen = table(files)
    assert chosen.columns == COLUMNS
    files[0].unlink()
    with pytest.raises(RunDamagedError, match=r"0\.parquet is missing"):
        list(chosen)
    with pytest.raises(RunDamagedError, match=r"0\.parquet is missing"):
        len(table(files))


def test_paths_may_be_relative(files, monkeypatch):
    monkeypatch.chdir(files[0].parent)
    relative = [Path(path.name) for path in files]
    assert len(list(table(relative, current={relative[0]: set()}, where="tumour > 0"))) == 12


def test_streaming_holds_a_few_batches_and_not_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(query, "SPAN_BYTES", 1 << 20)
    head = Head("h", "vector", np.dtype("f4"), (256,), classes=tuple(map(str, range(256))))
    files = [write(tmp_path / str(i), head, some_rows(head, f"{i:02}", rows=40, columns=25)) for i in range(16)]
    tracemalloc.start()
    rows = sum(batch.num_rows for batch in PatchTable(files, head, 2).batches(500))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 16_000
    assert peak < 16_000 * 1024 / 2


SPILL = """
import pathlib, sys, tempfile
tempfile.tempdir = sys.argv[1]
from patchloom.predictions import conditions
conditions.MEMORY = "60MB"
with conditions.connection() as database:
    rows = database.sql("select i, md5(i::varchar) a, md5((i + 1)::varchar) b from range(2000000) t(i)").order("a")
    reader = rows.to_arrow_reader(10000)
    next(iter(reader))
    print(len(list(pathlib.Path(sys.argv[1]).glob("patchloom-*"))))
"""


def test_large_sorts_go_through_files_that_are_removed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SPILL, str(tmp_path)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "1"
    assert os.listdir(tmp_path) == []


def test_examples_are_right():
    found = doctest.testmod(conditions)
    assert found.attempted
    assert not found.failed
