"""Any text may be a key: it names the image, and no file outside of where files are to be."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchloom
from tests.sources_db.photographs import TABLE, encoded, execute, fill, pixels

KEYS = ["../evil", "/etc/passwd", "a//b", "", ".", "..", "s3://b/k.jpg", "a\\b", "%2E%2E",
        "' or 1=1; --", "ß\n", "x.tif"]


def brightness(batch: Any) -> dict[str, Any]:
    return {"mean": batch.mean((1, 2, 3)).astype("float32"), "map": batch.mean(1, keepdims=True).astype("float32")}


@pytest.fixture
def run(tmp_path: Path) -> patchloom.Run:
    url = f"sqlite:///{tmp_path / 'lab' / 'lab.db'}"
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "lab.db").touch()
    fill(url, [(key, encoded(i)) for i, key in enumerate(KEYS)], key="varchar(40)")
    source = patchloom.SQLSource(url, f"select id, picture from {TABLE}")
    return patchloom.predict(source, brightness, tmp_path / "runs" / "run", patch=(24, 32), write_back="answers")


def test_every_key_is_the_name_of_its_image(run: patchloom.Run) -> None:
    assert sorted(run) == sorted(KEYS)
    for i, key in enumerate(KEYS):
        expected = pixels(i).astype("float32").mean()
        assert run.patch(key, 0, 0, head="mean") == pytest.approx(expected, rel=1e-5)
        np.testing.assert_allclose(run.patch(key, 0, 0, head="map").mean(), expected, rtol=1e-5)
    assert run.verify() == []


def test_no_key_leads_out_of_a_folder(run: patchloom.Run, tmp_path: Path) -> None:
    run.export(tmp_path / "runs" / "out.zip", predictions=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lab", "runs"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["out.zip", "run"]
    names = zipfile.ZipFile(tmp_path / "runs" / "out.zip").namelist()
    assert len(set(names)) == len(names)
    assert not [name for name in names if name.startswith("/") or {"", ".", ".."} & set(name.split("/"))]


def test_what_is_written_back_has_the_key_itself(run: patchloom.Run, tmp_path: Path) -> None:
    found = execute(f"sqlite:///{tmp_path / 'lab' / 'lab.db'}", "select id from answers")
    assert sorted(row[0] for row in found) == sorted(KEYS)
