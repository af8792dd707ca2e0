"""From image names to units: one SQLite file derived from the journal, rebuilt when it is missing or does not fit."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchloom.errors import OutputError
from patchloom.geometry.region import Region
from patchloom.objects import AnyPath
from patchloom.predictions.journal import Record, logs, read_log
from patchloom.predictions.layout import member_name
from patchloom.predictions.leases import live_shards
from patchloom.predictions.records import begun

__all__ = ["ImageRow", "Index", "Part"]

RETRIES = 2
"""How often logs are listed if they vanish while they are read."""
VERSION = 4
SCHEMA = """
create table log (name text primary key, offset integer not null);
create table image (
    name text primary key, state text not null default 'left', identity text, info text,
    patches integer not null default 0, patches_done integer not null default 0, bad_patches integer not null default 0,
    kind text, message text, patches_skipped integer not null default 0
) without rowid;
create index image_state on image (state, name);
create table part (
    image text not null, loops text not null, unit text not null, patches integer not null, offset integer not null,
    skips integer not null, skipped text,
    a0 integer, a1 integer, b0 integer, b1 integer, c0 integer, c1 integer,
    primary key (image, loops, a0, b0, c0)
) without rowid;
create table file (path text primary key, size integer not null, crc integer not null, image text) without rowid;
create table unit (name text primary key) without rowid;
create table dealt (number integer primary key, record text not null);
"""

PART = ", ".join("?" * 13)


@dataclass(frozen=True)
class ImageRow:
    """What the journal knows of one image; `state` is done, partial, left or failed; what is skipped is done."""

    name: str
    state: str
    identity: str | None
    info: Mapping[str, Any] | None
    patches: int
    patches_done: int
    bad_patches: int
    kind: str | None
    message: str | None
    patches_skipped: int = 0


@dataclass(frozen=True)
class Part:
    """Committed block of one plane: in which unit, and where its rows begin in the unit's tables.

    `skipped` says which of its patches were skipped, as `predictions.skipped` packs them; None where none was.
    """

    image: str
    loops: tuple[int, ...]
    unit: str
    patches: int
    offset: int
    region: Region
    skipped: str | None = None


class Index:
    """The journal, arranged for lookups.

    Parameters
    ----------
    folder
        Of the run. Where it cannot be written the index is built in memory; that of a run in object storage is in the
        user's cache (``$XDG_CACHE_HOME/patchloom``, else ``~/.cache/patchloom``).
    private
        Have it in a temporary file: for one of several machines that share a folder, at which SQLite is not safe. So it
        is of each run that shards are writing.
    """

    def __init__(self, folder: AnyPath, *, private: bool = False) -> None:
        self._journal = folder / "journal"
        self._lock = threading.RLock()
        private = private or (isinstance(folder, Path) and bool(live_shards(folder)))
        self._path = Path(tempfile.gettempdir()) if private else _file_of(folder)
        self._database = _created(_connected("")) if private else self._connect(self._path)
        self.refresh()

    def refresh(self) -> None:
        """Take up what was journalled since; rebuild if the logs are not those that were read before."""
        for _ in range(RETRIES):
            with suppress(FileNotFoundError):  # a writer put the logs into one meanwhile
                self._refresh()
                return
        self._refresh()

    def _refresh(self) -> None:
        with self._lock, self._transaction():
            found = logs(self._journal)
            sizes = {path.name: size for path, size in found.items()}
            read = dict(self._database.execute("select name, offset from log"))
            if any(sizes.get(name, -1) < offset for name, offset in read.items()):
                for table in ("log", "image", "part", "file", "unit", "dealt"):
                    self._database.execute(f"delete from {table}")
                read = {}
            for path, size in found.items():
                if size > read.get(path.name, 0):
                    self._take_log(path, read.get(path.name, 0))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._database.execute("begin immediate")
            yield
            self._database.execute("commit")
        except BaseException as error:
            if self._database.in_transaction:
                self._database.execute("rollback")
            if isinstance(error, sqlite3.OperationalError):
                raise OutputError(
                    f"{self._path} cannot be written: {error}",
                    "make room, then `patchloom resume`",
                ) from error
            raise

    def close(self) -> None:
        """Give the file handle back."""
        self._database.close()

    def counts(self, only: Callable[[str], bool] | None = None) -> dict[str, int]:
        """Number of images in each state: of all, or of those whose names are wanted."""
        condition = ""
        with self._lock:
            if only is not None:
                self._database.create_function("wanted", 1, only)
                condition = "where wanted(name)"
            rows = self._query(f"select state, count(*) from image {condition} group by state")
        return {"done": 0, "partial": 0, "left": 0, "failed": 0} | dict(rows)

    def predicted(self) -> int:
        """Number of images that have predictions."""
        return int(self._query("select count(*) from image where state = 'done' or patches_done > 0")[0][0])

    def image(self, name: str) -> ImageRow | None:
        """One image, None if the run does not know it."""
        rows = self._query(f"select {', '.join(ImageRow.__annotations__)} from image where name = ?", (name,))
        return next((_image_row(row) for row in rows), None)

    def known(self, names: Sequence[str]) -> dict[str, ImageRow]:
        """Those of some images (1000 at most) that the run knows."""
        marks = ", ".join("?" * len(names))
        rows = self._query(f"select {', '.join(ImageRow.__annotations__)} from image where name in ({marks})", names)
        return {row[0]: _image_row(row) for row in rows}

    def unknown(self, names: list[str]) -> list[str]:
        """Those of `names` (1000 at most) that the run does not know."""
        marks = ", ".join("?" * len(names))
        known = {row[0] for row in self._query(f"select name from image where name in ({marks})", names)}
        return [name for name in names if name not in known]

    def images(self, *states: str) -> Iterator[ImageRow]:
        """Images in order of their names, a page at a time; all of them, or those in some states."""
        if len(states) > 1:  # SQLite would sort all of them for each page
            yield from heapq.merge(*(self.images(state) for state in states), key=lambda row: row.name)
            return
        condition, after = "state = ?" if states else "1", ""
        last: tuple[str, ...] = ()
        while True:
            rows = self._query(
                f"select {', '.join(ImageRow.__annotations__)} from image where {condition} {after} "
                "order by name limit 1000",
                (*states, *last),
            )
            yield from map(_image_row, rows)
            if len(rows) < 1000:
                return
            after, last = "and name > ?", (rows[-1][0],)

    def parts(self, image: str, loops: Sequence[int] | None = None, region: Region | None = None) -> list[Part]:
        """Committed parts of an image: all, or those of one plane, or those that share pixels with `region`."""
        sql, values = "select * from part where image = ?", [image]
        if loops is not None:
            sql, values = f"{sql} and loops = ?", [*values, json.dumps(list(loops))]
        if region is not None:
            for column, a, b in zip("abc", region.start, region.stop, strict=False):
                sql, values = f"{sql} and {column}0 < ? and {column}1 > ?", [*values, b, a]  # type: ignore[list-item]
        return [_part(row) for row in self._query(sql, values)]

    def places(self, image: str) -> frozenset[tuple[tuple[int, ...], Region]]:
        """Where committed parts of an image are: indices on its loop axes, and pixels of the plane."""
        return frozenset((part.loops, part.region) for part in self.parts(image))

    def units(self) -> list[str]:
        """Names of the units that hold any image's current predictions."""
        return [row[0] for row in self._query("select distinct unit from part order by unit")]

    def unit_parts(self) -> Iterator[tuple[str, list[Part]]]:
        """Each unit with its current parts, in the order in which its tables have them."""
        names = self.units()
        for first in range(0, len(names), 1000):
            here = names[first : first + 1000]
            found = self._query("select * from part where unit >= ? and unit <= ? order by unit, offset, image, loops",
                                (here[0], here[-1]))  # fmt: skip
            for unit, rows in itertools.groupby(found, key=lambda row: row[2]):
                yield unit, [_part(row) for row in rows]

    def images_of(self, unit: str) -> set[str]:
        """Images whose current predictions are in a unit."""
        return {row[0] for row in self._query("select distinct image from part where unit = ?", (unit,))}

    def superseded(self) -> dict[str, set[str]]:
        """For units that hold rows of images that were predicted again elsewhere: the images that still count."""
        mixed = self._query("select name from unit where name in (select unit from part)")
        return {row[0]: self.images_of(row[0]) for row in mixed}

    def dealt(self) -> Record | None:
        """How the run was dealt out to shards the last time; None if it never was."""
        rows = self._query("select record from dealt order by number desc limit 1")
        return json.loads(rows[0][0]) if rows else None

    def knows_file(self, path: str) -> bool:
        """Whether a file, named relative to the run, was committed."""
        return bool(self._query("select 1 from file where path = ?", (path,)))

    def files(self) -> Iterator[tuple[str, int, int, str | None]]:
        """All committed files: path relative to the run, size, crc32c, and an image that it belongs to."""
        last = ""
        while rows := self._query(
            "select path, size, crc, image from file where path > ? order by path limit 1000", (last,)
        ):
            yield from rows
            last = rows[-1][0]

    def _query(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, closing(self._database.execute(sql, values)) as cursor:
            return cursor.fetchall()

    def _connect(self, path: Path) -> sqlite3.Connection:
        for _ in range(2):
            try:
                return _opened(path)
            except sqlite3.OperationalError:
                break  # no permission, no room: an index in memory serves as well
            except sqlite3.DatabaseError:
                _remove(path)  # not a database any more
        return _created(_connected(":memory:"))

    def _take_log(self, path: AnyPath, offset: int) -> None:
        end = offset
        for after, record in read_log(path, offset, strict=False):
            self._take(record)
            end = after
        if end != offset:
            self._database.execute("insert or replace into log values (?, ?)", (path.name, end))

    def _take(self, record: Record) -> None:
        take = {
            "listed": self._take_listed,
            "image": self._take_image,
            "begun": self._take_begun,
            "unit": self._take_unit,
            "complete": self._take_complete,
            "completed": self._take_completed,
            "failed": self._take_failed,
            "forgotten": self._take_forgotten,
            "dealt": self._take_dealt,
        }
        if record["is"] in take:  # what a later version adds is not for this one
            take[record["is"]](record)

    def _take_listed(self, record: Record) -> None:
        self._database.executemany("insert or ignore into image (name) values (?)", ((n,) for n in record["images"]))

    def _take_image(self, record: Record) -> None:
        self._begin([(record["image"], record["identity"], record["info"], record["patches"])])
        self._take_files(record["files"], record["image"])

    def _take_begun(self, record: Record) -> None:
        self._begin(begun(record))

    def _begin(self, images: Iterable[tuple[str, str, Any, int]]) -> None:
        texts: dict[int, str] = {}  # images of one record share descriptions
        self._database.executemany(
            "insert into image (name, identity, info, patches) values (?, ?, ?, ?) on conflict (name) do update set "
            "identity = excluded.identity, info = excluded.info, patches = excluded.patches, kind = null, "
            "message = null, state = case when state = 'done' then 'done' when patches_done > 0 then 'partial' "
            "else 'left' end",
            (
                (name, identity, texts.get(id(info)) or texts.setdefault(id(info), json.dumps(info)), patches)
                for name, identity, info, patches in images
            ),
        )

    def _take_unit(self, record: Record) -> None:
        rows = _part_rows(record)
        self._database.execute("savepoint parts")
        before: list[tuple[int, int] | None] = [None] * len(rows)
        if self._database.executemany(f"insert or ignore into part values ({PART})", rows).rowcount < len(rows):
            self._database.execute("rollback to parts")  # some were committed before, and are again
            before = [self._replaced(row) for row in rows]
        self._database.execute("release parts")
        self._database.executemany(
            "update image set patches_done = patches_done + ?, bad_patches = bad_patches + ?, "
            "patches_skipped = patches_skipped + ?, "
            "state = case when state = 'done' then 'done' else 'partial' end where name = ?",
            (
                (row[3], record["bad"].get(row[0], 0), row[5], row[0])
                if old is None
                else (row[3] - old[0], 0, row[5] - old[1], row[0])
                for row, old in zip(rows, before, strict=True)
            ),
        )
        files, images = record["files"], {row[0] for row in rows}
        if len(images) == 1:
            self._take_files(files, images.pop())
            return
        folders = {member_name(image): image for image in images}
        for file in files:  # of several images, or in the folder of one of them
            self._take_files([file], _owner(file[0], folders))

    def _replaced(self, row: Sequence[Any]) -> tuple[int, int] | None:
        """Insert a part; what an earlier one in its place had, patches and those skipped."""
        image, loops, ranges = row[0], row[1], row[7:]
        old = self._query(
            "select patches, skips from part where image = ? and loops = ? and a0 = ? and b0 = ? and c0 = ?",
            (image, loops, *ranges[0::2]),
        )
        self._database.execute(f"insert or replace into part values ({PART})", row)
        return old[0] if old else None

    def _take_complete(self, record: Record) -> None:
        self._complete([record["image"]])
        self._take_files(record["files"], record["image"])

    def _take_completed(self, record: Record) -> None:
        self._complete(record["images"])

    def _complete(self, images: Iterable[str]) -> None:
        self._database.executemany(
            "update image set state = 'done', kind = null, message = null where name = ?", ((name,) for name in images)
        )

    def _take_failed(self, record: Record) -> None:
        self._database.execute(
            "insert into image (name, state, kind, message) values (?, 'failed', ?, ?) on conflict (name) "
            "do update set state = 'failed', kind = excluded.kind, message = excluded.message",
            (record["image"], record["kind"], record["message"]),
        )

    def _take_forgotten(self, record: Record) -> None:
        name = record["image"]
        # A unit may hold rows of other images, too: it stays, and what is forgotten in it is passed over.
        self._database.execute("insert or ignore into unit select distinct unit from part where image = ?", (name,))
        self._database.execute("delete from part where image = ?", (name,))
        self._database.execute("delete from file where image = ?", (name,))
        self._database.execute(
            "update image set state = 'left', patches_done = 0, bad_patches = 0, patches_skipped = 0, kind = null, "
            "message = null where name = ?",
            (name,),
        )

    def _take_dealt(self, record: Record) -> None:
        values = (record["number"], json.dumps(record))
        self._database.execute("insert or replace into dealt values (?, ?)", values)

    def _take_files(self, files: Sequence[Sequence[Any]], image: str | None) -> None:
        self._database.executemany(
            "insert or replace into file values (?, ?, ?, ?)", ((path, size, crc, image) for path, size, crc in files)
        )


def _file_of(folder: AnyPath) -> Path:
    """Where the index of a run is kept. Logs of runs that follow each other under one URL have different names."""
    if isinstance(folder, Path):
        return folder / "index.sqlite"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "patchloom"
    where = f"{os.environ.get('AWS_ENDPOINT_URL', '')} {folder}"
    kept = cache / hashlib.sha256(where.encode()).hexdigest()[:32] / "index.sqlite"
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return kept


def _part_rows(record: Record) -> list[tuple[Any, ...]]:
    """Parts of a unit as rows of their table."""
    marks = {number: (skips, text) for number, skips, text in record.get("skipped", ())}
    rows = []
    for number, (image, loops, start, shape, patches, offset) in enumerate(record["parts"]):
        ranges = [n for a, s in zip(start, shape, strict=True) for n in (a, a + s)]
        ranges += [-1, -1] * (3 - len(start))  # a plane has two axes
        key = json.dumps(loops) if loops else "[]"
        rows.append((image, key, record["unit"], patches, offset, *marks.get(number, (0, None)), *ranges))
    return rows


def _connected(name: str) -> sqlite3.Connection:
    """A file; or ``:memory:``; or, without a name, a temporary file that is gone when it is closed, also by a crash."""
    return sqlite3.connect(name, timeout=60, check_same_thread=False)


def _opened(path: Path) -> sqlite3.Connection:
    database = _connected(str(path))
    try:
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = off")  # derived: a crash costs a rebuild
        if database.execute("pragma quick_check").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("damaged")
        return _created(database)
    except BaseException:
        database.close()
        raise


def _created(database: sqlite3.Connection) -> sqlite3.Connection:
    """The database with its tables, made anew where they are of another version; several processes may try at once."""
    database.isolation_level = None
    database.execute("begin immediate")
    if database.execute("pragma user_version").fetchone()[0] != VERSION:
        for (name,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
            database.execute(f"drop table {name}")
        for statement in SCHEMA.split(";"):
            database.execute(statement)
        database.execute(f"pragma user_version = {VERSION}")
    database.execute("commit")
    return database


def _remove(path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)


def _owner(path: str, folders: Mapping[str, str]) -> str | None:
    """Image in whose map's folder ``dense/<head>/<folder>/…`` a file is; a folder may be in that of another image."""
    above = path.split("/")[2:-1]
    names = ("/".join(above[:count]) for count in range(len(above), 0, -1))
    return next((folders[name] for name in names if name in folders), None)


def _image_row(row: Sequence[Any]) -> ImageRow:
    name, state, identity, info, *rest = row
    return ImageRow(name, state, identity, json.loads(info) if info else None, *rest)


def _part(row: Sequence[Any]) -> Part:
    image, loops, unit, patches, offset, _, skipped, *ranges = row
    ranges = [n for n in ranges if n >= 0]
    region = Region.between(ranges[0::2], ranges[1::2])
    return Part(image, tuple(json.loads(loops)), unit, patches, offset, region, skipped)
