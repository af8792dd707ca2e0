"""One process alone, or shards of one job: never both, and never the same shard twice."""

from __future__ import annotations

import json
import os
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchloom
from patchloom.cli import main
from patchloom.errors import RunLockedError, UsageError
from patchloom.objects import ObjectPath
from patchloom.parsing import Shard
from patchloom.predictions import leases
from patchloom.predictions.index import Index
from patchloom.predictions.leases import alone, live_shards, shard_lease, turn, writer_lease
from patchloom.predictions.lock import Lock
from tests.shards.conftest import MODEL, OPTIONS

SOURCE = {"a": np.zeros((64, 64), np.uint32)}


def predict(folder: Any, **options: Any) -> patchloom.Run:
    return patchloom.predict(SOURCE, MODEL, folder, **OPTIONS, **options)


def test_a_writer_refuses_shards(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock"), pytest.raises(RunLockedError, match=f"process {os.getpid()} on "):
        predict(tmp_path, shard="1/4")
    assert predict(tmp_path, shard="1/4").document


@pytest.mark.parametrize("write", [predict, partial(predict, overwrite=True), writer_lease])
def test_a_shard_refuses_whoever_writes_alone(write: Any, tmp_path: Path) -> None:
    with shard_lease(tmp_path, Shard(3, 16)):
        with pytest.raises(RunLockedError, match=f"shard 3/16, process {os.getpid()} on "):
            write(tmp_path)
        assert not (tmp_path / "lock").exists()
    writer_lease(tmp_path).release()


def test_shards_of_one_job_write_together(tmp_path: Path) -> None:
    with shard_lease(tmp_path, Shard(1, 4)), shard_lease(tmp_path, Shard(2, 4)):
        assert set(live_shards(tmp_path)) == {Shard(1, 4), Shard(2, 4)}
        assert not alone(tmp_path, Shard(1, 4))
    assert alone(tmp_path, Shard(1, 4))


def test_the_same_shard_is_refused(tmp_path: Path) -> None:
    with shard_lease(tmp_path, Shard(2, 4)), pytest.raises(RunLockedError, match=r"shard 2/4, process .* same share"):
        predict(tmp_path, shard="2/4")


def test_a_shard_of_another_number_is_refused(tmp_path: Path) -> None:
    with shard_lease(tmp_path, Shard(2, 4)), pytest.raises(RunLockedError, match=r"shard 2/4, .* one of 8") as caught:
        predict(tmp_path, shard="2/8")
    assert "shards of 4" in caught.value.hint


def test_the_command_line_says_so_as_of_any_locked_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", SOURCE["a"])
    words = ["predict", str(tmp_path / "a.npy"), "-m", MODEL, "-o", str(tmp_path / "run"), "--patch", "64"]
    with shard_lease(tmp_path / "run", Shard(2, 4)):
        code = main([*words, "--shard", "2/4"])
    assert code == 2 and "[run-locked]" in capsys.readouterr().err


def test_a_lease_whose_holder_is_gone_is_void(tmp_path: Path) -> None:
    gone = {"token": "x", "host": "elsewhere", "boot": "", "pid": 1, "started": "1", "shard": "2/4"}
    for age, live in ((5, True), (600, False)):
        (tmp_path / "lock-2-of-4").write_text(json.dumps(gone | {"renewed": time.time() - age}))
        assert (Shard(2, 4) in live_shards(tmp_path)) is live
        assert alone(tmp_path, Shard(1, 4)) is not live
    assert not (tmp_path / "lock-2-of-4").exists(), "who was only suspended does not go on"


def test_shards_begin_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    first = turn(tmp_path, Shard(1, 4))

    def second() -> None:
        with turn(tmp_path, Shard(2, 4)):
            begun.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    time.sleep(0.3)
    begun.append("first")
    first.release()
    thread.join()
    assert begun == ["first", "second"]
    told: list[str] = []
    monkeypatch.setattr(leases, "PATIENCE", 0.0)
    with turn(tmp_path, Shard(1, 4)), pytest.raises(RunLockedError, match="shard 1/4"):
        turn(tmp_path, Shard(2, 4), 0.5, told.append)
    assert len(told) == 1 and told[0].startswith("shard 1/4, process ")


def test_a_lease_is_made_once_where_machines_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that find none: the one that is slower sees that of the other."""
    other = Lock(tmp_path / "other")
    lease = (tmp_path / "other").read_bytes()
    real = os.link

    def link(source: Any, target: Any) -> None:
        Path(target).write_bytes(lease)
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(RunLockedError):
        Lock(tmp_path / "lock")
    assert (tmp_path / "lock").read_bytes() == lease
    monkeypatch.setattr(os, "link", lambda source, target: os.stat("/nowhere"))
    Lock(tmp_path / "no-links").release()
    other.release()


def test_readers_of_a_run_that_shards_write_make_no_index_in_its_folder(tmp_path: Path) -> None:
    run = predict(tmp_path)
    run.status()
    for name in ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    with shard_lease(tmp_path, Shard(1, 2)):
        index = Index(tmp_path)
        assert index.counts()["done"] == 1
        assert not (tmp_path / "index.sqlite").exists()
        index.close()


def test_what_a_shard_cannot_do_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="overwrite"):
        predict(tmp_path, shard="1/2", overwrite=True)
    with pytest.raises(UsageError, match="plan"):
        patchloom.plan(SOURCE, MODEL, tmp_path, shard="1/2", **OPTIONS)
    for store in (f"json:{tmp_path}/json", f"sqlite:///{tmp_path}/s.db"):
        with pytest.raises(UsageError, match="same files"):
            predict(tmp_path / "run", shard="1/2", store=store)
    assert not (tmp_path / "run" / "run.json").exists()


def test_shards_take_turns_in_object_storage(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "POLL", 0.02)
    folder = ObjectPath(f"{s3_url}/run")
    with turn(folder, Shard(1, 4)), shard_lease(folder, Shard(1, 4)):
        with pytest.raises(RunLockedError):
            turn(folder, Shard(2, 4), wait=0.1)
        with pytest.raises(RunLockedError, match="same share"):
            shard_lease(folder, Shard(1, 4))
        with pytest.raises(RunLockedError, match="shard 1/4"):
            writer_lease(folder)
        assert not alone(folder, Shard(2, 4))
    assert alone(folder, Shard(2, 4)) and live_shards(folder) == {}
