"""Runs whose predictions live in a store: the same accessors, resumption, removal, copies, queries; on real servers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import numpy as np
import pytest
import sqlalchemy
import zarr
from zarr.storage import ZipStore

import patchloom
from patchloom.cli.app import main
from patchloom.engine import groups
from patchloom.errors import ConfigMismatchError, RunDamagedError, StoreError, StoreUnreachableError, UsageError
from patchloom.events import Event, UnitCommitted, Warned
from patchloom.geometry import units
from patchloom.predictions import layout
from patchloom.predictions.stores import mongodb
from patchloom.predictions.stores import server as waiting
from tests.servers import PASSWORD, Server, free_port

KINDS = ("json", "sqlite", "postgresql", "mariadb", "redis", "mongodb")
SHAPE = (150, 110)


def images(count: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"a/{i}.tif": rng.integers(0, 255, SHAPE, np.uint8) for i in range(count)}


def scores(batch: np.ndarray) -> dict[str, np.ndarray]:
    mean = batch.mean((1, 2, 3), dtype=np.float64) / 255
    found = np.stack([mean, 1 - mean], 1).astype(np.float32)
    return {"scores": found, "embedding": batch[:, 0, :4, :4].reshape(-1, 16)}


def predict(out: Path, store: str | None, source: Any = None, **options: Any) -> patchloom.Run:
    given = {"patch": 32, "overlap": 8, "skip": None, **options}
    return patchloom.predict(source or images(), given.pop("model", scores), out, store=store, **given)


def all_of(run: patchloom.Run) -> dict[Any, Any]:
    return {(image, *key): prediction for image, *key, prediction in run.items()}


def same(found: dict[Any, Any], expected: dict[Any, Any]) -> None:
    assert list(found) == list(expected)
    for key, heads in expected.items():
        for name, values in heads.items():
            np.testing.assert_array_equal(found[key][name], values)
            assert found[key][name].dtype == values.dtype


def same_tables(found: patchloom.Run, expected: patchloom.Run) -> None:
    for head in ("scores", "embedding"):
        assert found.patches(head=head).to_arrow().equals(expected.patches(head=head).to_arrow())


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> patchloom.Run:
    return predict(tmp_path_factory.mktemp("expected") / "run", None)


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request, request.param, tmp_path)


def url_of(request: pytest.FixtureRequest, kind: str, folder: Path) -> str:
    embedded = {"json": f"json:{folder / 'predictions'}", "sqlite": f"sqlite:///{folder / 'predictions.db'}"}
    found: str = embedded[kind] if kind in embedded else request.getfixturevalue(f"{kind}_url")
    return found


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


class TestEveryStore:
    def test_a_run_reads_as_one_in_its_folder(self, url: str, tmp_path: Path, expected: patchloom.Run) -> None:
        run = predict(tmp_path / "run", url)
        assert not list((tmp_path / "run").rglob("*.parquet"))
        same(all_of(run), all_of(expected))
        opened = patchloom.open(tmp_path / "run", store=url)
        np.testing.assert_array_equal(opened.patch("a/1.tif", 24, 48, head="scores"),
                                      expected.patch("a/1.tif", 24, 48, head="scores"))
        assert opened.patch("a/1.tif", 24, 49) is None
        assert opened.patch("b", 0, 0) is None
        assert list(opened["a/0.tif"]) == list(expected["a/0.tif"])
        assert len(list(opened["a/0.tif"].values())) == len(opened["a/0.tif"])
        assert set(opened["a/0.tif"].at(40, 40)) == set(expected["a/0.tif"].at(40, 40))
        assert opened.verify() == []

    def test_a_table_is_the_same(self, url: str, tmp_path: Path, expected: patchloom.Run) -> None:
        run = predict(tmp_path / "run", url, classes=None)
        for head in ("scores", "embedding"):
            assert run.patches(head=head).to_arrow().equals(expected.patches(head=head).to_arrow())
        asked: dict[str, Any] = {"head": "scores", "where": '"0" > 0.5 and y < 100', "sort": "-0", "limit": 7}
        assert run.patches(**asked).to_arrow().equals(expected.patches(**asked).to_arrow())
        counted = [len(each.patches(head="scores", where='"0" > 0.5')) for each in (run, expected)]
        assert counted[0] == counted[1] > 0
        one = run.patches(head="scores", image="a/2.tif")
        assert {row["image"] for row in one} == {"a/2.tif"}
        assert len(one) == len(expected["a/2.tif"])

    def test_patches_that_were_skipped_are_in_no_mapping(self, url: str, tmp_path: Path) -> None:
        def is_dull(patch: np.ndarray) -> bool:
            return bool(patch.mean() > 127.0)

        source = images(2)
        here, there = (predict(tmp_path / name, store, source, skip=is_dull, model_id="m")
                       for name, store in (("here", None), ("there", url)))
        assert 0 < len(here["a/0.tif"]) < 35
        same(all_of(there), all_of(here))
        assert list(there["a/0.tif"].skipped()) == list(here["a/0.tif"].skipped())
        assert there.patches(head="scores").to_arrow().equals(here.patches(head="scores").to_arrow())
        assert there.verify() == []

    def test_a_copy_reads_as_the_run(self, url: str, tmp_path: Path, expected: patchloom.Run) -> None:
        told: list[tuple[int, int]] = []
        count = len(all_of(expected))
        for copied in (count, 0):
            assert expected.copy(url, callback=lambda done, total: told.append((done, total))) == copied
            assert told[-1] == (count, count)
        copied = patchloom.open(expected.path, store=url)
        same(all_of(copied), all_of(expected))
        assert copied.verify() == []

    def test_overwriting_discards_what_is_in_the_store(self, url: str, tmp_path: Path) -> None:
        first = predict(tmp_path / "run", url)
        stored = first._lookup.store
        assert stored is not None and stored.count("scores") > 0
        predict(tmp_path / "run", url, images(1), overwrite=True, patch=64)
        assert stored.count("scores") == stored.count("embedding") == 0

    def test_a_changed_image_is_predicted_again(self, url: str, tmp_path: Path) -> None:
        source = images(2)
        predict(tmp_path / "run", url, source)
        source["a/0.tif"] = source["a/0.tif"][:70, :60] // 2
        run = predict(tmp_path / "run", url, source)
        same(all_of(run), all_of(predict(tmp_path / "fresh", None, source)))
        assert run.verify() == []

    def test_rows_that_were_lost_are_noticed(self, url: str, tmp_path: Path) -> None:
        run = predict(tmp_path / "run", url)
        stored = run._lookup.store
        assert stored is not None
        stored.delete("a/3.tif")
        damage = run.verify()
        assert {found.image for found in damage} == {"a/3.tif"}
        assert PASSWORD not in repr(damage)
        with pytest.raises(RunDamagedError, match="lost"):
            run.patch("a/3.tif", 0, 0)
        with pytest.raises(RunDamagedError, match="of"):
            list(run["a/3.tif"].items())


class Interrupting:
    """Ends a run after some units."""

    def __init__(self, units: int) -> None:
        self.left = units

    def __call__(self, event: Event) -> None:
        if isinstance(event, UnitCommitted):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("kind", ["redis", "postgresql", "json"])
def test_an_interrupted_run_goes_on(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url_of(request, kind, tmp_path)
    monkeypatch.setattr(units, "TABLE_PATCHES", 100)
    large = {"large": np.random.default_rng(1).integers(0, 255, (700, 700), np.uint8)}
    with pytest.raises(patchloom.Interrupted):
        predict(tmp_path / "run", url, large, callbacks=[Interrupting(1)], batch=64, threads=1)
    part = patchloom.open(tmp_path / "run", store=url)
    done = sum(1 for _ in part["large"].items())
    assert 0 < done < 29 * 29
    assert done == sum(1 for _ in part["large"])
    run = predict(tmp_path / "run", url, large)
    same_tables(run, predict(tmp_path / "whole", None, large))


class TestPasswords:
    @pytest.mark.parametrize("kind", ["redis", "postgresql", "mariadb", "mongodb"])
    def test_a_password_is_nowhere_in_the_run(self, kind: str, request: pytest.FixtureRequest, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
        url = url_of(request, kind, tmp_path)
        predict(tmp_path / "run", url)
        assert PASSWORD in url
        assert PASSWORD.encode() not in bytes_of(tmp_path / "run")
        kept = patchloom.open(tmp_path / "run").document.config.store
        assert kept is not None
        with pytest.raises(StoreError) as caught:
            patchloom.open(tmp_path / "run").patch("a/0.tif", 0, 0)
        assert "PATCHLOOM_STORE" in caught.value.hint
        monkeypatch.setenv("PATCHLOOM_STORE", url)
        assert patchloom.open(tmp_path / "run").patch("a/0.tif", 0, 0) is not None
        assert predict(tmp_path / "run", kept).patch("a/0.tif", 0, 0) is not None
        assert predict(tmp_path / "run", None).patch("a/0.tif", 0, 0) is not None

    @pytest.mark.parametrize("kind", ["redis", "postgresql", "mariadb", "mongodb"])
    def test_a_wrong_password_is_an_error_that_does_not_show_it(
        self, kind: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        wrong = "wr0ng%@:secret"
        url = url_of(request, kind, tmp_path).replace(PASSWORD, quote(wrong, safe=""))
        with pytest.raises(StoreError) as caught:
            predict(tmp_path / "run", url)
        assert not isinstance(caught.value, StoreUnreachableError)
        np.save(tmp_path / "a.npy", images(1)["a/0.tif"])
        code = main(["predict", str(tmp_path / "a.npy"), "-m", "tests.stores.test_runs:scores", "-o",
                     str(tmp_path / "run"), "--store", url, "--debug"])
        printed = capsys.readouterr()
        assert code == 2 and "[store]" in printed.err
        for text in (str(caught.value), repr(caught.value), printed.err, printed.out):
            assert wrong not in text and quote(wrong, safe="") not in text
        assert not (tmp_path / "run").exists()

    def test_a_config_file_is_saved_without_it(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", images(1)["a/0.tif"])
        main(["predict", str(tmp_path / "a.npy"), "-m", "tests.stores.test_runs:scores", "--patch", "32", "--dry-run",
              "--store", "postgresql://me:s3cret@host/lab", "--save-config", str(tmp_path / "run.toml")])
        text = (tmp_path / "run.toml").read_text()
        assert 'store = "postgresql://me@host/lab"' in text


@pytest.mark.parametrize("scheme", ["redis", "postgresql", "mysql", "mongodb"])
def test_a_server_that_is_not_there_is_an_error_within_seconds(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "FIRST", 0.3)
    monkeypatch.setattr(mongodb, "WAIT", 300)
    begun = time.monotonic()
    with pytest.raises(StoreUnreachableError) as caught:
        predict(tmp_path / "run", f"{scheme}://me:s3cret@127.0.0.1:{free_port()}/1")
    assert time.monotonic() - begun < 10
    assert "s3cret" not in str(caught.value) and "start the server" in caught.value.hint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("url", "said"), [
    ("what", "cannot be understood"), ("ftp://host/x", "no such kind"), ("sqlite:///:memory:", "in memory"),
    ("sqlite:////no/such/x.db", "no folder"), ("postgresql+nothing://h/d", "no such driver")])
def test_a_url_that_is_none_is_an_error(url: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=said):
        predict(tmp_path / "run", url)
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_change_its_store(tmp_path: Path) -> None:
    here, there = f"json:{tmp_path / 'here'}", f"sqlite:///{tmp_path / 'there.db'}"
    predict(tmp_path / "run", here)
    with pytest.raises(ConfigMismatchError, match=r"run lives in json:.*not in sqlite"):
        predict(tmp_path / "run", there)
    with pytest.raises(UsageError, match="already"):
        patchloom.open(tmp_path / "run").copy(here)


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image is a unit of its own."""
    monkeypatch.setattr(groups, "PATCHES", 1)


class Tripping:
    """`scores`, in whose third call something happens: one image is predicted by then, and most are not."""

    options: ClassVar = {"batch": 16, "threads": 1, "model_id": "scores"}

    def __init__(self, happens: Callable[[], None]) -> None:
        self._happens, self._calls = happens, 0

    def __call__(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        self._calls += 1
        if self._calls == 3:
            self._happens()
        return scores(batch)


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("kind", ["redis", "postgresql", "mariadb", "mongodb"])
def test_a_run_waits_for_a_server_that_is_started_again(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, expected: patchloom.Run
) -> None:
    url, server = url_of(request, kind, tmp_path), request.getfixturevalue(f"{kind}_server")
    url = url.replace("journal=false", "journal=true")
    again = threading.Timer(0.5, server.start)

    def restart() -> None:
        server.stop(kill=True)
        again.start()

    run = predict(tmp_path / "run", url, model=Tripping(restart), **Tripping.options)
    again.join()
    if kind != "redis":  # which promises a second less than what it acknowledged
        assert run.verify() == []
        same_tables(run, expected)


@pytest.mark.usefixtures("small_units")
def test_a_run_stops_when_the_server_stays_away_and_goes_on_later(
    postgresql_server: Server, postgresql_url: str, tmp_path: Path, expected: patchloom.Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "LATER", 0.5)
    model = Tripping(lambda: postgresql_server.stop(kill=True))
    try:
        with pytest.raises(StoreUnreachableError):
            predict(tmp_path / "run", postgresql_url, model=model, **Tripping.options)
    finally:
        postgresql_server.stop()
        postgresql_server.start()
    run = predict(tmp_path / "run", postgresql_url, **Tripping.options)
    assert run.verify() == []
    same_tables(run, expected)


def test_a_killed_process_has_lost_nothing(postgresql_url: str, tmp_path: Path, expected: patchloom.Run) -> None:
    code = f"""
import os, patchloom
from tests.stores.test_runs import images, scores
from patchloom.engine import groups
from patchloom.events import UnitCommitted
groups.PATCHES = 1
left = [2]
def kill(event):
    left[0] -= isinstance(event, UnitCommitted)
    if not left[0]:
        os.kill(os.getpid(), 9)
store, out = {postgresql_url!r}, {str(tmp_path / 'run')!r}
patchloom.predict(images(), scores, out, patch=32, overlap=8, store=store, callbacks=[kill], threads=1)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -9
    assert 0 < patchloom.open(tmp_path / "run").status().done < len(images())
    same_tables(predict(tmp_path / "run", postgresql_url), expected)


def test_sql_filters_on_scores(postgresql_url: str, tmp_path: Path) -> None:
    run = patchloom.predict(images(), lambda batch: scores(batch)["scores"], tmp_path / "run", patch=32,
                            classes=["stroma", "Tumour"], store=postgresql_url)
    engine = sqlalchemy.create_engine(postgresql_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as client:
        (table,) = client.execute(sqlalchemy.text("select table_name from patchloom_heads")).scalars()
        found = client.execute(sqlalchemy.text(
            f'select image, y, x, "row", height from {table} where "Tumour" > 0.5 order by image, y, x')).all()
    engine.dispose()
    expected = [(row["image"], row["y"], row["x"], row["row"], row["height"])
                for row in run.patches(where="Tumour > 0.5")]
    assert 0 < len(expected) < len(run.patches())
    assert [tuple(row) for row in found] == expected


def both(batch: np.ndarray) -> dict[str, np.ndarray]:
    return {"map": batch.astype(np.float32), "mean": batch.mean((1, 2, 3))}


def only_map(batch: np.ndarray) -> np.ndarray:
    return batch.astype(np.float32)


def map_at(location: str) -> np.ndarray:
    """What another program reads that only knows what the store says."""
    file, ending, member = location.rpartition(".zarr.zip/")
    opened: Any = ZipStore(f"{file}.zarr.zip", mode="r") if ending else location
    group = zarr.open_group(opened, path=member if ending else "", mode="r")
    found: np.ndarray = group["0"][...]
    return found


@pytest.mark.parametrize("packed", [0, 4 << 20])
def test_maps_stay_in_the_folder_and_the_store_holds_where(
    packed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "PACKED_BYTES", packed)
    source = images(2)
    runs = [patchloom.predict(source, both, tmp_path / name, patch=32, store=store, model_id="both")
            for name, store in (("here", None), ("there", f"json:{tmp_path / 'json'}"))]
    assert (tmp_path / "there" / "dense" / "map").is_dir()
    here, there = map(all_of, runs)
    same(there, here)
    document = json.loads((tmp_path / "json" / "a" / "0.tif.json").read_text())
    np.testing.assert_array_equal(map_at(document["maps"]["map"]), runs[1]["a/0.tif"].stitched())
    source["a/0.tif"] = source["a/0.tif"][:60, :60]
    run = patchloom.predict(source, both, tmp_path / "there", patch=32, model_id="both")
    document = json.loads((tmp_path / "json" / "a" / "0.tif.json").read_text())
    np.testing.assert_array_equal(map_at(document["maps"]["map"]), run["a/0.tif"].stitched())
    assert "prediction" in runs[0].patches().columns


def test_a_store_holds_where_the_maps_of_a_run_without_rows_are(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'maps.db'}"
    told: list[Event] = []
    run = patchloom.predict(images(2), only_map, tmp_path / "run", patch=32, store=url, model_id="map",
                            callbacks=[told.append])  # fmt: skip
    assert any("the store holds where" in event.message for event in told if isinstance(event, Warned))
    asked = "select image, location from patchloom_maps order by image"
    with contextlib.closing(sqlite3.connect(tmp_path / "maps.db")) as client:
        for image, location in client.execute(asked):
            np.testing.assert_array_equal(map_at(location), run[image].stitched())
        assert client.execute("select count(*) from patchloom_maps").fetchone() == (2,)
    assert run.copy(f"json:{tmp_path / 'json'}") == sum(len(run[image]) for image in run) > 0
    assert run.copy(f"json:{tmp_path / 'json'}") == 0
    copied = json.loads((tmp_path / "json" / "a" / "1.tif.json").read_text())
    np.testing.assert_array_equal(map_at(next(iter(copied["maps"].values()))), run["a/1.tif"].stitched())
    patchloom.predict(images(1), only_map, tmp_path / "run", patch=32, store=url, model_id="map", overwrite=True)
    with contextlib.closing(sqlite3.connect(tmp_path / "maps.db")) as client:
        assert [image for image, _ in client.execute(asked)] == ["a/0.tif"]


def test_the_command_line_predicts_into_a_store_and_copies(
    redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", images(1)["a/0.tif"])
    options = ["predict", "a.npy", "-m", "tests.stores.test_runs:scores", "-o", "run", "--patch", "32"]
    assert main([*options, "--store", redis_url]) == 0
    assert main(["resume", "run", "--store", redis_url]) == 0
    monkeypatch.setenv("PATCHLOOM_STORE", redis_url)
    assert main(["patch", "run", "a.npy", "0", "0", "--json"]) == 0
    assert main(["query", "run", "--head", "scores", "--json"]) == 0
    assert main(["verify", "run"]) == 0
    assert main(["copy", "run", "--to", "json:predictions/"]) == 0
    printed = capsys.readouterr()
    assert "copied to json:" in printed.err
    assert PASSWORD not in printed.err + printed.out
    document = (tmp_path / "predictions" / "a.npy.json").read_text()
    assert re.search(r'\{"y": 0, "x": 0, "row": 0, "col": 0, "height": 32, "width": 32, "predictions": \{', document)
    assert main(["export", "run", "out.csv", "--head", "scores"]) == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + len(patchloom.open("run")["a.npy"])
