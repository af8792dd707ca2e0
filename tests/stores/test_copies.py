"""Copies of runs: what is there is not copied again, also after a kill; and runs that come back into their folder."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchloom
from patchloom.cli.app import main
from patchloom.errors import RunDamagedError, UsageError
from patchloom.geometry import units
from patchloom.predictions.stores import copying
from patchloom.predictions.stores.store import StoredRun, open_store
from tests.servers import PASSWORD
from tests.stores.test_runs import all_of, images, predict, same, same_tables, scores, url_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'copy.db'}"


def stored(run: patchloom.Run, url: str) -> Any:
    return open_store(url, StoredRun(run.document.id, run.layout.vector_heads, run.layout.ndim))


def killed(code: str, after: int) -> None:
    """Run something in a process that is killed when its callback was called so many times."""
    script = f"""
import os, patchloom
from patchloom.predictions.stores import copying
copying.BATCH, copying.SECONDS = 50, 0.0
left = [{after}]
def tell(done, total):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), 9)
{code}
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == -9


def test_a_copy_that_was_killed_goes_on_where_it_was(url: str, tmp_path: Path) -> None:
    run = predict(tmp_path / "run", None)
    killed(f"patchloom.open({str(run.path)!r}).copy({url!r}, callback=tell)", after=2)
    told: list[tuple[int, int]] = []
    count = len(all_of(run))
    assert 0 < run.copy(url, callback=lambda done, total: told.append((done, total))) < count
    assert told[0][0] > 0 and told[-1] == (count, count)
    same(all_of(patchloom.open(run.path, store=url)), all_of(run))
    assert run.copy(url) == 0
    assert run.copy(f"json:{tmp_path / 'other'}") == count


def test_images_that_changed_are_copied_again_and_others_are_not(url: str, tmp_path: Path) -> None:
    source = images(4)
    run = predict(tmp_path / "run", None, source)
    run.copy(url)
    source["a/1.tif"] = source["a/1.tif"][:70, :60] // 2
    source["b.tif"] = source["a/0.tif"]
    run = predict(tmp_path / "run", None, source)
    assert run.copy(url) == len(run["a/1.tif"]) + len(run["b.tif"])
    same(all_of(patchloom.open(run.path, store=url)), all_of(run))
    assert stored(run, url).count("scores") == len(all_of(run))


def test_what_somebody_removed_is_copied_again(url: str, tmp_path: Path) -> None:
    run = predict(tmp_path / "run", None)
    run.copy(url)
    store = stored(run, url)
    store.delete("a/1.tif")
    store.close()
    assert run.copy(url) > 0
    same(all_of(patchloom.open(run.path, store=url)), all_of(run))


@pytest.mark.parametrize("kind", ["json", "redis"])
def test_a_run_comes_back_into_its_folder(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_dull(patch: np.ndarray) -> bool:
        return bool(patch.mean() > 127.0)

    monkeypatch.setattr(units, "TABLE_PATCHES", 50)
    source = {**images(3), "large": np.random.default_rng(5).integers(0, 255, (400, 300), np.uint8)}
    place = url_of(request, kind, tmp_path)
    here, there = (predict(tmp_path / name, store, source, skip=is_dull, model_id="m")
                   for name, store in (("here", None), ("there", place)))
    assert len(there.index.parts("large")) > 3
    count = sum(there[name]._patches_done for name in there)
    told: list[tuple[int, int]] = []
    assert there.copy(str(tmp_path / "there"), callback=lambda done, total: told.append((done, total))) == count
    assert told[-1] == (count, count)
    for run in (there, patchloom.open(tmp_path / "there")):
        assert run.document.config.store is None
        assert run.document.id == patchloom.open(tmp_path / "there").document.id
        same(all_of(run), all_of(here))
        same_tables(run, here)
        assert list(run["large"].skipped()) == list(here["large"].skipped())
        assert run.verify() == []
    again = predict(tmp_path / "there", None, source, skip=is_dull, model_id="m")
    assert again.status().done == 4
    with pytest.raises(UsageError, match="already"):
        again.copy(str(tmp_path / "there"))


def test_a_run_of_which_images_changed_comes_back_without_what_they_were(url: str, tmp_path: Path) -> None:
    source = images(4)
    predict(tmp_path / "run", url, source)
    source["a/1.tif"] = source["a/1.tif"][:70, :60] // 2
    run = predict(tmp_path / "run", url, source)
    run.copy(str(run.path))
    fresh = predict(tmp_path / "fresh", None, source)
    same(all_of(run), all_of(fresh))
    same_tables(run, fresh)
    assert run.verify() == []


def test_a_return_that_was_killed_goes_on(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "TABLE_PATCHES", 50)
    run = predict(tmp_path / "run", url, {"large": np.random.default_rng(5).integers(0, 255, (400, 300), np.uint8)})
    killed(f"patchloom.open({str(run.path)!r}).copy({str(run.path)!r}, callback=tell)", after=2)
    half = patchloom.open(run.path)
    assert half.document.config.store is not None
    expected = all_of(half)
    assert 0 < half.copy(str(run.path)) < len(expected)
    same(all_of(patchloom.open(run.path)), expected)
    assert half.verify() == []


def test_a_run_whose_store_lost_rows_stays_where_it_is(url: str, tmp_path: Path) -> None:
    run = predict(tmp_path / "run", url)
    store = stored(run, url)
    store.delete("a/3.tif")
    store.close()
    with pytest.raises(RunDamagedError, match=r"lost predictions of 'a/3.tif'"):
        run.copy(str(run.path))
    assert patchloom.open(run.path).document.config.store is not None


def test_commands_read_a_run_from_the_store_that_they_are_given(
    redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", images(1)["a/0.tif"])
    patchloom.predict("a.npy", lambda batch: scores(batch)["scores"], "run", patch=32, overlap=8, store=redis_url,
                      model_id="m", classes=["dark", "bright"])  # fmt: skip
    reading = (["patch", "run", "a.npy", "0", "0"], ["query", "run", "--limit", "1"], ["verify", "run"],
               ["export", "run", "out.csv"])
    for words in (*reading, ["copy", "run", "--to", "run"]):
        assert main(words) == 2  # without the password
    for words in (*reading, ["status", "run"]):
        assert main([*words, "--store", redis_url]) == 0
    assert main(["copy", "run", "--to", "json:copy", "--store", redis_url]) == 0
    assert main(["query", "run", "--store", "json:copy", "--where", "dark > 0"]) == 0
    assert main(["copy", "run", "--to", "./run", "--store", redis_url]) == 0
    for words in reading:
        assert main(words) == 0
    printed = capsys.readouterr()
    assert "30 patches copied to ./run" in printed.err
    assert PASSWORD not in printed.out + printed.err
    assert Path("out.csv").read_text().count("\n") == 31


def test_a_table_outlives_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store is closed when nobody can read from it any more, and not before: collection may come in mid-table."""
    from patchloom.predictions.stores.sql import SqlStore

    url = f"sqlite:///{tmp_path / 'here.db'}"
    closed: list[str] = []
    predict(tmp_path / "run", url)
    monkeypatch.setattr(SqlStore, "close", lambda _: closed.append("closed"))
    rows = iter(patchloom.open(tmp_path / "run").patches())
    assert next(rows)["image"]
    gc.collect()
    assert not closed
    del rows
    gc.collect()
    assert closed


def test_notes_of_copies_are_in_proportion(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is not full of them, and what cannot be noted is copied all the same."""
    run = predict(tmp_path / "run", None, images(1))
    (tmp_path / "run" / "copies").write_text("no folder")
    monkeypatch.setattr(copying, "SECONDS", 0.0)
    assert run.copy(url) == run.copy(url) == 30
    (tmp_path / "run" / "copies").unlink()
    assert (run.copy(url), run.copy(url)) == (30, 0)
    assert len(list((tmp_path / "run" / "copies").iterdir())) == 1
