"""Rows stream: memory does not grow with their number, and a server that goes away for a while is waited for."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import sqlalchemy

from patchloom.errors import SourceError
from patchloom.images.source import Entry
from patchloom.images.sources import patience, sql_rows, stored
from patchloom.images.sources.database import database
from patchloom.images.sources.patience import Patience
from patchloom.images.sources.sql import SQLSource
from patchloom.images.sources.stored import OpenStored, fetch_ahead
from tests.sources_db.photographs import TABLE, encoded, execute, fill, pixels, whole

QUERY = f"select id, picture from {TABLE}"


def peak(work: Callable[[], Any]) -> int:
    """Most Python memory that `work` held at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def numbered(url: str, rows: int) -> SQLSource:
    """Rows made within the database."""
    fill(url, [])
    execute(url, f"with recursive n(i) as (select 1 union all select i + 1 from n where i < {rows}) "
                 f"insert into {TABLE} select i, x'00' from n")
    return SQLSource(url, QUERY)


def test_thirty_times_the_rows_take_the_same_memory(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_rows, "SLOW", 1e9)

    def count(source: SQLSource) -> int:
        return sum(1 for _ in source)

    few = numbered(sqlite_url, 2000)
    assert count(few) == 2000  # what is loaded once is not counted
    small = peak(lambda: count(few))
    source = numbered(sqlite_url, 60_000)
    large = peak(lambda: count(source))
    assert count(source) == 60_000
    assert large < 1.5 * small + 100_000


def test_enumerating_fetches_no_image(url: str) -> None:
    source = SQLSource(fill(url, [(n, b"\0" * 1_000_000) for n in range(20)]), QUERY)
    assert len(list(source)) == 20
    assert peak(lambda: list(source)) < 1_000_000


class Counting:
    """Encoded images in memory, that remember how many of them are out."""

    def __init__(self, size: int) -> None:
        self.size, self.asked = size, list[int]()
        self.lock = threading.Lock()

    def fetch(self, keys: Sequence[Any]) -> dict[Any, bytes]:
        with self.lock:
            self.asked += keys
        return dict.fromkeys(keys, b"x" * self.size)

    def entries(self, count: int) -> Iterator[Entry]:
        return (Entry(str(n), OpenStored(self, n, str(n), self.size), "") for n in range(count))


@pytest.mark.parametrize("size", [10, 100_000, stored.BYTES])
def test_what_is_fetched_ahead_is_bounded_in_bytes(size: int) -> None:
    blobs = Counting(size)
    entries = fetch_ahead(blobs.entries(1000))
    next(entries)
    assert len(blobs.asked) <= (stored.GROUPS + 1) * stored.ROWS
    assert len(blobs.asked) * size <= (stored.GROUPS + 1) * stored.BYTES
    entries.close()  # type: ignore[attr-defined]


def test_images_too_large_to_fetch_ahead_are_fetched_when_they_are_opened() -> None:
    blobs = Counting(stored.BYTES + 1)
    entries = list(fetch_ahead(blobs.entries(5)))
    assert blobs.asked == []
    with pytest.raises(ValueError, match="no reader"):
        entries[3].open()
    assert blobs.asked == [3]


def test_entries_keep_their_order_and_each_is_fetched_once() -> None:
    blobs = Counting(100)
    assert [entry.name for entry in fetch_ahead(blobs.entries(1000))] == [str(n) for n in range(1000)]
    assert sorted(blobs.asked) == list(range(1000))


def test_files_among_the_rows_are_passed_on(tmp_path) -> None:
    blobs = Counting(10)
    mixed = [*blobs.entries(3), Entry("file", lambda: None, "x"), *blobs.entries(2)]  # type: ignore[arg-type, return-value]
    assert [entry.name for entry in fetch_ahead(mixed)] == ["0", "1", "2", "file", "0", "1"]


def test_a_server_that_is_away_is_waited_for_and_then_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST", 0.05)
    monkeypatch.setattr(patience, "LATER", 1.0)
    tries = 0

    def work() -> int:
        nonlocal tries
        tries += 1
        if tries % 4:
            raise ConnectionError
        return tries

    wait = Patience()
    with pytest.raises(ConnectionError):
        wait(work, lambda error: True)
    tries = 3
    assert wait(work, lambda error: True) == 4
    assert wait(work, lambda error: True) == 8
    with pytest.raises(ConnectionError):
        wait(work, lambda error: False)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_connections_that_the_server_ends_are_made_again(
    request: pytest.FixtureRequest, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_rows, "PAGE", 10)
    url = request.getfixturevalue(f"{kind}_url")
    source = SQLSource(fill(url, [(n, encoded(n)) for n in range(60)]), QUERY)
    seen = 0
    for entry in source:
        if seen % 7 == 0:
            end_connections(url)
        np.testing.assert_array_equal(whole(entry), pixels(int(entry.name)))
        seen += 1
    assert seen == 60


def end_connections(url: str) -> None:
    """Have the server end all other connections to this database."""
    if url.startswith("postgresql"):
        execute(url, "select pg_terminate_backend(pid) from pg_stat_activity "
                     "where pid <> pg_backend_pid() and datname = current_database()")
        return
    for (number,) in execute(url, "select id from information_schema.processlist "
                                  "where id <> connection_id() and db = database()"):
        try:
            execute(url, f"kill connection {number}")
        except sqlalchemy.exc.OperationalError:
            continue  # gone already


def test_an_error_of_the_query_is_not_waited_for(sqlite_url: str) -> None:
    with pytest.raises(SourceError, match="nope"):
        database(sqlite_url).read(lambda connection: connection.execute(sqlalchemy.text("select nope")))
