"""Shards that fill one run make the run of one process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchloom
from patchloom.cli import main
from patchloom.engine.dealing import Dealing, owner
from patchloom.errors import ConfigMismatchError, RunNotFoundError
from patchloom.events import Event, PatchesPredicted, RunFinished, RunStarted, UnitCommitted
from patchloom.objects import ObjectPath
from patchloom.parsing import Shard
from patchloom.predictions.journal import encode, logs
from patchloom.predictions.leases import shard_lease
from patchloom.predictions.lock import Lock
from tests.shards.conftest import MODEL, OPTIONS, SHAPES, named, rows, same

SCRIPT = f"""
import sys, patchloom
def tell(event):
    if type(event).__name__ == "UnitCommitted":
        print("unit", flush=True)
patchloom.predict(sys.argv[1], {MODEL!r}, sys.argv[2], shard=sys.argv[3], callbacks=[tell], **{OPTIONS!r})
"""
ROOT = Path(__file__).parents[2]


def start(images: Path, run: Path, shard: str, pause: float) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PAUSE": str(pause)}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(images), str(run), shard], env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def share(images: Any, run: Any, shard: str, **more: Any) -> list[Event]:
    events: list[Event] = []
    patchloom.predict(images, MODEL, run, shard=shard, callbacks=[events.append], **OPTIONS | more)
    return events


def the(kind: type[Any], events: list[Event]) -> Any:
    [found] = [event for event in events if isinstance(event, kind)]
    return found


class TestProcesses:
    @pytest.fixture
    def processes(self) -> Iterator[dict[str, subprocess.Popen[str]]]:
        started: dict[str, subprocess.Popen[str]] = {}
        yield started
        for process in started.values():
            process.kill()
            process.communicate()

    def test_four_of_which_one_is_killed_and_resumed_by_itself(
        self, images: Path, local: patchloom.Run, tmp_path: Path, processes: dict[str, subprocess.Popen[str]],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        run = tmp_path / "run"
        for shard in ("1/4", "2/4", "3/4", "4/4"):
            processes[shard] = start(images, run, shard, 0.03 if shard == "3/4" else 0.0)
        victim = processes.pop("3/4")
        assert victim.stdout is not None and victim.stdout.readline() == "unit\n", "something is committed"
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        for process in processes.values():
            assert process.communicate(timeout=60)[1] == "" and process.returncode == 0
        assert named(patchloom.open(run)) == ["shard 3/4"]
        assert main(["verify", str(run)]) == 1
        assert re.search(r"^shard 3/4 .*missing: \d images? (is|are) not done$", capsys.readouterr().out, re.MULTILINE)
        status = patchloom.open(run).status()
        assert status.done + status.left == len(SHAPES) and status.left > 0
        assert main(["resume", str(run), "--shard", "3/4", "-q"]) == 0
        same(patchloom.open(run), local)
        assert len(logs(run / "journal")) == 5, "each of the four, and the one that was resumed, has its own"

    @pytest.mark.slow
    def test_one_is_resumed_while_the_others_go_on(
        self, images: Path, local: patchloom.Run, tmp_path: Path, processes: dict[str, subprocess.Popen[str]]
    ) -> None:
        run = tmp_path / "run"
        for shard in ("1/4", "2/4", "3/4", "4/4"):
            processes[shard] = start(images, run, shard, 0.04)
        victim = processes.pop("2/4")
        assert victim.stdout is not None and victim.stdout.readline() == "unit\n"
        victim.kill()
        victim.communicate()
        processes["2/4"] = start(images, run, "2/4", 0.0)
        for process in processes.values():
            assert process.communicate(timeout=60)[1] == "" and process.returncode == 0
        same(patchloom.open(run), local)


class TestOneAfterTheOther:
    def test_verify_says_which_are_missing_and_the_last_one_completes_images_that_are_cut(
        self, images: Path, local: patchloom.Run, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        for shard, left in (("2/3", ["shard 1/3", "shard 3/3"]), ("3/3", ["shard 1/3"])):
            events = share(images, run, shard)
            assert named(patchloom.open(run)) == left
            finished = the(RunFinished, events)
            assert (finished.left, finished.failed) == (0, 0)
            assert the(RunStarted, events).images == finished.done
            assert patchloom.open(run).status().left > 0
        assert {"0.npy", "2.npy"} <= set(Dealing.recorded(patchloom.open(run).index).large)  # type: ignore[union-attr]
        share(images, run, "1/3")
        same(patchloom.open(run), local)

    def test_many_images_are_dealt_whole(self, tmp_path: Path) -> None:
        images = {f"{i}": np.full((70 + i, 64), i, np.uint32) for i in range(40)}
        whole = patchloom.predict(images, MODEL, tmp_path / "whole", **OPTIONS)
        done = 0
        for number in range(1, 6):
            events = share(images, tmp_path / "run", f"{number}/5")
            assert the(RunFinished, events).done == sum(owner(name, 5) == number for name in images)
            done += the(RunFinished, events).done
        assert done == 40
        same(patchloom.open(tmp_path / "run"), whole)

    def test_weighted_maps_are_those_of_one_process(self, images: Path, tmp_path: Path) -> None:
        whole = patchloom.predict(images, MODEL, tmp_path / "whole", blend="gaussian", **OPTIONS)
        for number in (3, 1, 2):
            share(images, tmp_path / "run", f"{number}/3", blend="gaussian")
        run = patchloom.open(tmp_path / "run")
        assert run.verify() == []
        for name in whole:
            for level in (0, 1) if max(whole[name].stitched().shape) > 512 else (0,):
                found, expected = (each[name].stitched(level=level)[:] for each in (run, whole))
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        assert rows(run.path) == rows(whole.path)

    def test_more_shards_than_images_end_with_nothing_to_do(self, tmp_path: Path) -> None:
        images = {"a": np.ones((64, 64), np.uint32)}
        done = [the(RunFinished, share(images, tmp_path / "run", f"{number}/5")).done for number in range(1, 6)]
        assert sorted(done) == [0, 0, 0, 0, 1]
        assert patchloom.open(tmp_path / "run").verify() == []

    def test_a_share_that_is_done_predicts_nothing_again(self, images: Path, tmp_path: Path) -> None:
        share(images, tmp_path / "run", "1/3")
        events = share(images, tmp_path / "run", "1/3")
        assert not [event for event in events if isinstance(event, PatchesPredicted)]
        assert the(RunStarted, events).resumed and the(RunFinished, events).done == the(RunStarted, events).done

    def test_one_process_finishes_what_shards_began(self, images: Path, local: patchloom.Run, tmp_path: Path) -> None:
        share(images, tmp_path / "run", "1/3")
        same(patchloom.open(tmp_path / "run").resume(), local)

    def test_the_rest_may_be_dealt_to_another_number_of_shards(
        self, images: Path, local: patchloom.Run, tmp_path: Path
    ) -> None:
        share(images, tmp_path / "run", "1/3")
        for number in (2, 1):
            share(images, tmp_path / "run", f"{number}/2")
        same(patchloom.open(tmp_path / "run"), local)

    def test_a_shard_that_is_stopped_says_how_it_goes_on(
        self, images: Path, local: patchloom.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PAUSE", "0.003")
        units: list[Event] = []

        def listen(event: Event) -> None:
            if isinstance(event, UnitCommitted):
                units.append(event)
                if len(units) == 1:
                    os.kill(os.getpid(), signal.SIGTERM)

        run = tmp_path / "run"
        with pytest.raises(patchloom.Interrupted) as caught:
            patchloom.predict(images, MODEL, run, shard="1/2", callbacks=[listen], **OPTIONS)
        assert caught.value.hint.endswith(f"patchloom resume {run} --shard 1/2")
        monkeypatch.setenv("PAUSE", "0")
        share(images, run, "2/2")
        assert named(patchloom.open(run)) == ["shard 1/2"]
        patchloom.open(run).resume(shard="1/2")
        same(patchloom.open(run), local)


class TestSourcesAndModels:
    @pytest.fixture
    def copy(self, images: Path, tmp_path: Path) -> Path:
        shutil.copytree(images, tmp_path / "images")
        return tmp_path / "images"

    def test_an_image_that_changed_is_predicted_again_by_its_owner(self, copy: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        for number in (1, 2, 3):
            share(copy, run, f"{number}/3")
        np.save(copy / "0.npy", np.load(copy / "0.npy")[::-1, :150] + 1)
        for number in (1, 2, 3):
            events = share(copy, run, f"{number}/3")
            predicted = {event.image for event in events if isinstance(event, PatchesPredicted)}
            assert predicted == ({"0.npy"} if owner("0.npy", 3) == number else set())
        found = patchloom.open(run)
        assert found.verify() == []
        expected = patchloom.predict(copy, MODEL, tmp_path / "whole", **OPTIONS)
        np.testing.assert_array_equal(found["0.npy"].stitched()[:], expected["0.npy"].stitched()[:])
        assert found.patches().to_arrow().equals(expected.patches().to_arrow())

    def test_an_added_image_belongs_to_one_shard_and_is_listed_by_it(self, copy: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        for number in (1, 2, 3):
            share(copy, run, f"{number}/3")
        np.save(copy / "new.npy", np.ones((1500, 64), np.uint32))
        for number in sorted((1, 2, 3), key=lambda number: owner("new.npy", 3) == number):
            assert "new.npy" not in patchloom.open(run)
            share(copy, run, f"{number}/3")
        assert patchloom.open(run).verify() == [] and patchloom.open(run).status().done == len(SHAPES) + 1

    def test_a_failed_image_is_a_failure_of_its_shard(self, copy: Path, tmp_path: Path) -> None:
        (copy / "bad.npy").write_bytes(b"\x93NUMPY\1\0" + bytes(20))
        failed = {}
        for number in (1, 2, 3):
            with warnings.catch_warnings(record=True):
                warnings.simplefilter("always")
                failed[number] = the(RunFinished, share(copy, tmp_path / "run", f"{number}/3")).failed
        assert failed == {number: int(owner("bad.npy", 3) == number) for number in (1, 2, 3)}
        found = patchloom.open(tmp_path / "run")
        assert [failure.image for failure in found.failures()] == ["bad.npy"]
        assert found.status().done == len(SHAPES)

    def test_a_shard_with_other_options_is_refused(self, images: Path, tmp_path: Path) -> None:
        share(images, tmp_path / "run", "1/3")
        with pytest.raises(ConfigMismatchError, match="blend"):
            share(images, tmp_path / "run", "2/3", blend="hann")
        with pytest.raises(RunNotFoundError):
            patchloom.open(tmp_path / "run").resume(shard="2/3") and patchloom.open(tmp_path / "other")

    def test_a_run_that_does_not_begin_leaves_nothing_that_the_next_one_stumbles_over(
        self, images: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "empty").mkdir()
        run = tmp_path / "run"
        with pytest.raises(patchloom.PatchloomError, match="no images"):
            share(tmp_path / "empty", run, "1/2")
        assert not (run / "run.json").exists() and not (run / "journal").exists()
        assert the(RunFinished, share(images, run, "1/2")).failed == 0


class TestLeftovers:
    def test_a_shard_that_died_before_the_run_began_is_succeeded(
        self, images: Path, local: patchloom.Run, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        lock = Lock(run / "lock", Shard(1, 2))
        lease = json.loads((run / "lock").read_text()) | {"pid": 2**22 + 1}
        lock.release()
        for name in ("lock", "lock-1-of-2"):
            (run / name).write_text(json.dumps(lease))
        (run / "journal").mkdir()
        (run / "journal" / "000001-x.jsonl").write_bytes(encode({"is": "listed", "images": ["no such"]}) + b"torn")
        share(images, run, "2/2")
        assert named(patchloom.open(run)) == ["shard 1/2"]
        share(images, run, "1/2")
        same(patchloom.open(run), local)

    def test_what_a_killed_shard_left_without_a_record_is_removed_by_the_last_one(
        self, images: Path, local: patchloom.Run, tmp_path: Path
    ) -> None:
        """Also where it ends while another is still at work: that one is the last."""
        run = tmp_path / "run"
        for number in (1, 2):
            share(images, run, f"{number}/3")
        orphan = run / "patches" / "score" / "0123456789abcdef01234567.parquet"
        shutil.copy(next(orphan.parent.iterdir()), orphan)
        half = run / "dense" / "half.partial"
        half.write_bytes(b"half")
        with shard_lease(run, Shard(1, 3)):
            share(images, run, "3/3")
            assert orphan.exists() and half.exists(), "they might be those of the shard that is at work"
        share(images, run, "1/3")
        same(patchloom.open(run), local)


def test_shards_fill_a_run_in_object_storage(
    images: Path, local: patchloom.Run, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = f"{s3_url}/run"
    for number in (2, 3, 1):
        share(images, url, f"{number}/3")
        assert not (tmp_path / "cache").exists(), "what several hosts may share is not used"
    found = patchloom.open(url)
    assert found.verify() == []
    for name in local:
        np.testing.assert_array_equal(found[name].stitched()[:], local[name].stitched()[:])
    assert rows(ObjectPath(url)) == rows(local.path)
