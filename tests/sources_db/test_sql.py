"""Rows of SQLite, PostgreSQL and MariaDB as images."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy
from PIL import Image

from patchloom.errors import ImageError, SourceError, SourceNotFoundError, UnreadableImageError, UsageError
from patchloom.images.source import Source
from patchloom.images.sources import patience, sql_rows
from patchloom.images.sources.database import database
from patchloom.images.sources.sql import SQLSource
from patchloom.images.sources.stored import fetch_ahead
from tests.sources_db.photographs import TABLE, encoded, execute, fill, pixels, whole

ROWS = [(n, encoded(n)) for n in (3, 11, 2, 40)]
QUERY = f"select id, picture from {TABLE}"


def names(source: Source) -> list[str]:
    return [entry.name for entry in source]


def test_rows_come_in_the_order_of_their_key_with_the_pixels_of_their_blobs(url: str) -> None:
    source = SQLSource(fill(url, ROWS), QUERY)
    assert names(source) == ["2", "3", "11", "40"]
    for entry in source:
        np.testing.assert_array_equal(whole(entry), pixels(int(entry.name)))


def test_a_table_gives_the_same_as_a_query(url: str) -> None:
    fill(url, ROWS)
    table = SQLSource(url, table=TABLE, image="picture")
    query = SQLSource(url, QUERY, key="id", image="picture")
    assert [(e.name, e.identity) for e in table] == [(e.name, e.identity) for e in query]


def test_columns_are_found_whatever_their_case(url: str) -> None:
    fill(url, ROWS)
    assert len(names(SQLSource(url, table=TABLE, key="ID", image="Picture"))) == 4


def test_pages_join_without_loss_or_repetition(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_rows, "PAGE", 7)
    fill(url, [(n * 3, b"x") for n in range(50)])
    assert names(SQLSource(url, QUERY)) == [str(n * 3) for n in range(50)]
    fill(url, [(n, b"x") for n in range(49)])
    assert names(SQLSource(url, QUERY)) == [str(n) for n in range(49)]


def test_keys_may_be_texts_in_any_order_of_the_database(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_rows, "PAGE", 3)
    keys = ["b", "A", "a1", "ß", "Z", "é", "10", "9", "a b", "x/y.png"]
    fill(url, [(key, encoded(i)) for i, key in enumerate(keys)], key="varchar(40) primary key")
    source = SQLSource(url, QUERY)
    assert sorted(names(source)) == sorted(keys)
    found = {entry.name: whole(entry) for entry in source}
    np.testing.assert_array_equal(found["é"], pixels(5))


def test_identities_change_with_the_image_and_only_then(url: str) -> None:
    source = SQLSource(fill(url, ROWS), QUERY)
    before = {entry.name: entry.identity for entry in source}
    execute(url, f"update {TABLE} set picture = :data where id = 11", data=encoded(12))
    after = {entry.name: entry.identity for entry in SQLSource(url, QUERY)}
    assert {name for name in before if before[name] != after[name]} == {"11"}


def test_a_query_may_have_comments_colons_percents_and_a_semicolon(url: str) -> None:
    fill(url, ROWS)
    query = f"select id, picture, ':a %s %% ::x' as note from {TABLE} where 7 % 4 = 3 and id <> 3; -- '; :not"
    with pytest.raises(SourceError):  # a semicolon in the middle is no end
        names(SQLSource(url, query))
    assert names(SQLSource(url, query.replace(";", " ", 1))) == ["2", "11", "40"]
    assert names(SQLSource(url, QUERY + " ; ")) == ["2", "3", "11", "40"]


def test_an_image_that_is_null_or_damaged_costs_that_image_only(url: str) -> None:
    source = SQLSource(fill(url, [*ROWS, (5, None), (6, b""), (7, b"no image"), (8, encoded(8)[:50])]), QUERY)
    failed = {}
    for entry in source:
        try:
            whole(entry)
        except ImageError as error:
            failed[entry.name] = error.message
    assert list(failed) == ["5", "6", "7", "8"]
    assert all(message.startswith(f"{name} (id of the query): ") for name, message in failed.items())
    assert "NULL" in failed["5"]


def test_fetching_ahead_gives_the_same_images_in_a_hundredth_of_the_queries(url: str) -> None:
    source = SQLSource(fill(url, [(n, encoded(n)) for n in range(300)]), QUERY)
    queries: list[str] = []
    engine = database(url).engine

    def count(connection, cursor, statement, *rest) -> None:
        if " IN (" in statement and "picture" in statement:
            queries.append(statement)

    sqlalchemy.event.listen(engine, "before_cursor_execute", count)
    try:
        for entry in fetch_ahead(source):
            np.testing.assert_array_equal(whole(entry), pixels(int(entry.name)))
    finally:
        sqlalchemy.event.remove(engine, "before_cursor_execute", count)
    assert 1 <= len(queries) <= 10


def test_entries_open_in_another_process_or_thread(url: str) -> None:
    source = SQLSource(fill(url, ROWS), QUERY)
    copy = pickle.loads(pickle.dumps(list(source)))
    np.testing.assert_array_equal(whole(copy[2]), pixels(11))
    assert names(pickle.loads(pickle.dumps(source))) == names(source)


def test_a_row_that_is_gone_is_an_error_of_its_image(url: str) -> None:
    entries = list(SQLSource(fill(url, ROWS), QUERY))
    execute(url, f"delete from {TABLE} where id = 3")
    with pytest.raises(UnreadableImageError, match=r"3 .*the row is gone"):
        entries[1].open()


def test_a_source_is_rebuilt_from_its_spec(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHLOOM_SOURCE", url)
    source = SQLSource(fill(url, ROWS), QUERY, root="/data")
    spec = dict(source.spec())
    assert spec.pop("kind") == "sql"
    assert names(SQLSource(**spec)) == names(source)


@pytest.mark.parametrize(("key", "rows", "message"), [
    ("integer", [(1, b"a"), (2, b"b"), (1, b"c")], "1 is there more than once"),
    ("integer", [(1, b"a"), (None, b"b")], "is NULL"),
    ("integer", [], "no rows"),
])  # fmt: skip
def test_keys_that_name_no_images_are_refused(url: str, key: str, rows: list, message: str) -> None:
    fill(url, rows, key=key)
    with pytest.raises(SourceError, match=message):
        names(SQLSource(url, QUERY))
    with pytest.raises(SourceError, match=message):
        names(SQLSource(url, table=TABLE, key="id", image="picture"))


@pytest.mark.parametrize(("arguments", "message"), [
    ({"table": "nope"}, "there is no table 'nope'"),
    ({"table": 'photos"; drop table photos; --'}, "there is no table"),
    ({"table": "no.photos"}, "there is no table"),
    ({"table": TABLE, "key": "nope", "image": "picture"}, "no column 'nope'"),
    ({"table": TABLE, "key": 'id"; drop table photos; --', "image": "picture"}, "no column"),
    ({"table": TABLE, "image": "nope"}, "no column 'nope'"),
    ({"table": TABLE}, "which column is the image"),
    ({"query": QUERY, "key": "nope"}, "no column 'nope'"),
    ({"query": "select id from photos"}, "which column is the image"),
    ({"query": "select nope, picture from photos"}, "nope"),
    ({"query": "select from where"}, "syntax|SQL"),
    ({"query": "drop table photos"}, "syntax|SQL"),
])  # fmt: skip
def test_what_the_database_does_not_have_is_an_error_and_harms_nothing(url: str, arguments, message: str) -> None:
    fill(url, ROWS)
    with pytest.raises(SourceError, match=message) as caught:
        names(SQLSource(url, **arguments))
    assert "\n" not in caught.value.message
    assert execute(url, f"select count(*) from {TABLE}")[0][0] == 4


def test_either_a_query_or_a_table_is_needed(sqlite_url: str) -> None:
    with pytest.raises(UsageError, match="either"):
        SQLSource(sqlite_url)
    with pytest.raises(UsageError, match="either"):
        SQLSource(sqlite_url, QUERY, table=TABLE)


def test_keys_of_several_types_are_refused(sqlite_url: str) -> None:
    fill(sqlite_url, [(1, b"a"), ("1", b"b")], key="blob")
    with pytest.raises(SourceError, match="keys int and str are mixed"):
        names(SQLSource(sqlite_url, QUERY))


def test_a_database_that_is_not_there_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="no such database"):
        names(SQLSource(f"sqlite:///{tmp_path}/no.db", QUERY))
    assert not (tmp_path / "no.db").exists()
    (tmp_path / "text.db").write_text("hello " * 1000)
    with pytest.raises(SourceError, match="not a database"):
        names(SQLSource(f"sqlite:///{tmp_path}/text.db", QUERY))


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_a_server_that_is_not_there_is_an_error_within_seconds_that_hides_the_password(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "FIRST", 0.3)
    with pytest.raises(SourceError, match=r"(?i)connect") as caught:
        names(SQLSource(f"{scheme}://me:s3cret@127.0.0.1:1/lab", QUERY))
    assert "s3cret" not in str(caught.value) and "start the server" in caught.value.hint


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_wrong_password_is_an_error_that_hides_it(request: pytest.FixtureRequest, kind: str) -> None:
    good = sqlalchemy.make_url(request.getfixturevalue(f"{kind}_url"))
    bad = good.set(username="nobody_known", password="s3cret").render_as_string(hide_password=False)
    with pytest.raises(SourceError) as caught:
        names(SQLSource(bad, QUERY))
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_password_is_in_nothing_that_is_shown_or_kept() -> None:
    for url in ("postgresql://me:s3cret@h/db", "mysql://me:s3cret@h/db?ssl_password=s3cret&charset=utf8mb4",
                "postgresql://h/db?user=me&password=s3cret", "postgresql://me:s%33cret@h/db"):
        source = SQLSource(url, QUERY)
        assert "cret" not in f"{source!r} {source} {source.spec()}"


def test_the_password_comes_again_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    whole_url = "postgresql://me:s3cret@h/db"
    kept = SQLSource(whole_url, QUERY).spec()["url"]
    monkeypatch.setenv("PATCHLOOM_SOURCE", whole_url)
    assert SQLSource(kept, QUERY).url == whole_url
    assert SQLSource("postgresql://me@other/db", QUERY).url == "postgresql://me@other/db"
    assert SQLSource("postgresql://me:own@h/db", QUERY).url == "postgresql://me:own@h/db"


@pytest.mark.parametrize("url", ["postgresql:/x", "sqlite://", "://", "postgresql://h:port/db"])
def test_what_is_no_url_is_an_error(url: str) -> None:
    with pytest.raises(SourceError):
        names(SQLSource(url, QUERY))


class TestPaths:
    """Rows that hold paths."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "images"
        folder.mkdir()
        for n in (1, 2):
            Image.fromarray(pixels(n)).save(folder / f"{n}.png")
        Image.fromarray(pixels(9)).save(tmp_path / "secret.png")
        return folder

    def test_paths_are_opened_and_told_apart_from_blobs_row_by_row(self, sqlite_url: str, folder: Path) -> None:
        fill(sqlite_url, [(1, str(folder / "1.png")), (2, "images/2.png"), (3, encoded(3))])
        for entry in SQLSource(sqlite_url, QUERY):
            np.testing.assert_array_equal(whole(entry), pixels(int(entry.name)))

    def test_a_text_column_holds_paths(self, url: str, folder: Path) -> None:
        fill(url, [(1, "1.png"), (2, f"file://{folder}/2.png"), (4, None), (5, "nope.png")], image="varchar(300)")
        found, failed = {}, []
        for entry in SQLSource(url, QUERY, root=str(folder)):
            try:
                found[entry.name] = whole(entry)
            except ImageError:
                failed.append(entry.name)
        assert failed == ["4", "5"]
        np.testing.assert_array_equal(found["2"], pixels(2))

    def test_the_identity_of_a_path_is_that_of_its_file(self, sqlite_url: str, folder: Path) -> None:
        fill(sqlite_url, [(1, "images/1.png")])
        (before,) = SQLSource(sqlite_url, QUERY)
        os.utime(folder / "1.png", ns=(1, 1))
        (after,) = SQLSource(sqlite_url, QUERY)
        assert before.identity != after.identity

    @pytest.mark.parametrize("path", ["../secret.png", "a/../../secret.png", "{folder}/../secret.png", "link.png",
                                      "/etc/passwd", "file:///etc/passwd", "https://host/a.png", "", "a\0b"])
    def test_a_path_outside_of_the_root_costs_that_image_only(self, sqlite_url: str, folder: Path, path: str) -> None:
        (folder / "link.png").symlink_to(folder.parent / "secret.png")
        fill(sqlite_url, [(1, "1.png"), (2, path.format(folder=folder))])
        good, bad = SQLSource(sqlite_url, QUERY, root=str(folder))
        np.testing.assert_array_equal(whole(good), pixels(1))
        with pytest.raises(UnreadableImageError, match=r"2: .*(outside|no path)"):
            bad.open()
