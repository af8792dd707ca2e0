"""Images, a run of one process over them, and what two runs are compared by."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import patchloom
from patchloom.objects import AnyPath

MODEL = "tests.objects.slow_model:predict"
SHAPES = [(2600, 200), (90, 70), (1100, 130), (40, 200), (64, 64), (700, 90), (130, 100), (20, 30), (200, 65)]
OPTIONS: dict[str, Any] = {"patch": 64, "overlap": 16, "batch": 4, "threads": 2}


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one unit and of several: so few that the large ones are cut."""
    folder = tmp_path_factory.mktemp("few")
    for i, (height, width) in enumerate(SHAPES):
        np.save(folder / f"{i}.npy", np.arange(height * width, dtype=np.uint32).reshape(height, width) * (i + 1))
    return folder


@pytest.fixture(scope="session")
def local(images: Path, tmp_path_factory: pytest.TempPathFactory) -> patchloom.Run:
    """The same, by one process."""
    return patchloom.predict(images, MODEL, tmp_path_factory.mktemp("local") / "run", **OPTIONS)


def maps(folder: Path) -> dict[str, bytes]:
    """Files of all maps by their names; which maps share a file is a matter of time."""
    found = {}
    for path in (path for path in (folder / "dense").rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as members:
                found |= {(name.parent / member).as_posix(): members.read(member) for member in members.namelist()}
        else:
            found[name.as_posix()] = path.read_bytes()
    return found


def rows(folder: AnyPath) -> list[dict[str, Any]]:
    """Rows of all tables that are in a folder, whether or not the journal knows them, in the order of their keys."""
    tables = [pq.read_table(pa.BufferReader(path.read_bytes())) for path in (folder / "patches").rglob("*.parquet")]
    found = (row for table in tables for row in table.to_pylist())
    return sorted(found, key=lambda row: (row["image"], row["y"], row["x"]))


def same(run: patchloom.Run, expected: patchloom.Run) -> None:
    """A run is that of one process, byte for byte, and nothing is in its folder beside."""
    assert run.verify() == []
    assert list(run) == list(expected)
    assert maps(run.path) == maps(expected.path)
    assert rows(run.path) == rows(expected.path)
    assert run.patches().to_arrow().equals(expected.patches().to_arrow())
    assert not [path for path in run.path.iterdir() if path.name.startswith("lock")]
    assert not list(run.path.rglob("*.partial"))


def named(run: patchloom.Run) -> list[str]:
    """Shards that `verify` says are missing, and nothing else may be wrong."""
    damages = run.verify()
    assert all(damage.problem.startswith("missing: ") and damage.image is None for damage in damages)
    return [damage.path for damage in damages]
