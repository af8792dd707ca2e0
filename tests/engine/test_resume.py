"""What was acknowledged is kept, what was not is invisible, and nothing is done twice."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting_model import image, predicted
from tests.maps import dense_files

import patchloom
from patchloom.errors import (
    ConfigMismatchError,
    OutputError,
    RunDamagedError,
    RunLockedError,
    RunNotFoundError,
    UsageError,
)
from patchloom.events import Event, PatchesPredicted, RunStarted, UnitCommitted
from patchloom.predictions.lock import Lock

MODEL = "counting_model:predict"
SHAPES = [(1300, 200), (90, 70), (1100, 130), (40, 200), (64, 64), (700, 90)]
OPTIONS: dict[str, Any] = {"patch": 64, "overlap": 16, "batch": 4, "threads": 2}
SCRIPT = f"""
import sys, patchloom
patchloom.predict(sys.argv[1], {MODEL!r}, sys.argv[2], **{OPTIONS!r})
"""

Predictions = dict[tuple[Any, ...], Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one unit and of several."""
    folder = tmp_path_factory.mktemp("images")
    for i, shape in enumerate(SHAPES):
        np.save(folder / f"{i}.npy", image(i, shape))
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> patchloom.Run:
    return patchloom.predict(folder, MODEL, tmp_path_factory.mktemp("undisturbed") / "run", **OPTIONS)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the model of this test writes down its patches."""
    monkeypatch.setenv("COUNTING_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def start(folder: Path, out: Path, pause: float = 0.003, **more: Any) -> subprocess.Popen[bytes]:
    """A run in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "COUNTING_PAUSE": str(pause)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(out)], env=environment, stderr=subprocess.PIPE, **more
    )


def wait_for(condition: Any, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    """Wait until something is so, or the process has ended."""
    limit = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < limit, "nothing happened"
        time.sleep(0.002)


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    if process.stderr is not None and not process.stderr.closed:
        process.communicate()


def all_of(run: patchloom.Run) -> Predictions:
    """Every prediction, by image and origin."""
    return {(name, *key): run[name][key] for name in run for key in run[name]}


def same(found: Predictions, expected: Predictions) -> None:
    for key, heads in found.items():
        assert list(heads) == list(expected[key])
        for name, value in heads.items():
            np.testing.assert_array_equal(value, expected[key][name], err_msg=f"{key} {name}")


def patches_of(log: Path) -> Counter[tuple[Any, ...]]:
    found = predicted(log, [width for _, width in SHAPES])
    return Counter((f"{number}.npy", y, x) for number, y, x in found)


class TestKilled:
    """SIGKILL at any moment loses at most the units in flight."""

    def kill_at_random(self, seed: int, folder: Path, out: Path, log: Path, kills: int) -> None:
        rng = random.Random(seed)
        for _ in range(kills):
            log.unlink(missing_ok=True)
            process = start(folder, out)
            # Now and then before the first patch, mostly somewhere in the second or so that patches take.
            if rng.random() < 0.8:
                wait_for(log.exists, process)
                delay = rng.uniform(0, 0.8)
            else:
                delay = rng.uniform(0.2, 1.0)
            limit = time.monotonic() + delay
            wait_for(lambda limit=limit: time.monotonic() > limit, process)
            end(process)

    def check(self, seed: int, folder: Path, out: Path, log: Path, undisturbed: patchloom.Run) -> None:
        expected = all_of(undisturbed)
        self.kill_at_random(seed, folder, out, log, kills=1 + seed % 2)
        kept: Predictions = {}
        if (out / "run.json").exists():
            killed = patchloom.open(out)
            assert killed.verify() == []
            kept = all_of(killed)
            same(kept, expected)
        log.unlink(missing_ok=True)
        if (out / "run.json").exists() and seed % 3:
            run = patchloom.open(out).resume()
        else:
            run = patchloom.predict(folder, MODEL, out, **OPTIONS)
        assert run.verify() == []
        found = all_of(run)
        assert list(found) == list(expected)
        same(found, expected)
        assert dense_files(run) == dense_files(undisturbed)
        again = patches_of(log)
        if kept:
            assert not set(again) & set(kept), "a patch that was acknowledged was predicted again"
        trial = 0 if kept else 1
        assert sum(count - 1 for count in again.values()) <= trial, "a patch was predicted twice"
        assert len(run.patches().to_pandas()) == len(expected)
        assert not list(out.rglob("*.tmp"))

    @pytest.mark.parametrize("seed", range(5))
    def test_a_killed_run_resumes_to_what_it_would_have_been(
        self, seed: int, folder: Path, undisturbed: patchloom.Run, tmp_path: Path, log: Path
    ) -> None:
        self.check(seed, folder, tmp_path / "run", log, undisturbed)

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(5, 25))
    def test_at_twenty_more_moments(
        self, seed: int, folder: Path, undisturbed: patchloom.Run, tmp_path: Path, log: Path
    ) -> None:
        self.check(seed, folder, tmp_path / "run", log, undisturbed)


class TestInterrupted:
    @pytest.fixture(autouse=True)
    def slow_enough_to_be_interrupted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COUNTING_PAUSE", "0.003")

    def interrupted(self, folder: Path, out: Path, after: int, number: signal.Signals) -> list[Event]:
        """A run that is sent a signal after some units."""
        events: list[Event] = []

        def listen(event: Event) -> None:
            events.append(event)
            if sum(isinstance(event, UnitCommitted) for event in events) == after and isinstance(event, UnitCommitted):
                os.kill(os.getpid(), number)

        with pytest.raises(patchloom.Interrupted) as caught:
            patchloom.predict(folder, MODEL, out, callbacks=[listen], **OPTIONS)
        assert "resume" in caught.value.hint
        return events

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_stops_cleanly_and_the_rest_follows(
        self, number: signal.Signals, folder: Path, undisturbed: patchloom.Run, tmp_path: Path, log: Path
    ) -> None:
        before = signal.getsignal(number)
        self.interrupted(folder, tmp_path / "run", 2, number)
        assert signal.getsignal(number) is before
        kept = all_of(patchloom.open(tmp_path / "run"))
        assert kept
        same(kept, all_of(undisturbed))
        log.unlink()
        events: list[Event] = []
        run = patchloom.open(tmp_path / "run").resume(callbacks=[events.append])
        same(all_of(run), all_of(undisturbed))
        assert len(all_of(run)) == len(all_of(undisturbed))
        assert dense_files(run) == dense_files(undisturbed)
        again = patches_of(log)
        assert not set(again) & set(kept)
        started = next(event for event in events if isinstance(event, RunStarted))
        assert started.resumed
        assert sum(event.patches for event in events if isinstance(event, PatchesPredicted)) == sum(again.values())

    def test_an_undisturbed_run_predicts_each_patch_once(self, folder: Path, tmp_path: Path, log: Path) -> None:
        run = patchloom.predict(folder, MODEL, tmp_path / "run", **OPTIONS)
        counts = patches_of(log)
        patches = set(all_of(run))
        assert patches <= set(counts)
        assert sum(counts.values()) == len(patches) + 1, "but for the one that the model is tried on"

    def test_a_complete_run_predicts_nothing_again(self, folder: Path, tmp_path: Path, log: Path) -> None:
        patchloom.predict(folder, MODEL, tmp_path / "run", **OPTIONS)
        log.unlink()
        events: list[Event] = []
        run = patchloom.predict(folder, MODEL, tmp_path / "run", callbacks=[events.append], **OPTIONS)
        assert not log.exists()
        assert len(run) == len(SHAPES)
        assert not any(isinstance(event, PatchesPredicted) for event in events)

    def test_status_counts_what_is_done_and_left(self, folder: Path, tmp_path: Path) -> None:
        self.interrupted(folder, tmp_path / "run", 2, signal.SIGINT)
        status = patchloom.open(tmp_path / "run").status()
        assert status.done + status.left == len(SHAPES), patchloom.open(tmp_path / "run").failures()
        assert status.left > 0
        states = {image.image: image for image in status.images()}
        assert set(states) == {f"{i}.npy" for i in range(len(SHAPES))}
        for found in states.values():
            assert found.state in {"done", "partial", "left"}
            # All patches may be there before the image is complete: its pyramid comes last.
            assert found.patches_done == found.patches if found.state == "done" else found.patches_done <= found.patches
            assert (found.patches_done == 0) == (found.state == "left")

    def test_a_live_model_and_arrays_are_given_again(self, tmp_path: Path) -> None:
        images = {"a": image(0, (100, 80))}

        def model(batch: np.ndarray) -> np.ndarray:
            return batch.mean((1, 2, 3))

        run = patchloom.predict(images, model, tmp_path / "run", patch=32)
        with pytest.raises(UsageError, match="model"):
            run.resume()
        with pytest.raises(UsageError, match="source"):
            run.resume(model=model)
        assert run.resume(model=model, source=images).status().done == 1


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> patchloom.Run:
    images = {str(i): image(i, shape) for i, shape in enumerate([(700, 90), (50, 60)])}
    return patchloom.predict(images, MODEL, tmp_path_factory.mktemp("small") / "run", patch=64)


class TestDamage:
    def files(self, run: patchloom.Run) -> list[Path]:
        return sorted(path for kind in ("dense", "patches") for path in (run.path / kind).rglob("*") if path.is_file())

    def test_an_intact_run_verifies(self, small: patchloom.Run) -> None:
        assert len(self.files(small)) >= 6
        assert small.verify() == []

    def test_one_flipped_bit_anywhere_is_noticed(self, small: patchloom.Run) -> None:
        rng = random.Random(3)
        for path in self.files(small):
            original = path.read_bytes()
            for place in {0, len(original) - 1, *(rng.randrange(len(original)) for _ in range(4))}:
                damaged = bytearray(original)
                damaged[place] ^= 1 << rng.randrange(8)
                path.write_bytes(damaged)
                found = patchloom.open(small.path).verify()
                path.write_bytes(original)
                assert found, f"byte {place} of {path.name}"
                assert any(path.name in str(damage) for damage in found)
        assert small.verify() == []

    def test_a_file_that_is_gone_or_cut_short_is_noticed(self, small: patchloom.Run) -> None:
        for path in self.files(small):
            original = path.read_bytes()
            path.unlink()
            assert patchloom.open(small.path).verify(), f"{path.name} is gone"
            path.write_bytes(original[:-1])
            assert patchloom.open(small.path).verify(), f"{path.name} is short"
            path.write_bytes(original)
        assert small.verify() == []

    def test_a_lookup_in_a_damaged_file_is_an_error_and_never_a_wrong_answer(
        self, small: patchloom.Run, tmp_path: Path
    ) -> None:
        shutil.copytree(small.path, tmp_path / "run")
        expected, rng, refused = all_of(small), random.Random(4), 0
        for path in self.files(patchloom.open(tmp_path / "run")):
            original = path.read_bytes()
            for _ in range(4):
                damaged = bytearray(original)
                damaged[rng.randrange(len(original))] ^= 1 << rng.randrange(8)
                path.write_bytes(damaged)
                try:
                    same(all_of(patchloom.open(tmp_path / "run")), expected)
                except RunDamagedError:
                    refused += 1
            path.write_bytes(original)
        assert refused > 5

    def test_damage_of_the_journal_is_noticed(self, small: patchloom.Run, tmp_path: Path) -> None:
        shutil.copytree(small.path, tmp_path / "run")
        opened = patchloom.open(tmp_path / "run")
        for path in (tmp_path / "run" / "journal").iterdir():
            damaged = bytearray(path.read_bytes())
            damaged[len(damaged) // 2] ^= 1
            path.write_bytes(damaged)
            assert any(path.name in str(damage) for damage in opened.verify())

    def test_a_damaged_description_is_an_error_that_names_it(self, small: patchloom.Run, tmp_path: Path) -> None:
        shutil.copytree(small.path, tmp_path / "run")
        description = tmp_path / "run" / "run.json"
        for text in (b"", b"{", description.read_bytes()[:-20], b"[]", b"{}"):
            description.write_bytes(text)
            with pytest.raises(RunDamagedError, match=r"run\.json"):
                patchloom.open(tmp_path / "run")

    def test_a_run_whose_description_is_damaged_is_not_taken_for_none(
        self, small: patchloom.Run, tmp_path: Path
    ) -> None:
        shutil.copytree(small.path, tmp_path / "run")
        description = tmp_path / "run" / "run.json"
        description.write_bytes(description.read_bytes().replace(b"1", b"2"))
        before = sorted(path for path in (tmp_path / "run").rglob("*") if path.is_file())
        with pytest.raises(RunDamagedError):
            patchloom.predict({"a": np.zeros((64, 64), np.uint8)}, lambda batch: batch, tmp_path / "run", patch=32)
        assert set(before) <= {path for path in (tmp_path / "run").rglob("*") if path.is_file()}

    def test_the_index_is_derived_and_made_again(self, small: patchloom.Run, tmp_path: Path) -> None:
        shutil.copytree(small.path, tmp_path / "run")
        for path in (tmp_path / "run").glob("index*"):
            path.unlink()
        same(all_of(patchloom.open(tmp_path / "run")), all_of(small))
        (tmp_path / "run" / "index.sqlite").write_bytes(b"no database")
        same(all_of(patchloom.open(tmp_path / "run")), all_of(small))

    def test_a_journal_that_was_cut_short_loses_its_last_record_only(
        self, small: patchloom.Run, tmp_path: Path
    ) -> None:
        shutil.copytree(small.path, tmp_path / "run")
        for path in (tmp_path / "run").glob("index*"):
            path.unlink()
        journal = max((path for path in (tmp_path / "run" / "journal").iterdir()), key=lambda path: path.stat().st_size)
        journal.write_bytes(journal.read_bytes()[:-5])
        cut = patchloom.open(tmp_path / "run")
        same(all_of(cut), all_of(small))
        images = {str(i): image(i, shape) for i, shape in enumerate([(700, 90), (50, 60)])}
        run = patchloom.predict(images, MODEL, tmp_path / "run", patch=64)
        assert run.verify() == []
        assert len(all_of(run)) == len(all_of(small))

    def test_no_run_is_an_error(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "none"):
            with pytest.raises(RunNotFoundError) as caught:
                patchloom.open(path)
            assert str(path) in caught.value.message
            assert isinstance(caught.value, FileNotFoundError)


class TestLock:
    @pytest.fixture
    def working(self, folder: Path, tmp_path: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """A process in the middle of a run."""
        process = start(folder, tmp_path / "run", pause=0.05)
        wait_for(lambda: log.exists() and log.stat().st_size > 40, process)
        assert process.poll() is None, process.communicate()
        yield process
        end(process)

    def test_the_second_process_on_a_run_is_refused(
        self, working: subprocess.Popen[bytes], folder: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(RunLockedError) as caught:
            patchloom.predict(folder, MODEL, tmp_path / "run", **OPTIONS)
        assert str(tmp_path / "run") in str(caught.value)
        assert str(working.pid) in str(caught.value)
        with pytest.raises(RunLockedError):
            patchloom.predict(folder, MODEL, tmp_path / "run", overwrite=True, **OPTIONS)
        assert working.poll() is None

    def test_a_run_that_has_just_begun_is_left_alone(self, tmp_path: Path) -> None:
        """Before its description is written: a large source is still being enumerated."""
        folder = tmp_path / "run"
        with Lock(folder / "lock"):
            (folder / "journal").mkdir()
            (folder / "journal" / "000001-1.jsonl").write_text("")
            before = sorted(path.name for path in folder.rglob("*"))
            with pytest.raises(RunLockedError):
                patchloom.predict({"a": image(0, (9, 9))}, MODEL, folder, patch=4)
            assert sorted(path.name for path in folder.rglob("*")) == before

    def test_readers_need_no_lock(
        self, working: subprocess.Popen[bytes], undisturbed: patchloom.Run, tmp_path: Path
    ) -> None:
        wait_for(lambda: len(patchloom.open(tmp_path / "run")) > 0, working)
        same(all_of(patchloom.open(tmp_path / "run")), all_of(undisturbed))

    def test_the_lock_of_a_dead_process_is_taken_over(
        self, working: subprocess.Popen[bytes], folder: Path, undisturbed: patchloom.Run, tmp_path: Path
    ) -> None:
        end(working)
        before = time.monotonic()
        run = patchloom.predict(folder, MODEL, tmp_path / "run", **OPTIONS)
        assert time.monotonic() - before < 20
        same(all_of(run), all_of(undisturbed))


class TestSourceThatChanges:
    @pytest.fixture
    def copy(self, folder: Path, tmp_path: Path) -> Path:
        shutil.copytree(folder, tmp_path / "images")
        return tmp_path / "images"

    @pytest.fixture
    def run(self, copy: Path, tmp_path: Path, log: Path) -> patchloom.Run:
        run = patchloom.predict(copy, MODEL, tmp_path / "run", **OPTIONS)
        log.unlink()
        return run

    def test_a_changed_image_is_predicted_again_and_no_other(
        self, run: patchloom.Run, copy: Path, log: Path, undisturbed: patchloom.Run
    ) -> None:
        before = run["0.npy"][0, 0]["map"].copy()
        np.save(copy / "0.npy", image(0, SHAPES[0])[::-1] % 500)
        again = run.resume()
        assert {name for name, *_ in patches_of(log)} == {"0.npy"}
        assert not np.array_equal(again["0.npy"][0, 0]["map"], before)
        assert again.verify() == []
        others = {key: value for key, value in all_of(again).items() if key[0] != "0.npy"}
        same(others, all_of(undisturbed))
        table = again.patches().to_pandas()
        assert not table.duplicated(["image", "y", "x"]).any()
        assert len(table) == len(all_of(undisturbed))

    def test_an_image_that_changed_its_size_has_only_its_new_patches(
        self, run: patchloom.Run, copy: Path
    ) -> None:
        np.save(copy / "0.npy", image(0, (100, 200)))
        again = run.resume()
        assert again["0.npy"].stitched("map").shape == (1, 100, 200)
        assert again["0.npy"].get((1236, 0)) is None
        table = again.patches(where="image = '0.npy'").to_pandas()
        assert len(table) == len(again["0.npy"])
        assert again.verify() == []

    def test_an_added_image_is_predicted(self, run: patchloom.Run, copy: Path, log: Path) -> None:
        np.save(copy / "9.npy", image(3, (50, 200)))
        again = run.resume()
        assert "9.npy" in again
        assert {name for name, *_ in patches_of(log)} == {"3.npy"}, "the new image's pixels say that they are of 3"

    def test_an_image_that_is_gone_stays_readable(
        self, run: patchloom.Run, copy: Path, log: Path, undisturbed: patchloom.Run
    ) -> None:
        (copy / "1.npy").unlink()
        again = run.resume()
        assert not log.exists()
        same(all_of(again), all_of(undisturbed))
        assert "1.npy" in again

    def test_a_failed_image_is_tried_again(self, copy: Path, tmp_path: Path, undisturbed: patchloom.Run) -> None:
        good = (copy / "2.npy").read_bytes()
        (copy / "2.npy").write_bytes(good[: len(good) // 2])
        with pytest.warns(UserWarning, match="1 image failed"):
            run = patchloom.predict(copy, MODEL, tmp_path / "run", **OPTIONS)
        assert [failure.image for failure in run.failures()] == ["2.npy"]
        assert run.status().failed == 1
        (copy / "2.npy").write_bytes(good)
        again = run.resume()
        assert again.failures() == []
        assert len(all_of(again)) == len(all_of(undisturbed))
        same(all_of(again), all_of(undisturbed))

    def test_a_changed_array_is_predicted_again(self, tmp_path: Path) -> None:
        first, second = image(0, (50, 60)), image(1, (50, 60))
        patchloom.predict({"a": first}, MODEL, tmp_path / "run", patch=32)
        run = patchloom.predict({"a": second[::-1] % 31}, MODEL, tmp_path / "run", patch=32)
        expected = patchloom.predict({"a": second[::-1] % 31}, MODEL, tmp_path / "other", patch=32)
        same(all_of(run), all_of(expected))


class TestAnotherConfiguration:
    @pytest.mark.parametrize(
        "change",
        [
            {"patch": 32},
            {"overlap": 8},
            {"edge": "pad"},
            {"blend": "gaussian"},
            {"scale": 255},
            {"reduce": "map=float16"},
            {"nodata": 0},
            {"fill": 3},
            {"classes": None, "model_id": "another"},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_what_changes_predictions_is_refused(self, change: dict[str, Any], tmp_path: Path) -> None:
        images = {"a": image(0, (100, 80))}
        options: dict[str, Any] = {"patch": 64, "overlap": 16}
        patchloom.predict(images, MODEL, tmp_path / "run", **options)
        with pytest.raises(ConfigMismatchError) as caught:
            patchloom.predict(images, MODEL, tmp_path / "run", **(options | change))
        assert "overwrite" in caught.value.hint
        assert isinstance(caught.value, ValueError)

    def test_overwriting_discards_what_was_there(self, tmp_path: Path) -> None:
        patchloom.predict({"a": image(0, (100, 80)), "b": image(1, (9, 9))}, MODEL, tmp_path / "run", patch=64)
        run = patchloom.predict({"a": image(0, (100, 80))}, MODEL, tmp_path / "run", patch=32, overwrite=True)
        assert list(run) == ["a"]
        assert run["a"][32, 32]["map"].shape == (1, 32, 32)
        assert run.verify() == []

    def test_overlap_and_the_stride_that_it_means_are_the_same(self, tmp_path: Path, log: Path) -> None:
        images = {"a": image(0, (100, 80))}
        patchloom.predict(images, MODEL, tmp_path / "run", patch=64, overlap=16)
        log.unlink()
        patchloom.predict(images, MODEL, tmp_path / "run", patch=(64, 64), stride=48, batch=2, threads=1)
        assert not log.exists()

    def test_a_changed_function_is_another_model(self, tmp_path: Path) -> None:
        images = {"a": image(0, (100, 80))}
        patchloom.predict(images, lambda batch: batch.mean((1, 2, 3)), tmp_path / "run", patch=64)
        with pytest.raises(ConfigMismatchError, match="model"):
            patchloom.predict(images, lambda batch: batch.max((1, 2, 3)), tmp_path / "run", patch=64)


class TestFullDisk:
    def test_a_full_disk_is_an_output_error_and_what_was_committed_is_kept(
        self, folder: Path, undisturbed: patchloom.Run, tmp_path: Path, log: Path
    ) -> None:
        def no_large_file() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

        process = start(folder, tmp_path / "run", pause=0, preexec_fn=no_large_file)
        _, text = process.communicate(timeout=120)
        assert process.returncode == 1
        assert OutputError.__name__ in text.decode().splitlines()[-1]
        if (tmp_path / "run" / "run.json").exists():
            assert patchloom.open(tmp_path / "run").verify() == []
        run = patchloom.predict(folder, MODEL, tmp_path / "run", **OPTIONS)
        same(all_of(run), all_of(undisturbed))
        assert len(all_of(run)) == len(all_of(undisturbed))
        assert run.verify() == []


def test_a_table_without_a_record_is_swept_and_the_others_stay(tmp_path: Path) -> None:
    def mean(batch: np.ndarray) -> np.ndarray:
        return batch.mean((1, 2, 3))

    images = {"a": image(0, (100, 80))}
    run = patchloom.predict(images, mean, tmp_path / "run", patch=64)
    (table,) = (run.path / "patches").rglob("*.parquet")
    orphan = table.with_name("0123456789abcdef.parquet")
    shutil.copy(table, orphan)
    again = run.resume(model=mean, source=images)
    assert not orphan.exists()
    assert table.exists()
    assert again.verify() == []
