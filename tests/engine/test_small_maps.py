"""Maps of small images share files: the same bytes, the same lookups, and files by the unit instead of by the image."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from counting_model import image
from zarr.storage import ZipStore

import patchloom
from patchloom.engine import groups
from patchloom.errors import ModelError, RunDamagedError
from patchloom.events import Event, UnitCommitted
from patchloom.predictions import layout
from patchloom.testing.oracle import smoothed

MODEL = "counting_model:predict"
SCRIPT = """
import sys, patchloom
from patchloom.engine import groups
groups.SECONDS = 0.05
patchloom.predict(sys.argv[1], "counting_model:predict", sys.argv[2], patch=32, overlap=8, threads=2, batch=4)
"""


def heads(batch: np.ndarray) -> dict[str, np.ndarray]:
    """Scores, classes, half precision, fewer pixels, and a vector."""
    scores = smoothed(batch)
    return {
        "scores": np.concatenate([scores, 9 - scores, scores**2], 1),
        "class": np.concatenate([scores % 3, scores % 2], 1),
        "half": scores.astype(np.float16),
        "coarse": batch[:, :, ::2, ::2].astype(np.int16),
        "mean": batch.mean((1, 2, 3)),
    }


def images_of(count: int, shape: tuple[int, int] = (40, 50)) -> dict[str, np.ndarray]:
    return {f"{i:03}/a.tif": np.random.default_rng(i).integers(0, 99, shape).astype("u1") for i in range(count)}


def map_files(run: patchloom.Run) -> dict[str, bytes]:
    """Files of all maps by their names, wherever they are."""
    found: dict[str, bytes] = {}
    for path in (path for path in (run.path / "dense").rglob("*") if path.is_file()):
        name = path.relative_to(run.path)
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None
                found |= {(name.parent / member).as_posix(): archive.read(member) for member in archive.namelist()}
        else:
            found[name.as_posix()] = path.read_bytes()
    return found


def shared(run: patchloom.Run) -> list[Path]:
    """Files with several maps."""
    return sorted((run.path / "dense").glob("*/*.zarr.zip"))


@pytest.mark.parametrize("blend", ["crop", "hann"])
def test_files_and_lookups_are_those_of_folders(
    blend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {
        "a": np.random.default_rng(0).integers(0, 99, (3, 2, 37, 61)).astype("u1"),
        "b": np.random.default_rng(1).integers(0, 99, (1, 1, 20, 1300)).astype("u1"),
        "c/a": np.random.default_rng(2).integers(0, 99, (2, 1, 300, 33)).astype("u1"),
    }
    options: dict[str, Any] = {"axes": "TZYX", "patch": 32, "overlap": 8, "blend": blend, "reduce": "class=argmax"}
    options["threads"] = 1  # sums of floats depend on their order
    packed = patchloom.predict(images, heads, tmp_path / "packed", model_id="m", **options)
    monkeypatch.setattr(layout, "PACKED_BYTES", 0)
    plain = patchloom.predict(images, heads, tmp_path / "plain", model_id="m", **options)
    assert shared(plain) == []
    assert {path.parent.name for path in shared(packed)} == {"scores", "class", "half", "coarse"}
    assert map_files(packed) == map_files(plain)
    for name, predictions in ((name, plain[name]) for name in plain):
        assert list(packed[name]) == list(predictions)
        for key in itertools.islice(predictions, 0, None, 5):
            for head, values in predictions[key].items():
                np.testing.assert_array_equal(packed.patch(name, *key, head=head), values)
        for head in ("scores", "class", "half", "coarse"):
            for level in range(3 if name == "b" and head != "coarse" else 1):
                ours, theirs = (run[name].stitched(head, level) for run in (packed, plain))
                np.testing.assert_array_equal(ours, theirs)
                np.testing.assert_array_equal(ours[1:, ..., 5:30:2, -7], theirs[1:, ..., 5:30:2, -7])
                assert (ours.chunks, ours.dtype, repr(ours)) == (theirs.chunks, theirs.dtype, repr(theirs))
    assert packed.verify() == []


def test_volumes_share_files_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = {str(i): np.random.default_rng(i).integers(0, 99, (20, 30 + i, 40)).astype("u1") for i in range(3)}
    options: dict[str, Any] = {"axes": "ZYX", "patch": (8, 16, 16), "overlap": (2, 4, 4), "model_id": "m"}
    packed = patchloom.predict(images, smoothed, tmp_path / "packed", **options)
    monkeypatch.setattr(layout, "PACKED_BYTES", 0)
    plain = patchloom.predict(images, smoothed, tmp_path / "plain", **options)
    assert map_files(packed) == map_files(plain)
    for name in images:
        np.testing.assert_array_equal(packed[name].stitched()[0, 3:19, 2:], plain[name].stitched()[0, 3:19, 2:])


def test_files_are_by_the_unit_and_not_by_the_image(tmp_path: Path) -> None:
    def files_of(count: int) -> int:
        run = patchloom.predict(images_of(count, (8, 8)), smoothed, tmp_path / str(count), patch=8, model_id="m")
        assert run.status().done == count
        return sum(path.is_file() for path in run.path.rglob("*"))

    few, many = files_of(30), files_of(300)
    assert many <= few + 4, "one more unit, if it took long"
    assert many < 16


def test_zarr_and_unzip_open_them_as_they_are(tmp_path: Path) -> None:
    images = images_of(3)
    run = patchloom.predict(images, smoothed, tmp_path / "run", patch=32, classes=["s"])
    (path,) = shared(run)
    expected = np.asarray(run["001/a.tif"].stitched())
    with ZipStore(path, mode="r") as store:
        group = zarr.open_group(store, path="001/a.tif.zarr", mode="r")
        np.testing.assert_array_equal(group["0"][...], expected)
        assert group.attrs["ome"]["omero"]["channels"] == [{"label": "s"}]
    with zipfile.ZipFile(path) as archive:
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        archive.extractall(tmp_path / "unzipped")
    opened: Any = zarr.open_group(tmp_path / "unzipped/001/a.tif.zarr", mode="r")
    np.testing.assert_array_equal(opened["0"][...], expected)
    again = patchloom.predict({"i": tmp_path / "unzipped/001/a.tif.zarr"}, smoothed, tmp_path / "again", patch=32)
    assert again.failures() == [], "they are images that patchloom opens"


def test_equal_runs_have_equal_files(tmp_path: Path) -> None:
    runs = [patchloom.predict(images_of(9), smoothed, tmp_path / name, patch=32, threads=2) for name in "ab"]
    first, second = ({path.name: path.read_bytes() for path in shared(run)} for run in runs)
    assert first == second
    assert first


def test_large_images_keep_their_folders_beside_small_ones(tmp_path: Path) -> None:
    images = images_of(2) | {"tall": np.zeros((600, 20), "u1"), "wide": np.zeros((200, 6000), "u1")}
    run = patchloom.predict(images, smoothed, tmp_path / "run", patch=32)
    folders = {path.name for path in (run.path / "dense/prediction").iterdir() if path.is_dir()}
    assert folders == {"tall.zarr", "wide.zarr"}
    assert len(shared(run)) == 1
    assert [run[name].stitched().shape[1:] for name in run] == [(40, 50), (40, 50), (600, 20), (200, 6000)]
    assert run.verify() == []


def test_one_image_that_fails_in_the_middle_costs_one_image(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(9):
        np.save(folder / f"{i}.npy", image(i, (40, 50)))
    good = (folder / "4.npy").read_bytes()
    (folder / "4.npy").write_bytes(good[:-5000])
    with pytest.warns(UserWarning, match="1 image failed"):
        run = patchloom.predict(folder, MODEL, tmp_path / "run", patch=32)
    assert [failure.image for failure in run.failures()] == ["4.npy"]
    assert sorted(run) == [f"{i}.npy" for i in range(9) if i != 4]
    assert not any("4.npy" in name for name in map_files(run))
    (folder / "4.npy").write_bytes(good)
    again = run.resume()
    assert len(again) == 9
    assert len(shared(again)) == 2
    whole = patchloom.predict(folder, MODEL, tmp_path / "whole", patch=32)
    assert map_files(again) == map_files(whole)
    assert again.verify() == []


def test_a_changed_image_is_predicted_again_and_no_other(tmp_path: Path) -> None:
    images = images_of(5)
    run = patchloom.predict(images, smoothed, tmp_path / "run", patch=32, model_id="m")
    before = {name: np.asarray(run[name].stitched()) for name in images}
    changed = "002/a.tif"
    images[changed] = 98 - images[changed][:30]
    run.resume(model=smoothed, source=images)
    for opened in (run, patchloom.open(tmp_path / "run")):
        for name in images:
            if name != changed:
                np.testing.assert_array_equal(opened[name].stitched(), before[name])
        found = opened[changed].stitched()
        assert found.shape == (1, 30, 50)
        assert found[0, 5, 5] == pytest.approx(smoothed(images[changed][None, None])[0, 0, 5, 5])
    assert len(shared(run)) == 2
    assert run.verify() == []


def test_a_unit_of_one_image_that_changes_is_replaced(tmp_path: Path) -> None:
    run = patchloom.predict({"a": np.zeros((40, 50), "u1")}, smoothed, tmp_path / "run", patch=32, model_id="m")
    assert run.patch("a", 0, 0)[0, 5, 5] == 0
    run.resume(model=smoothed, source={"a": np.full((40, 50), 7, "u1")})
    assert run.patch("a", 0, 0)[0, 5, 5] == 7
    assert len(shared(run)) == 1
    assert run.verify() == []


def test_overwriting_leaves_nothing_of_the_run_before(tmp_path: Path) -> None:
    patchloom.predict(images_of(5), smoothed, tmp_path / "run", patch=32, model_id="m")
    run = patchloom.predict(images_of(2), smoothed, tmp_path / "run", patch=32, model_id="n", overwrite=True)
    assert sorted(run) == ["000/a.tif", "001/a.tif"]
    assert {name.split("/")[2] for name in map_files(run)} == {"000", "001"}


def test_a_flipped_byte_is_noticed_and_never_a_wrong_answer(tmp_path: Path) -> None:
    run = patchloom.predict(images_of(3), smoothed, tmp_path / "run", patch=32, model_id="m")
    expected = {name: np.asarray(run[name].stitched()) for name in run}
    (path,) = shared(run)
    original, rng, refused = path.read_bytes(), random.Random(0), 0
    for at in [0, len(original) - 1, *(rng.randrange(len(original)) for _ in range(80))]:
        path.write_bytes(original[:at] + bytes([original[at] ^ (1 << rng.randrange(8))]) + original[at + 1 :])
        opened = patchloom.open(tmp_path / "run")
        assert [damage.path for damage in opened.verify()] == [path.relative_to(run.path).as_posix()]
        try:
            for name in opened:
                np.testing.assert_array_equal(opened[name].stitched(), expected[name])
        except RunDamagedError:
            refused += 1
    assert refused > 25
    path.unlink()
    assert [damage.problem for damage in patchloom.open(tmp_path / "run").verify()] == ["missing"]
    with pytest.raises(RunDamagedError, match="missing"):
        patchloom.open(tmp_path / "run").patch("000/a.tif", 0, 0)


def test_memory_for_maps_that_wait_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "HELD_BYTES", 20_000)
    events: list[Event] = []
    run = patchloom.predict(images_of(40), smoothed, tmp_path / "run", patch=32, callbacks=[events.append])
    sizes = [path.stat().st_size for path in shared(run)]
    assert max(sizes) < 20_000 + 3 * 10_000, "no more than a unit and an image or two"
    assert len(sizes) == sum(isinstance(event, UnitCommitted) for event in events) > 5


def test_patches_that_are_skipped_and_images_without_any(tmp_path: Path) -> None:
    images = images_of(4) | {"blank": np.zeros((40, 50), "u1"), "tiny": np.ones((4, 4), "u1")}
    run = patchloom.predict(images, smoothed, tmp_path / "run", patch=16, edge="drop", skip="variance:1", model_id="m")
    assert run.status().done == 6
    assert np.isnan(run["blank"].stitched()).all()
    assert np.isnan(run["tiny"].stitched()).all()
    assert run["tiny"].stitched().shape == (1, 4, 4)
    assert np.isfinite(run["000/a.tif"].stitched()[:, :32, :48]).all()
    assert run.verify() == []
    assert not run.resume(model=smoothed, source=images).failures()


def test_a_folder_that_was_begun_before_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_of(4)

    def model(batch: np.ndarray) -> np.ndarray:
        if fails:
            raise RuntimeError("no")
        return smoothed(batch)

    fails = False
    options: dict[str, Any] = {"patch": 32, "model_id": "m", "threads": 1}
    first = dict(list(images.items())[:1])
    with monkeypatch.context() as before:
        before.setattr(layout, "PACKED_BYTES", 0)  # as it was before maps shared files
        patchloom.predict(first, model, tmp_path / "run", **options)
        fails = True
        with pytest.raises(ModelError):
            patchloom.predict(images, model, tmp_path / "run", **options)
    fails = False
    begun = {path.name for path in (tmp_path / "run/dense/prediction").iterdir()}
    assert len(begun) > 1
    run = patchloom.predict(images, model, tmp_path / "run", **options)
    whole = patchloom.predict(images, model, tmp_path / "whole", **options)
    assert map_files(run) == map_files(whole)
    assert {path.name for path in (tmp_path / "run/dense/prediction").iterdir() if path.is_dir()} == begun
    for name in images:
        np.testing.assert_array_equal(run[name].stitched(), whole[name].stitched())
    assert run.verify() == []


def test_an_image_that_had_a_folder_and_changed_has_nothing_left_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, changed = images_of(4), "002/a.tif"
    with monkeypatch.context() as before:
        before.setattr(layout, "PACKED_BYTES", 0)
        patchloom.predict(images, smoothed, tmp_path / "run", patch=32, model_id="m")
    images[changed] = 98 - images[changed]
    run = patchloom.predict(images, smoothed, tmp_path / "run", patch=32, model_id="m")
    assert run.verify() == []
    assert {name.split("/")[2] for name in map_files(run)} == {"000", "001", "002", "003"}
    assert [path.name for path in (run.path / "dense").glob("*/002/*")] == []
    whole = patchloom.predict(images, smoothed, tmp_path / "whole", patch=32, model_id="m")
    assert map_files(run) == map_files(whole)
    for name in images:
        np.testing.assert_array_equal(run[name].stitched(), whole[name].stitched())


def test_what_a_crash_left_without_a_record_is_swept(tmp_path: Path) -> None:
    run = patchloom.predict(images_of(3), smoothed, tmp_path / "run", patch=32, model_id="m")
    (path,) = shared(run)
    stray = path.with_name(f"{'0' * 24}.zarr.zip")
    stray.write_bytes(path.read_bytes())
    run.resume(model=smoothed, source=images_of(3))
    assert shared(run) == [path]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_killed_and_resumed(seed: int, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(40):
        np.save(folder / f"{i}.npy", image(i, (50, 60)))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "COUNTING_PAUSE": "0.004"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(tmp_path / "run")], env=environment)
    limit = time.monotonic() + 60
    while len(list((tmp_path / "run").glob("dense/map/*.zip"))) < 4 + 3 * seed and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = patchloom.open(tmp_path / "run")
    assert killed.verify() == []
    assert 0 < killed.status().done < 40
    kept = {name: np.asarray(killed[name].stitched("map")) for name in killed}
    run = killed.resume()
    whole = patchloom.predict(folder, MODEL, tmp_path / "whole", patch=32, overlap=8)
    assert map_files(run) == map_files(whole)
    assert run.verify() == []
    for name, pixels in kept.items():
        np.testing.assert_array_equal(whole[name].stitched("map"), pixels)
