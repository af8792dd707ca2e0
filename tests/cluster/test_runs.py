"""What users give reaches the workers, or is refused before anything is predicted."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchloom
from patchloom.errors import ImageError, ModelError, RunError, RunLockedError, SourceError, UsageError
from patchloom.events import Event, PatchesPredicted, UnitCommitted, WorkerJoined
from tests.cluster.models import PAUSE
from tests.cluster.stage import (
    MODEL,
    OPTIONS,
    ROOT,
    Stage,
    check_same,
    ended,
    environment,
    image,
    is_gone,
    wait_for_units,
)

ELSEWHERE = """
from pathlib import Path

read = Path.read_bytes

def hidden(path, *options, **named):
    if path.name == "lock":
        raise FileNotFoundError(2, "there is no such file", str(path))
    return read(path, *options, **named)

Path.read_bytes = hidden
"""
"""What makes a process one of a machine that has another disk where the run's folder is."""


def predicted(events: list[Event]) -> bool:
    return any(isinstance(event, (PatchesPredicted, UnitCommitted)) for event in events)


def refused(stage: Stage, error: type[Exception], match: str, **options: Any) -> list[Event]:
    """Events of a run that is refused."""
    events: list[Event] = []
    given = {"source": stage.images, "model": MODEL, "out": stage.out(), "callbacks": [events.append]} | options
    with pytest.raises(error, match=match):
        patchloom.predict(**{"executor": patchloom.Ray(workers=2), **OPTIONS, **given})
    return events


def test_arrays_in_memory_are_refused(stage: Stage) -> None:
    images = {"a": image(0, (300, 300))}
    assert not predicted(refused(stage, UsageError, "a: is an array in memory", source=images))


def test_a_folder_that_workers_do_not_see_is_an_error_before_anything_is_predicted(
    stage: Stage, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(ELSEWHERE)
    elsewhere = patchloom.Ray(workers=2, runtime_env={"env_vars": {"PYTHONPATH": f"{tmp_path}:{ROOT}"}})
    events = refused(stage, RunError, "is not the run's folder here", executor=elsewhere)
    assert not predicted(events)


@pytest.mark.slow
def test_images_that_workers_do_not_see_are_an_error_before_anything_is_predicted(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(ELSEWHERE.replace('"lock"', '"0.npy"').replace("read_bytes", "open"))
    elsewhere = patchloom.Ray(workers=2, runtime_env={"env_vars": {"PYTHONPATH": f"{tmp_path}:{ROOT}"}})
    assert not predicted(refused(stage, SourceError, "0.npy cannot be read here", executor=elsewhere))


@pytest.mark.slow
def test_a_model_that_is_another_one_there_is_an_error(stage: Stage, tmp_path: Path) -> None:
    source = "def mean(batch):\n    return batch.mean((1, 2, 3))\n"
    for name, text in (("here", source), ("there", source.replace("mean(", "max("))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "two_places.py").write_text(text.replace("def max", "def mean"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path / "here")
        there = {"env_vars": {"PYTHONPATH": f"{tmp_path / 'there'}"}}
        executor = patchloom.Ray(workers=2, runtime_env=there)
        events = refused(stage, ModelError, "is another model here", model="two_places:mean", executor=executor,
                         model_id=None)
    assert not predicted(events)


@pytest.mark.slow
def test_a_cluster_without_room_is_an_error(stage: Stage) -> None:
    refused(stage, UsageError, "64 CPUs", executor=patchloom.Ray(workers=2, cpus_per_worker=64))


def test_a_cluster_that_is_not_there_is_an_error_at_once(stage: Stage) -> None:
    """In a process of its own, which knows no cluster yet."""
    process = stage.start(stage.out(), address="127.0.0.1:1")
    code, said = ended(process)
    assert code == 2, said
    assert "no Ray cluster at 127.0.0.1:1" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_the_second_driver_on_a_run_is_refused(stage: Stage) -> None:
    out = stage.out()
    process = stage.start(out)
    try:
        wait_for_units(out, process, 1)
        refused(stage, RunLockedError, str(process.pid), out=out)
    finally:
        code, said = ended(process)
    assert code == 0, said
    check_same(patchloom.open(out), stage.local())


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite:///{}/rows.db", "json:{}/rows"])
def test_rows_go_into_a_store(url: str, stage: Stage, tmp_path: Path) -> None:
    trial = stage.predict(store=url.format(tmp_path))
    assert trial.run.verify() == []
    assert trial.run.patches().to_arrow().equals(stage.local().patches().to_arrow())
    assert len({event.worker for event in trial.of(UnitCommitted)}) == 2


@pytest.mark.slow
def test_a_live_model_is_sent(stage: Stage) -> None:
    trial = stage.predict(model=lambda batch: {"mean": batch.mean((1, 2, 3))}, model_id=None)
    table = trial.run.patches().to_pandas()
    expected = stage.local().patches().to_pandas()
    assert trial.run.verify() == []
    assert len(table) == len(expected)
    pixels = np.load(stage.images / "2.npy")
    assert trial.run.patch("2.npy", 26, 6) == pytest.approx(pixels[26:, 6:].mean())


@pytest.mark.slow
def test_paths_may_be_relative_to_where_the_driver_is(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(stage.images, "images")
    trial = stage.predict(source=Path("images"), out=Path("run"), store="json:rows")
    assert trial.run.verify() == []
    assert (tmp_path / "rows").is_dir()
    assert trial.run.patches().to_arrow().equals(stage.local().patches().to_arrow())


@pytest.mark.slow
def test_workers_are_named_in_events_and_each_patch_is_counted_once(stage: Stage) -> None:
    trial = stage.predict()
    joined = {event.worker for event in trial.of(WorkerJoined)}
    assert len(joined) == 2
    assert {event.worker for event in trial.of(UnitCommitted)} == joined
    status = trial.run.status()
    assert sum(event.patches for event in trial.of(UnitCommitted)) == sum(one.patches for one in status.images())
    assert sum(event.patches for event in trial.of(PatchesPredicted)) >= status.done


@pytest.mark.slow
def test_as_many_workers_as_there_is_room_for_is_the_default(stage: Stage) -> None:
    stage.nodes.have(3)
    trial = stage.predict(workers=None)
    assert len(trial.of(WorkerJoined)) == 3
    check_same(trial.run, stage.local())


@pytest.mark.slow
def test_an_autoscaler_is_asked_for_one_more(stage: Stage) -> None:
    trial = stage.predict(workers="autoscale")
    assert len(trial.of(WorkerJoined)) == 2
    check_same(trial.run, stage.local())


@pytest.mark.slow
def test_a_hung_worker_is_ended_with_the_cluster_that_was_started_for_the_run(stage: Stage) -> None:
    out, mark = stage.out(), secrets.token_hex(8)
    with environment(CLUSTER_MARK=mark):
        process = stage.start(out, pause=0.02, address="local")
    try:
        wait_for_units(out, process)
        (first, *others) = actors(mark)
        assert others
        os.kill(first, signal.SIGSTOP)
    finally:
        code, said = ended(process)
    assert code == 0, said
    assert all(is_gone(pid) for pid in (first, *others))
    check_same(patchloom.open(out), stage.local())


def actors(mark: str) -> list[int]:
    """Processes of Ray's actors that were started with a mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(b"ray::_Actor") \
                    and mark.encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


@pytest.mark.slow
def test_a_failed_image_ends_the_run_where_that_is_wanted(stage: Stage) -> None:
    whole = (stage.images / "0.npy").read_bytes()
    source = stage.more_images("corrupt.npy", whole[: len(whole) // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(stage, ImageError, "corrupt", source=source, on_error="raise")


@pytest.mark.slow
def test_a_run_of_many_small_images_shares_units(stage: Stage, tmp_path: Path) -> None:
    """2,300 images are more than are looked at one by one before the run."""
    for i in range(2300):
        np.save(tmp_path / f"{i:04}.npy", image(i % 400, (40, 50)))
    with environment(**{PAUSE: "0"}):
        trial = stage.predict(source=tmp_path, runtime_env={"env_vars": {PAUSE: "0"}})
        expected = patchloom.predict(tmp_path, MODEL, stage.out(), **OPTIONS)
    check_same(trial.run, expected)
    assert os.environ.get(PAUSE) is None
