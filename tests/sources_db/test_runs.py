"""Runs over databases: resumed without fetching what is done, through restarts, and written back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pymongo
import pytest
import sqlalchemy
import zarr
from zarr.storage import ZipStore

import patchloom
from patchloom.cli import main
from patchloom.errors import OutputError, SourceError, UsageError
from patchloom.images.sources import patience
from patchloom.images.sources.database import database
from patchloom.predictions import layout
from tests.servers import Server
from tests.sources_db.photographs import TABLE, encoded, execute, fill, pixels

QUERY = f"select id, picture from {TABLE}"
WHOLE = {"patch": (24, 32), "classes": ("red", "green", "blue")}


def mean_colour(batch: Any) -> Any:
    return batch.mean((2, 3)).astype("float32")


def brightness(batch: Any) -> Any:
    return batch.mean(1, keepdims=True).astype("float32")


def expected(number: int) -> Any:
    return pixels(number).mean((0, 1)).astype("float32")


@contextmanager
def fetched(url: str) -> Iterator[list[int]]:
    """Keys whose images are fetched meanwhile."""
    keys: list[int] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if " IN (" in statement and "picture" in statement:
            keys.extend(parameters.values() if isinstance(parameters, dict) else parameters)

    engine = database(url).engine
    sqlalchemy.event.listen(engine, "before_cursor_execute", note)
    try:
        yield keys
    finally:
        sqlalchemy.event.remove(engine, "before_cursor_execute", note)


def test_a_run_over_a_database_predicts_every_row(url: str, tmp_path: Path) -> None:
    source = patchloom.SQLSource(fill(url, [(n, encoded(n)) for n in range(30)]), QUERY)
    run = patchloom.predict(source, mean_colour, tmp_path / "run", **WHOLE)
    assert len(run) == 30
    np.testing.assert_allclose(run.patch("17", 0, 0), expected(17), rtol=1e-6)


def test_a_url_is_a_source_with_the_same_words_as_on_the_command_line(url: str, tmp_path: Path) -> None:
    fill(url, [(n, encoded(n)) for n in range(3)])
    run = patchloom.predict(url, mean_colour, tmp_path / "run", table=TABLE, image="picture", **WHOLE)
    assert sorted(run) == ["0", "1", "2"]
    with pytest.raises(UsageError, match="query is for databases"):
        patchloom.predict(str(tmp_path), mean_colour, tmp_path / "other", query=QUERY)


def test_a_resumed_run_fetches_only_what_is_not_done(url: str, tmp_path: Path) -> None:
    rows = [(n, encoded(n) if n % 10 else b"damaged") for n in range(40)]
    source = patchloom.SQLSource(fill(url, rows), QUERY)
    with pytest.warns(UserWarning, match="4 images failed"):
        run = patchloom.predict(source, mean_colour, tmp_path / "run", **WHOLE)
    execute(url, f"update {TABLE} set picture = :data where id = 10", data=encoded(10))
    execute(url, f"update {TABLE} set picture = :data where id = 11", data=encoded(99))
    with fetched(url) as keys, pytest.warns(UserWarning, match="3 images failed"):
        run.resume(model=mean_colour, source=source)
    assert set(keys) == {0, 10, 11, 20, 30}
    np.testing.assert_allclose(run.patch("11", 0, 0), expected(99), rtol=1e-6)
    np.testing.assert_allclose(run.patch("10", 0, 0), expected(10), rtol=1e-6)


def test_mongodb_is_a_source_by_its_url(mongodb_url: str, tmp_path: Path) -> None:
    client: Any = pymongo.MongoClient(mongodb_url)
    client.get_default_database().photos.insert_many([{"_id": n, "jpeg": encoded(n)} for n in range(5)])
    client.close()
    run = patchloom.predict(mongodb_url, mean_colour, tmp_path / "run", table="photos", image="jpeg",
                            query='{"_id": {"$gt": 2}}', **WHOLE)  # fmt: skip
    assert sorted(run) == ["3", "4"]
    with pytest.raises(UsageError, match="JSON"):
        patchloom.predict(mongodb_url, mean_colour, tmp_path / "b", table="photos", image="jpeg", query="select 1")
    with pytest.raises(UsageError, match="which database"):
        patchloom.predict("mongodb://127.0.0.1", mean_colour, tmp_path / "b", image="jpeg", query="{}")


class TestWriteBack:
    def test_an_image_that_is_one_patch_has_one_row_under_the_sources_key(self, url: str, tmp_path: Path) -> None:
        source = patchloom.SQLSource(fill(url, [(n, encoded(n)) for n in range(20)]), QUERY)
        patchloom.predict(source, mean_colour, tmp_path / "run", write_back="labels", **WHOLE)
        rows = execute(url, "select id, red, green, blue from labels order by id")
        assert [row[0] for row in rows] == list(range(20))
        np.testing.assert_allclose([list(row[1:]) for row in rows], [expected(n) for n in range(20)], rtol=1e-6)

    def test_writing_again_replaces(self, url: str, tmp_path: Path) -> None:
        source = patchloom.SQLSource(fill(url, [(n, encoded(n)) for n in range(5)]), QUERY)
        patchloom.predict(source, mean_colour, tmp_path / "a", write_back="labels", **WHOLE)
        execute(url, f"update {TABLE} set picture = :data where id = 3", data=encoded(77))
        patchloom.predict(source, mean_colour, tmp_path / "b", write_back="labels", **WHOLE)
        rows = execute(url, "select id, red from labels order by id")
        assert len(rows) == 5 and rows[3][1] == pytest.approx(float(expected(77)[0]))

    def test_several_patches_have_a_row_each(self, url: str, tmp_path: Path) -> None:
        source = patchloom.SQLSource(fill(url, [(n, encoded(n)) for n in range(3)]), QUERY)
        patchloom.predict(source, mean_colour, tmp_path / "run", patch=(24, 16), write_back="labels")
        assert execute(url, "select id, y, x from labels order by id, x") == [
            (n, 0, x) for n in range(3) for x in (0, 16)]

    def test_texts_are_keys_and_answers_may_be_one_number(self, url: str, tmp_path: Path) -> None:
        keys = ["a/b.png", "A", "a", "ü"]
        binary = " collate utf8mb4_bin" if url.startswith("mysql") else ""
        fill(url, [(key, encoded(i)) for i, key in enumerate(keys)], key=f"varchar(40){binary} primary key")
        source = patchloom.SQLSource(url, QUERY)
        patchloom.predict(source, mean_colour, tmp_path / "run", patch=(24, 32), reduce="argmax", write_back="labels")
        rows = dict(execute(url, "select id, prediction from labels"))
        assert rows == {key: int(expected(i).argmax()) for i, key in enumerate(keys)}

    def test_maps_are_written_as_their_paths(self, sqlite_url: str, tmp_path: Path) -> None:
        source = patchloom.SQLSource(fill(sqlite_url, [(n, encoded(n)) for n in range(3)]), QUERY)
        run = patchloom.predict(source, brightness, tmp_path / "run", patch=16, write_back="maps")
        rows = execute(sqlite_url, f"select id, {run.heads[0].name} from maps order by id")
        assert [row[0] for row in rows] == [0, 1, 2]
        for number, path in rows:
            assert Path(path).is_relative_to(tmp_path / "run")
            with ZipStore(Path(path).parent, mode="r") as store:  # maps of small images share a file
                array = zarr.open_array(store, path=f"{Path(path).name}/0", mode="r")
                np.testing.assert_array_equal(array[...], run[str(number)].stitched())

    def test_a_large_map_has_a_path_of_its_own(
        self, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(layout, "PACKED_BYTES", 0)
        source = patchloom.SQLSource(fill(sqlite_url, [(n, encoded(n)) for n in range(2)]), QUERY)
        run = patchloom.predict(source, brightness, tmp_path / "run", patch=16, write_back="maps")
        for number, path in execute(sqlite_url, f"select id, {run.heads[0].name} from maps"):
            np.testing.assert_array_equal(zarr.open_array(f"{path}/0", mode="r")[...], run[str(number)].stitched())

    def test_numbers_that_are_not_finite_are_null(self, url: str, tmp_path: Path) -> None:
        source = patchloom.SQLSource(fill(url, [(1, encoded(1))]), QUERY)
        patchloom.predict(source, lambda batch: np.full((len(batch), 2), np.nan, "f4"), tmp_path / "run",
                          patch=(24, 32), classes=("a", "b"), write_back="labels", model_id="nan")  # fmt: skip
        assert execute(url, "select a, b from labels") == [(None, None)]

    def test_a_table_of_something_else_is_left_alone(self, url: str, tmp_path: Path) -> None:
        source = patchloom.SQLSource(fill(url, [(1, encoded(1))]), QUERY)
        with pytest.raises(OutputError, match="has no column 'red'"):
            patchloom.predict(source, mean_colour, tmp_path / "run", write_back=TABLE, **WHOLE)
        assert execute(url, f"select count(*) from {TABLE}") == [(1,)]
        name = 'x"; drop table photos; --'
        patchloom.predict(source, mean_colour, tmp_path / "run", write_back=name, **WHOLE)
        assert execute(url, f"select count(*) from {TABLE}") == [(1,)]

    def test_it_needs_an_sql_source(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="write_back"):
            patchloom.predict({"a": pixels(1)}, mean_colour, tmp_path / "run", write_back="labels", **WHOLE)


class TestCommandLine:
    @pytest.fixture(autouse=True)
    def model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "colours.py").write_text("def mean(batch):\n    return batch.mean((2, 3))\n")

    def call(self, *words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            sys.exit(main(list(words)))
        return int(ended.value.code or 0)

    def test_predict_and_resume_with_a_password_from_the_environment(
        self, postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
    ) -> None:
        fill(postgresql_url, [(n, encoded(n)) for n in range(4)] + [(9, None)])
        given = [postgresql_url, "--query", QUERY, "-m", "colours:mean", "--patch", "24,32", "--save-config", "a.toml"]
        assert self.call("predict", *given, "-o", "run", "--write-back", "labels") == 1
        execute(postgresql_url, f"update {TABLE} set picture = :data where id = 9", data=encoded(9))
        kept = "".join(path.read_text(errors="replace") for path in [*Path("run").rglob("*"), Path("a.toml")]
                       if path.is_file())  # fmt: skip
        password = sqlalchemy.make_url(postgresql_url).password or ""
        assert password and password not in kept
        assert self.call("resume", "run") == 2
        monkeypatch.setenv("PATCHLOOM_SOURCE", postgresql_url)
        assert self.call("resume", "run") == 0
        shown = capfd.readouterr()
        assert password not in shown.out + shown.err
        assert len(execute(postgresql_url, "select * from labels")) == 5

    def test_a_table_by_its_names(self, sqlite_url: str, capfd: Any) -> None:
        fill(sqlite_url, [(n, encoded(n)) for n in range(4)])
        assert self.call("predict", sqlite_url, "--table", TABLE, "--key", "id", "--image", "picture", "-m",
                         "colours:mean", "--patch", "24,32", "-o", "run", "--quiet") == 0  # fmt: skip
        capfd.readouterr()
        assert self.call("patch", "run", "2", "0", "0", "--json") == 0
        assert json.loads(capfd.readouterr().out)["image"] == "2"

    def test_a_person_who_gives_neither_query_nor_table_is_told(self, sqlite_url: str, capfd: Any) -> None:
        assert self.call("predict", sqlite_url, "-m", "colours:mean", "-o", "run") == 2
        assert "either a query or a table" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_server_that_is_restarted_in_the_middle_is_waited_for(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    url, server = request.getfixturevalue(f"{kind}_url"), request.getfixturevalue(f"{kind}_server")
    source = patchloom.SQLSource(fill(url, [(n, encoded(n)) for n in range(600)]), QUERY)
    restarts = Restart(server)
    run = patchloom.predict(source, restarts, tmp_path / "run", model_id="m", write_back="labels", batch=8, **WHOLE)
    assert restarts.done.is_set()
    assert len(run) == 600
    assert execute(url, "select count(*), max(id) from labels") == [(600, 599)]


class Restart:
    """A model in whose first call the server is restarted."""

    def __init__(self, server: Server) -> None:
        self.server, self.done = server, threading.Event()

    def __call__(self, batch: Any) -> Any:
        if not self.done.is_set():
            self.server.stop()
            threading.Timer(0.3, self.start).start()
            self.done.wait(60)
        return mean_colour(batch)

    def start(self) -> None:
        self.server.start()
        self.done.set()


def test_a_server_that_stays_away_stops_the_run_which_goes_on_later(
    postgresql_url: str, postgresql_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LATER", 0.5)
    source = patchloom.SQLSource(fill(postgresql_url, [(n, encoded(n)) for n in range(900)]), QUERY)
    calls: list[int] = []

    def model(batch: Any) -> Any:
        calls.append(len(batch))
        if len(calls) == 2:
            postgresql_server.stop()
        return mean_colour(batch)

    try:
        with pytest.raises(SourceError, match="postgresql"):
            patchloom.predict(source, model, tmp_path / "run", model_id="m", batch=8, **WHOLE)
    finally:
        postgresql_server.start()
    run = patchloom.predict(source, mean_colour, tmp_path / "run", model_id="m", batch=8, **WHOLE)
    assert len(run) == 900 and run.status().left == 0


KILLED = """
import sys, time, patchloom
sys.path.insert(0, {here!r})
from tests.sources_db.test_runs import QUERY, WHOLE, mean_colour
from patchloom.events import UnitCommitted
def slow(batch):
    time.sleep(0.02)
    return mean_colour(batch)
def tell(event):
    if isinstance(event, UnitCommitted):
        print(len(event.images), flush=True)
from patchloom.engine import groups
groups.PATCHES = 40
patchloom.predict(patchloom.SQLSource({url!r}, QUERY), slow, {out!r}, model_id="m", batch=8, threads=2,
                  write_back="labels", callbacks=[tell], **WHOLE)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", pytest.param("mariadb", marks=pytest.mark.slow)])
def test_kill_9_and_resume_lose_and_repeat_nothing(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    fill(url, [(n, encoded(n)) for n in range(240)])
    here = str(Path(__file__).parents[2])
    script = KILLED.format(here=here, url=url, out=str(tmp_path / "run"))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=here, text=True)
    assert process.stdout is not None
    committed = [int(process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    done = patchloom.open(tmp_path / "run").status().done
    assert sum(committed) <= done < 240
    source = patchloom.SQLSource(url, QUERY)
    with fetched(url) as keys:
        run = patchloom.predict(source, mean_colour, tmp_path / "run", model_id="m", write_back="labels", **WHOLE)
    assert len(run) == 240 and len(set(keys)) == 240 - done
    assert execute(url, "select count(*) from labels") == [(240,)]
    for n in (0, 7, 239):
        np.testing.assert_allclose(run.patch(str(n), 0, 0), expected(n), rtol=1e-6)
