"""``patchloom export``: archives and tables with their flags."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Call


def test_an_archive_holds_rows_and_an_explanation(call: Call, vectors: Path, slides: Path, tmp_path: Path) -> None:
    ended = call("export", vectors, tmp_path / "out.zip")
    assert (ended.code, ended.out, ended.err) == (0, "", f"{tmp_path / 'out.zip'} written\n")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.namelist() == ["README.txt", "metadata.csv", "images.csv"]
        rows = list(csv.DictReader(io.TextIOWrapper(archive.open("metadata.csv"), "utf-8")))
        images = list(csv.DictReader(io.TextIOWrapper(archive.open("images.csv"), "utf-8")))
    assert list(rows[0]) == ["image", "row", "col", "y", "x", "height", "width", "tumour", "stroma"]
    assert [float(row["tumour"]) for row in rows[:2]] == pytest.approx([0.8, 0.2])
    assert images == [{"image": name, "path": str(slides / name)} for name in ("a/s.tif", "b.tif")]


def test_flags_of_an_archive_choose_what_is_in_it(call: Call, two_heads: Path, slides: Path, tmp_path: Path) -> None:
    flags = ("--metadata", "json", "--predictions", "--with-images")
    assert call("export", two_heads, tmp_path / "out.zip", *flags).code == 0
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        names = archive.namelist()
        arrays = json.loads(archive.read("arrays.json"))
        assert archive.read("images/a/s.tif") == (slides / "a/s.tif").read_bytes()
        shapes = [list(np.load(io.BytesIO(archive.read(row["file"]))).shape) for row in arrays]
    assert {"metadata.json", "images.json", "predictions/map/b.tif.npy", "predictions/score/b.tif.npy"} <= set(names)
    assert [row["shape"] for row in arrays] == shapes


@pytest.mark.parametrize("name", ["t.json", "t.ndjson", "t.jsonl", "t.npz"])
def test_other_formats_have_the_same_scores(call: Call, vectors: Path, tmp_path: Path, name: str) -> None:
    assert call("export", vectors, tmp_path / name, "--image", "a/s.tif").code == 0
    expected = [row["tumour"] for row in call("query", vectors, "--image", "a/s.tif", "--json").json]
    if name == "t.npz":
        with np.load(tmp_path / name) as arrays:
            found = arrays["values"][:, 0].astype(float).tolist()
    else:
        text = (tmp_path / name).read_text()
        rows = json.loads(text) if name == "t.json" else map(json.loads, text.splitlines())
        found = [row["tumour"] for row in rows]
    assert found == pytest.approx(expected)


def test_flags_of_archives_do_not_apply_to_tables(call: Call, vectors: Path, tmp_path: Path) -> None:
    ended = call("export", vectors, tmp_path / "t.csv", "--with-images")
    assert ended.code == 2
    assert "with_images is no option of .csv" in ended.err
    assert not list(tmp_path.iterdir())
