"""Filtering, sorting and streaming tables."""

import numpy as np
import pytest

from patchloom.errors import QueryError
from patchloom.models.model import Head
from patchloom.predictions.patches import encode_unit
from patchloom.predictions.query import PatchTable

from .test_patches import some_rows

HEAD = Head("scores", "vector", np.dtype("f4"), (2,), classes=("stroma", "tumour"))


@pytest.fixture
def files(tmp_path):
    paths = []
    for i, image in enumerate(("b", "a")):
        path = tmp_path / f"{i}.parquet"
        path.write_bytes(encode_unit(HEAD, "", 2, [some_rows(HEAD, image, seed=i)]))
        paths.append(path)
    return paths


def table(files, **options):
    return PatchTable(files, HEAD, 2, **options)


def test_without_conditions_all_rows_come_in_order_of_image_and_place(files):
    frame = table(files).to_pandas()
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
    assert set(next(iter(table(files)))) == set(table(files).columns)
    assert len(table(files, image="a")) == 12


def test_images_that_were_predicted_again_elsewhere_are_passed_over(files):
    assert len(table(files, current={files[0]: set()})) == 12
    assert len(table(files, current={files[0]: {"b"}})) == 24


def test_no_files_is_an_empty_table_with_its_columns():
    empty = table([])
    assert len(empty) == 0
    assert empty.to_arrow().column_names == empty.columns


@pytest.mark.parametrize("where", [
    "tumor > 0.5", "tumour >", "1; drop table x", "tumour > 0.5) or (1 = 1",
    "tumour > (select max(a) from read_csv('/etc/passwd') t(a))", "image in (select * from glob('/*'))",
])
def test_what_is_no_condition_over_the_columns_is_refused(files, where):
    with pytest.raises(QueryError, match="where") as error:
        table(files, where=where)
    assert "columns are image" in error.value.hint


def test_an_unknown_column_to_sort_by_is_named(files):
    with pytest.raises(QueryError, match="tumor"):
        table(files, sort="-tumor")


def test_classes_with_special_names_are_written_in_quotes(tmp_path):
    head = Head("scores", "vector", np.dtype("f2"), (2,), classes=("0", "non-tumour"))
    path = tmp_path / "t.parquet"
    path.write_bytes(encode_unit(head, "", 2, [some_rows(head)]))
    found = PatchTable([path], head, 2, where='"non-tumour" > 0.5').to_arrow()
    assert 0 < found.num_rows < 12
    assert str(found.schema.field("0").type) == "halffloat"
    with pytest.raises(QueryError) as error:
        PatchTable([path], head, 2, where="non-tumour > 0.5")
    assert '"non-tumour"' in error.value.hint or '"0"' in error.value.hint
