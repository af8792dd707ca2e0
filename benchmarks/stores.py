"""Stores of predictions: rows written a second, time of a lookup, scan with a filter; beside a raw memory map.

    python benchmarks/stores.py [--patches 1000000] [--numbers 32] [--store URL …] [--servers redis,postgresql,…]

Without ``--store`` and ``--servers`` the embedded ones are measured: a memory map, the run's folder, JSON, SQLite.
``--servers`` starts those of the tests, each for itself. Each patch is as many float32 numbers as ``--numbers`` says,
each image 4096 patches, each put one image; one process and one thread writes and asks. The scan counts the patches
whose first score is above 0.9: our query through the store, and, for SQL, the database's own. Making the numbers up is
part of no figure.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from patchloom.models.model import Head
from patchloom.predictions.files import flush, write_file
from patchloom.predictions.patches import PatchFiles, UnitRows, encode_unit
from patchloom.predictions.stores.rows import digest
from patchloom.predictions.stores.store import StoredRun, open_store
from patchloom.predictions.stores.url import without_password

SIDE = 64
LOOKUPS = 2000
Row = tuple[str, float, float, float, float, float]


def rows_of(head: Head, image: int) -> UnitRows:
    places = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), -1).reshape(-1, 2)
    values = np.random.default_rng(image).random((len(places), *head.shape), np.float32)
    return UnitRows(f"image-{image:05d}.tif", (), places, places * 256, np.full_like(places, 256), values)


def timed(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def lookups(images: int, get: Callable[[str, tuple[int, int]], Any]) -> tuple[float, float]:
    """Median and 99th percentile in milliseconds of lookups all over the place."""
    rng, seconds = np.random.default_rng(1), []
    for image, row, col in zip(rng.integers(0, images, LOOKUPS), *rng.integers(0, SIDE, (2, LOOKUPS)), strict=True):
        name, key = f"image-{image:05d}.tif", (int(row) * 256, int(col) * 256)
        begin = time.perf_counter()
        assert get(name, key) is not None
        seconds.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(seconds), 1e3 * float(np.percentile(seconds, 99))


def written(head: Head, images: int, put: Callable[[int, UnitRows], Any]) -> float:
    """Seconds that putting all images takes."""
    seconds = 0.0
    for image in range(images):
        rows = rows_of(head, image)
        seconds += timed(lambda: put(image, rows))  # noqa: B023 - called at once
    return seconds


def memory_map(head: Head, images: int, folder: Path) -> Row:
    path, count = folder / "raw", images * SIDE * SIDE
    made = np.memmap(path, np.float32, "w+", shape=(count, *head.shape))

    def put(image: int, rows: UnitRows) -> None:
        made[image * SIDE * SIDE : (image + 1) * SIDE * SIDE] = rows.values

    seconds = written(head, images, put) + timed(made.flush)
    opened = np.memmap(path, np.float32, "r", shape=(count, *head.shape))

    def get(name: str, key: tuple[int, int]) -> Any:
        return opened[int(name[6:11]) * SIDE * SIDE + key[0] // 256 * SIDE + key[1] // 256].copy()

    scan = timed(lambda: int((opened[:, 0] > 0.9).sum()))
    return ("memory map", count / seconds, *lookups(images, get), scan, float("nan"))


def run_folder(head: Head, images: int, folder: Path) -> Row:
    paths = [folder / f"{image:05d}.parquet" for image in range(images)]

    def put(image: int, rows: UnitRows) -> None:
        write_file(paths[image], encode_unit(head, "", 2, [rows]))
        flush({paths[image]})

    seconds = written(head, images, put)
    tables = PatchFiles()

    def get(name: str, key: tuple[int, int]) -> Any:
        return tables.open(paths[int(name[6:11])], head, "", 2).row(name, (), key)

    def scan() -> None:
        from patchloom.predictions.query import PatchTable

        len(PatchTable(paths, head, 2, where="c0 > 0.9"))

    return ("run folder", images * SIDE * SIDE / seconds, *lookups(images, get), timed(scan), float("nan"))


def store(head: Head, images: int, url: str) -> Row:
    run = StoredRun(uuid.uuid4().hex, (head,), 2)
    opened = open_store(url, run)

    def scan() -> None:
        for image in range(images):
            for rows in opened.rows(head.name, f"image-{image:05d}.tif", "YX"):
                int((rows.values[:, 0] > 0.9).sum())

    try:
        seconds = written(head, images, lambda image, rows: opened.put("YX", {head.name: [rows]}))
        found = lookups(images, lambda name, key: opened.get(head.name, name, "YX", key))
        own = timed(lambda: own_scan(opened, run)) if hasattr(opened, "_engine") else float("nan")
        return (without_password(url).partition(":")[0], images * SIDE * SIDE / seconds, *found, timed(scan), own)
    finally:
        opened.delete()
        opened.close()


def own_scan(opened: Any, run: StoredRun) -> int:
    import sqlalchemy as sa

    heads = sa.table("patchloom_heads", sa.column("run"), sa.column("head"), sa.column("table_name"))
    with opened._engine.connect() as client:
        name = client.execute(sa.select(heads.c.table_name).where(
            heads.c.run == run.id, heads.c.head == digest(run.heads[0].name))).scalar_one()
        table = sa.table(name, sa.column("run"), sa.column("c0"))
        count: int = client.execute(sa.select(sa.func.count()).select_from(table).where(
            table.c.run == run.id, table.c.c0 > 0.9)).scalar_one()
        return count


def measured(head: Head, images: int, urls: list[str], servers: list[str]) -> Iterator[Row]:
    if not urls and not servers:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            yield memory_map(head, images, folder)
            yield run_folder(head, images, folder)
            for url in (f"json:{folder / 'json'}", f"sqlite:///{folder / 'predictions.db'}"):
                yield store(head, images, url)
    for url in urls:
        yield store(head, images, url)
    for server in servers:
        with running(server) as url:
            yield store(head, images, url)


@contextlib.contextmanager
def running(server: str) -> Iterator[str]:
    """URL of one of the tests' servers while it is there."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests import servers

    with getattr(servers, f"running_{server}")() as found:
        yield found.url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=1_000_000)
    parser.add_argument("--numbers", type=int, default=32)
    parser.add_argument("--store", action="append", default=[], metavar="URL")
    parser.add_argument("--servers", default="", metavar="NAMES", help="redis, postgresql, mariadb, mongodb")
    given = parser.parse_args()
    classes = tuple(f"c{i}" for i in range(given.numbers))
    head = Head("scores", "vector", np.dtype(np.float32), (given.numbers,), classes=classes)
    images = max(1, given.patches // SIDE**2)
    print(f"{images * SIDE**2:,} patches of {given.numbers} float32, {os.cpu_count()} cores\n")
    print("| store | writes/s | get p50 ms | get p99 ms | scan s | own scan s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, *numbers in measured(head, images, given.store, given.servers.split(",") if given.servers else []):
        shown = [f"{numbers[0]:,.0f}", *(f"{n:.3f}" if n == n else "" for n in numbers[1:])]  # noqa: PLR0124
        print(f"| {name} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
