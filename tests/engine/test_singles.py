"""Images of one patch each are stacked: the same files, events and errors as if each had a sweep of its own."""

from __future__ import annotations

import io
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

import patchloom
from patchloom.engine import budget, feed
from patchloom.engine.singles import FREE, SMALL, PixelPool
from patchloom.events import Event, ImageDone, ImageFailed, ImageStarted, PatchesPredicted, UnitCommitted

PATCH = 32
SCRIPT = """
import sys, time, patchloom, numpy as np
from patchloom.engine import groups
groups.SECONDS = 0.05

def scores(batch):
    time.sleep(0.01)
    return batch.mean((2, 3))
source = patchloom.SQLSource(sys.argv[1], "select id, picture from pictures")
patchloom.predict(source, scores, sys.argv[2], patch=32, threads=2, batch=4, model_id="mean")
"""


def scores(batch: np.ndarray) -> np.ndarray:
    """Mean of each channel."""
    means: np.ndarray = batch.mean((2, 3))
    return means


def picture(seed: int, rows: int = PATCH, columns: int = PATCH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (rows, columns, 3)).astype(np.uint8)


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    PillowImage.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def swept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every image swept."""
    monkeypatch.setattr(feed.Feed, "_stacks", False)


def files(run: patchloom.Run) -> dict[str, bytes]:
    """Tables by their names, which are those of units."""
    return {path.relative_to(run.path).as_posix(): path.read_bytes() for path in run.path.glob("patches/*/*")}


@pytest.fixture
def stored(tmp_path: Path) -> str:
    """A table of 300 pictures."""
    with sqlite3.connect(tmp_path / "lab.db") as database:
        database.execute("create table pictures (id integer primary key, picture blob)")
        rows = ((i, jpeg(picture(i))) for i in range(300))
        database.executemany("insert into pictures values (?, ?)", rows)
    database.close()
    return f"sqlite:///{tmp_path}/lab.db"


@pytest.mark.parametrize("edge", ["shift", "pad", "drop"])
@pytest.mark.parametrize("threads", [1, 3])
def test_files_are_those_of_images_that_are_swept(
    edge: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = [(PATCH, PATCH), (PATCH, PATCH), (20, 30), (PATCH, 9)]
    source = {f"{i % 7}/{i}": picture(i, *shapes[i % 4]) for i in range(50)}
    options: dict[str, Any] = {"patch": PATCH, "edge": edge, "batch": 8, "threads": threads, "scale": 3, "mean": 5}
    stacked = patchloom.predict(source, scores, tmp_path / "stacked", **options)
    swept(monkeypatch)
    assert files(stacked) == files(patchloom.predict(source, scores, tmp_path / "swept", **options))
    assert len(files(stacked)) == 1
    assert stacked.verify() == []


def test_images_of_one_patch_have_no_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"large": picture(0, 3 * PATCH, 2 * PATCH)} | {str(i): picture(i) for i in range(20)}
    sweeps: list[str] = []
    made = feed.Sweep

    def counting(work: Any, *more: Any) -> Any:
        sweeps.append(work.name)
        return made(work, *more)

    monkeypatch.setattr(feed, "Sweep", counting)
    run = patchloom.predict(source, scores, tmp_path / "run", patch=PATCH, batch=8)
    assert sweeps == ["large"]
    assert len(list(run["large"])) == 6
    assert run.status().done == 21


def test_planes_are_left_as_they_are(tmp_path: Path) -> None:
    """Also those that lie in memory as copies of others do."""
    source = {str(i): np.ascontiguousarray(picture(i).transpose(2, 0, 1)) for i in range(60)}
    run = patchloom.predict(source, scores, tmp_path / "run", patch=PATCH, batch=4, threads=2, axes="CYX")
    for i in range(60):
        np.testing.assert_array_equal(source[str(i)], picture(i).transpose(2, 0, 1))
        np.testing.assert_allclose(run.patch(str(i), 0, 0), picture(i).mean((0, 1)), rtol=1e-6)


def test_each_has_its_events(tmp_path: Path) -> None:
    events: list[Event] = []
    source = {str(i): picture(i) for i in range(21)}
    patchloom.predict(source, scores, tmp_path / "run", patch=PATCH, batch=8, callbacks=[events.append])
    for name in source:
        mine = [event for event in events if getattr(event, "image", None) == name]
        assert mine == [ImageStarted(name, 1), PatchesPredicted(name, 1), ImageDone(name, 1)]
    (unit,) = (event for event in events if isinstance(event, UnitCommitted))
    assert (unit.images, unit.patches) == (tuple(sorted(source)), 21)
    assert events.index(unit) < min(i for i, event in enumerate(events) if isinstance(event, ImageDone))


def test_a_picture_that_does_not_decode_costs_itself(
    stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect(tmp_path / "lab.db") as database:
        for i, data in {7: jpeg(picture(7))[:-200], 8: b"nothing", 150: jpeg(picture(150))[:700]}.items():
            database.execute("update pictures set picture = ? where id = ?", (data, i))
    database.close()
    source = patchloom.SQLSource(stored, "select id, picture from pictures")
    runs = []
    for way in ("stacked", "swept"):
        events: list[Event] = []
        with pytest.warns(UserWarning, match="3 images failed"):
            runs.append(patchloom.predict(source, scores, tmp_path / way, patch=PATCH, callbacks=[events.append]))
        assert {event.image for event in events if isinstance(event, ImageFailed)} == {"7", "8", "150"}
        swept(monkeypatch)
    first, second = ({one.image: (one.kind, one.message) for one in run.failures()} for run in runs)
    assert first == second
    assert first["7"][1].startswith("7 (id of the query): does not decode: image file is truncated")
    assert runs[0].status().done == 297
    assert files(runs[0]) == files(runs[1])


def test_of_bad_predictions_each_is_counted(tmp_path: Path) -> None:
    def odd(batch: np.ndarray) -> np.ndarray:
        means = scores(batch)
        return np.where(means[:, :1] > 127, np.nan, means)

    source = {str(i): picture(i) for i in range(30)}
    bad = {name for name, pixels in source.items() if pixels.mean((0, 1))[0] > 127}
    events: list[Event] = []
    run = patchloom.predict(source, odd, tmp_path / "run", patch=PATCH, batch=4, callbacks=[events.append])
    assert 0 < len(bad) < 30
    assert {event.image for event in events if isinstance(event, ImageDone) and event.nan_patches == 1} == bad
    assert run.bad_patches() == dict.fromkeys(bad, 1)


def test_a_batch_that_does_not_fit_is_halved(tmp_path: Path) -> None:
    sizes: list[int] = []

    def small(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        if len(batch) > 5:
            raise MemoryError
        return scores(batch)

    source = {str(i): picture(i) for i in range(40)}
    run = patchloom.predict(source, small, tmp_path / "run", patch=PATCH, batch=16, threads=1)
    assert max(sizes) == 16
    for i in range(40):
        np.testing.assert_allclose(run.patch(str(i), 0, 0), picture(i).mean((0, 1)), rtol=1e-6)


@pytest.mark.parametrize("threads", [1, 3])
def test_where_memory_is_short_few_are_decoded_ahead(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget.Budget, "decoded", lambda self, width: 2 * 3 * PATCH * PATCH)
    sizes: list[int] = []

    def noting(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return scores(batch)

    source = {str(i): picture(i) for i in range(30)}
    run = patchloom.predict(source, noting, tmp_path / "run", patch=PATCH, batch=16, threads=threads)
    assert run.status().done == 30
    assert max(sizes[1:]) <= max(2, threads)  # the first one is the trial


def test_killed_and_resumed(stored: str, tmp_path: Path) -> None:
    """What was acknowledged is not predicted again, and everything else is."""
    out = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, stored, str(out)])
    limit = time.monotonic() + 60
    while len(list(out.glob("patches/*/*.parquet"))) < 4 and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    killed = patchloom.open(out)
    done = {image.image for image in killed.status().images() if image.state == "done"}
    assert 0 < len(done) < 300
    events: list[Event] = []
    source = patchloom.SQLSource(stored, "select id, picture from pictures")
    options: dict[str, Any] = {"patch": PATCH, "threads": 2, "batch": 4, "model_id": "mean"}
    run = patchloom.predict(source, scores, out, callbacks=[events.append], **options)
    predicted = Counter(event.image for event in events if isinstance(event, PatchesPredicted))
    assert len(predicted) == 300 - len(done)
    assert set(predicted.values()) == {1}
    assert not done & set(predicted)
    assert run.verify() == []
    assert run.status().done == 300


def _different(count: int, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    for i in range(count):
        yield np.full(shape, i, np.uint8).transpose(2, 0, 1)


def test_memory_of_planes_is_used_again() -> None:
    pool = PixelPool()
    first, second = (pool.copied(pixels) for pixels in _different(2, (8, 8, 3)))
    assert not np.shares_memory(first, second)
    pool.give(first)
    third = pool.copied(next(_different(1, (8, 8, 3))))
    assert np.shares_memory(first, third)
    assert not third.any()


def test_little_memory_waits_to_be_used() -> None:
    pool = PixelPool()
    arrays = [pool.copied(pixels) for pixels in _different(100, (512, 512, 3))]
    for array in arrays:
        pool.give(array)
    assert FREE // 2 < pool.free_bytes <= FREE
    pool.give(pool.copied(next(_different(1, (600, 500, 3)))))
    assert pool.free_bytes <= SMALL


def test_what_is_large_or_in_order_is_not_copied() -> None:
    pool = PixelPool()
    large = next(_different(1, (1024, 1024, 3)))
    plane = np.zeros((1, 5, 5), np.uint8)
    assert pool.copied(large) is large
    assert pool.copied(plane) is plane
