"""JSON and NPZ: what was predicted comes back, whatever kind of head it is of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import patchloom
from patchloom.errors import NotPredictedError, UsageError
from patchloom.export.texts import json_rows, list_texts, number_texts

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 255, (70, 90, 3), dtype=np.uint8)


def means(batch: NDArray[Any]) -> NDArray[Any]:
    return batch.mean((2, 3), dtype=np.float32) / 7


def many(batch: NDArray[Any]) -> NDArray[Any]:
    return batch.reshape(len(batch), -1)[:, :100].astype("f2") / 3


def both(batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {"map": batch.astype("f4"), "class": (batch[:, 0] // 64).astype("u1"), "mean": means(batch),
            "many": many(batch), "dark": batch.mean((1, 2, 3)) < 127}


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> patchloom.Run:
    images = {"a": PIXELS, 'quote " and\nline, ä': PIXELS[:40, :40], "z": PIXELS[:8, :8]}
    return patchloom.predict(images, means, tmp_path_factory.mktemp("run"), patch=32, classes='r,g "1",b')


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> patchloom.Run:
    return patchloom.predict({"a": PIXELS, "b/c": PIXELS[:40, :40]}, both, tmp_path_factory.mktemp("run"), patch=32)


def test_json_is_one_document_of_the_rows(vectors: patchloom.Run, tmp_path: Path) -> None:
    vectors.export(tmp_path / "t.json")
    rows = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    table = vectors.patches()
    assert list(rows[0]) == table.columns
    assert len(rows) == len(table) == 14
    for row, expected in zip(rows, table, strict=True):
        assert row == {name: float(str(np.float32(value))) if isinstance(value, float) else value
                       for name, value in expected.items()}


@pytest.mark.parametrize("name", ["t.ndjson", "t.jsonl", "T.JSONL"])
def test_json_lines_hold_the_same_rows(vectors: patchloom.Run, tmp_path: Path, name: str) -> None:
    vectors.export(tmp_path / "t.json")
    vectors.export(tmp_path / name)
    lines = (tmp_path / name).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))


def test_pandas_reads_both(vectors: patchloom.Run, tmp_path: Path) -> None:
    vectors.export(tmp_path / "t.json")
    vectors.export(tmp_path / "t.ndjson")
    expected = vectors.patches().to_pandas()
    for frame in (pandas.read_json(tmp_path / "t.json"), pandas.read_json(tmp_path / "t.ndjson", lines=True)):
        pandas.testing.assert_frame_equal(frame.astype(expected.dtypes), expected)


def test_numbers_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    run = patchloom.predict({"a": PIXELS}, lambda batch: np.full(len(batch), 0.97, "f4"), tmp_path / "run", patch=128)
    run.export(tmp_path / "t.ndjson")
    assert (tmp_path / "t.ndjson").read_text() == (
        '{"image":"a","row":0,"col":0,"y":0,"x":0,"height":70,"width":90,"prediction":0.97}\n')


def test_what_json_does_not_have_is_null(tmp_path: Path) -> None:
    values = np.array([np.nan, np.inf, -np.inf, 1], np.float32)

    def odd(batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        numbers = values[batch[:, 0, 0, :1]]
        return {"one": numbers.repeat(2, 1), "list": numbers.repeat(70, 1)}

    image = np.repeat(np.arange(4, dtype=np.uint8), 8)[None].repeat(8, 0)
    run = patchloom.predict({"a": image}, odd, tmp_path / "run", patch=8, axes="YX")
    run.export(tmp_path / "one.json", head="one")
    run.export(tmp_path / "list.json", head="list")
    assert [row["0"] for row in json.loads((tmp_path / "one.json").read_text())] == [None, None, None, 1]
    assert [row["prediction"][69] for row in json.loads((tmp_path / "list.json").read_text())] == [None, None, None, 1]


def test_skipped_patches_are_null(tmp_path: Path) -> None:
    image = PIXELS[:64, :64, 0].copy()
    image[:32] = 0

    def empty(patch: NDArray[Any]) -> bool:
        return not patch.any()

    run = patchloom.predict({"a": image}, lambda batch: {"mean": means(batch), "many": many(batch),
                                                         "sum": batch.sum((1, 2, 3), dtype="i8"),
                                                         "any": batch.any((1, 2, 3))},
                            tmp_path / "run", patch=32, axes="YX", skip=empty)
    for head in ("mean", "many", "sum", "any"):
        run.export(tmp_path / "t.json", head=head)
        rows = json.loads((tmp_path / "t.json").read_text())
        assert [row["0" if "0" in row else "prediction"] is None for row in rows] == [True, True, False, False]
    run.export(tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz") as arrays:
        assert arrays["skipped"].tolist() == [True, True, False, False]
        assert np.isnan(arrays["values/mean"][:2]).all() and np.isnan(arrays["values/many"][:2]).all()
        assert arrays["values/sum"][:2].tolist() == [2**63 - 1] * 2
        assert arrays["values/any"].tolist() == [False, False, True, True]
        assert [arrays[f"values/{name}"].dtype for name in ("mean", "many", "sum", "any")] == ["f4", "f2", "i8", "?"]


def test_npz_holds_the_rows_as_arrays(vectors: patchloom.Run, tmp_path: Path) -> None:
    vectors.export(tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz") as arrays:
        assert sorted(arrays) == ["classes", "image", "images", "key_axes", "keys", "values"]
        assert arrays["classes"].tolist() == ["r", 'g "1"', "b"]
        assert arrays["images"].tolist() == list(vectors)
        assert str(arrays["key_axes"]) == "YX"
        assert arrays["values"].shape == (14, 3)
        for image, key, value in zip(arrays["image"], arrays["keys"], arrays["values"], strict=True):
            np.testing.assert_array_equal(value, vectors[str(arrays["images"][image])][tuple(key)])


def test_npz_holds_all_heads(everything: patchloom.Run, tmp_path: Path) -> None:
    everything.export(tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz") as arrays:
        for i, (image, key) in enumerate(zip(arrays["image"], arrays["keys"], strict=True)):
            expected = everything[str(arrays["images"][image])][tuple(key)]
            for name in ("mean", "many", "dark"):
                np.testing.assert_array_equal(arrays[f"values/{name}"][i], expected[name])
                assert arrays[f"values/{name}"].dtype == expected[name].dtype
        assert arrays["map_images"].tolist() == ["a", "a", "b/c", "b/c"]
        for name, image in zip(arrays["map_names"], arrays["map_images"], strict=True):
            head = str(name).split("/")[1]
            np.testing.assert_array_equal(arrays[str(name)], everything[str(image)].stitched(head))
        np.testing.assert_array_equal(arrays["maps/class/b/c"], everything["b/c"].stitched("class"))


def test_npz_of_one_image_head_and_level(everything: patchloom.Run, tmp_path: Path) -> None:
    everything.export(tmp_path / "t.npz", image="b/c", head="map")
    with np.load(tmp_path / "t.npz") as arrays:
        assert sorted(arrays) == ["map_images", "map_names", "maps/b/c"]
    with pytest.raises(NotPredictedError):
        everything.export(tmp_path / "no.npz", image="x")
    with pytest.raises(UsageError, match="level 9"):
        everything.export(tmp_path / "no.npz", head="map", level=9)
    assert not (tmp_path / "no.npz").exists()


def test_npz_keys_begin_with_the_axes_of_loops(tmp_path: Path) -> None:
    stack = np.stack([PIXELS[:32, :32, 0]] * 2)
    run = patchloom.predict({"stack": stack}, means, tmp_path / "run", patch=32, axes="TYX")
    run.export(tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz") as arrays:
        assert str(arrays["key_axes"]) == "TYX"
        assert arrays["keys"].tolist() == [list(key) for key in run["stack"]] == [[0, 0, 0], [1, 0, 0]]


def test_npz_keys_of_volumes_begin_with_z(tmp_path: Path) -> None:
    volume = RNG.integers(0, 255, (8, 32, 32), dtype=np.uint8)
    run = patchloom.predict({"v": volume}, lambda batch: batch.mean((1, 2, 3, 4), dtype="f4"), tmp_path / "run",
                            patch=(4, 32, 32), axes="ZYX")
    run.export(tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz") as arrays:
        assert str(arrays["key_axes"]) == "ZYX"
        assert arrays["keys"].tolist() == [[0, 0, 0], [4, 0, 0]]


@pytest.mark.parametrize("name", ["t.json", "t.ndjson", "t.npz"])
def test_a_run_without_predictions_gives_no_rows(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.warns(UserWarning, match="1 image"):
        run = patchloom.predict(tmp_path / "in", means, tmp_path / "run", patch=32)
    run.export(tmp_path / name)
    if name == "t.npz":
        with np.load(tmp_path / name) as arrays:
            assert len(arrays["images"]) == len(arrays["keys"]) == len(arrays["values"]) == 0
    else:
        text = (tmp_path / name).read_text()
        assert text == "" if name == "t.ndjson" else json.loads(text) == []


def test_maps_have_no_rows(tmp_path: Path) -> None:
    run = patchloom.predict({"a": PIXELS}, lambda batch: batch, tmp_path / "run", patch=32)
    for name in ("t.json", "t.jsonl"):
        with pytest.raises(UsageError, match="maps"):
            run.export(tmp_path / name)
    assert not (tmp_path / "t.json").exists()


FLOATS = st.lists(st.floats(width=32), min_size=1, max_size=20)


@given(FLOATS)
def test_every_number_is_read_back_as_it_was(values: list[float]) -> None:
    column = pa.array(values, pa.float32())
    for found, expected in zip(number_texts(column).to_pylist(), np.array(values, np.float32), strict=True):
        np.testing.assert_equal(np.float32(found), expected)
    batch = pa.RecordBatch.from_pydict({"v": column})
    for row, value in zip(json_rows(batch).to_pylist(), values, strict=True):
        found = json.loads(row)["v"]
        assert found is None if not np.isfinite(value) else np.float32(found) == np.float32(value)


@given(st.lists(st.text(), min_size=1, max_size=10))
def test_every_name_is_read_back_as_it_was(names: list[str]) -> None:
    plain = [name.encode("utf-8", "replace").decode() for name in names]
    batch = pa.RecordBatch.from_pydict({"image": plain, plain[0] + "?": list(range(len(plain)))})
    rows = [json.loads(row) for row in json_rows(batch).to_pylist()]
    assert [row["image"] for row in rows] == plain
    assert all(plain[0] + "?" in row for row in rows)


def test_lists_are_json() -> None:
    column = pa.array([[1.5, float("nan")], None, [float("-inf"), 2]], pa.list_(pa.float32(), 2))
    assert list_texts(column).to_pylist() == ["[1.5, NaN]", None, "[-Infinity, 2]"]
    assert list_texts(column[1:]).to_pylist() == [None, "[-Infinity, 2]"]
    assert list_texts(column, ",", "null", "null").to_pylist() == ["[1.5,null]", None, "[null,2]"]
