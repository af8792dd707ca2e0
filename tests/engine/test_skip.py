"""What a filter skips is never predicted, is recorded as skipped, and changes nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

import patchloom
from patchloom.cli import main
from patchloom.engine import reading
from patchloom.errors import ConfigMismatchError, NotPredictedError, UsageError
from patchloom.events import Event, ImageDone, PatchesPredicted, PatchesSkipped, RunFinished, UnitCommitted
from patchloom.geometry import units
from patchloom.geometry.region import Region
from patchloom.images.filters import as_filter
from patchloom.testing.oracle import Oracle, positions_in_patch, smoothed, weights
from patchloom.testing.strategies import Layout, layouts

Model = Callable[[np.ndarray], Any]
BLENDS = ("crop", "constant", "gaussian", "hann")
EDGES = ("shift", "pad", "drop")


def islands(shape: tuple[int, ...], seed: int = 0, share: float = 0.4) -> np.ndarray:
    """Noise in some boxes of an image ``(C, [Z,] Y, X)``, nothing between them."""
    rng = np.random.default_rng(seed)
    image = np.zeros(shape, np.uint8)
    blocks = tuple(-(-n // 16) for n in shape[1:])
    chosen = rng.random(blocks) < share
    for axis in range(len(blocks)):
        chosen = chosen.repeat(16, axis)
    inside = chosen[tuple(slice(n) for n in shape[1:])]
    image[:, inside] = rng.integers(1, 250, (shape[0], int(inside.sum())))
    return image


def empty(patch: np.ndarray) -> bool:
    """The filter of most tests: nothing in it."""
    return not patch.any()


def halves(batch: np.ndarray) -> np.ndarray:
    """Two numbers a patch."""
    flat = batch.reshape(len(batch), -1).astype(np.float32)
    return np.stack([flat.mean(1), flat.max(1)], axis=1)


def both(batch: np.ndarray) -> dict[str, np.ndarray]:
    return {"map": positions_in_patch(batch), "score": halves(batch)}


def kept(oracle: Oracle, image: np.ndarray, skip: Callable[[np.ndarray], bool] = empty) -> list[tuple[int, ...]]:
    """Origins of the patches that are predicted."""
    size = image.shape[1:]
    boxes = ((o, tuple(slice(a, min(a + p, n)) for a, p, n in zip(o, oracle.patch, size, strict=True)))
             for o in oracle.origins(size))
    return [origin for origin, box in boxes if not skip(image[(slice(None), *box)])]


def stitched_without(oracle: Oracle, image: np.ndarray, model: Model, origins: list[tuple[int, ...]]) -> np.ndarray:
    """Map made of the patches at `origins` alone, in float64 where they are blended."""
    size = image.shape[1:]
    answers = oracle.vectors(image, model)
    some = next(iter(answers.values()))
    total = np.zeros((len(some), *(max(n, *(o[i] + oracle.patch[i] for o in answers)) for i, n in enumerate(size))))
    weight = np.zeros(total.shape[1:])
    window = None if oracle.blend == "crop" else weights(oracle.blend, oracle.patch)
    for (origin, answer), region in zip(answers.items(), oracle.regions(size), strict=True):
        if origin not in origins:
            continue
        if window is None:
            part = tuple(slice(r.start - o, r.stop - o) for r, o in zip(region, origin, strict=True))
            total[(slice(None), *region)], weight[region] = answer[(slice(None), *part)], 1
        else:
            box = tuple(slice(o, o + p) for o, p in zip(origin, oracle.patch, strict=True))
            total[(slice(None), *box)] += answer * window
            weight[box] += window
    with np.errstate(invalid="ignore", divide="ignore"):
        whole = np.where(weight > 0, total / weight, oracle.unpredicted(some.dtype))
    return whole[(slice(None), *map(slice, size))]


@contextmanager
def run_of(image: np.ndarray, model: Model, oracle: Oracle, **more: Any) -> Iterator[patchloom.Run]:
    names = ("patch", "stride", "edge", "pad", "fill", "blend", "nodata")
    options = {name: getattr(oracle, name) for name in names} | {"skip": empty} | more
    axes = "CZYX" if image.ndim == 4 else "CYX"
    with tempfile.TemporaryDirectory() as folder:
        yield patchloom.predict({"a": image}, model, Path(folder) / "run", axes=axes, **options)


def check(run: patchloom.Run, image: np.ndarray, oracle: Oracle, skip: Callable[[np.ndarray], bool] = empty) -> None:
    """A run of `both` over one image is what its kept patches make."""
    origins, predictions = kept(oracle, image, skip), run["a"]
    dropped = [origin for origin in oracle.origins(image.shape[1:]) if origin not in origins]
    expected = stitched_without(oracle, image, positions_in_patch, origins)
    np.testing.assert_allclose(np.asarray(predictions.stitched("map")), expected, rtol=1e-5, atol=1e-3)
    assert list(predictions) == origins
    assert len(predictions) == len(origins)
    assert list(predictions.skipped()) == dropped
    vectors = oracle.vectors(image, halves)
    for origin in origins:
        np.testing.assert_allclose(predictions[origin]["score"], vectors[origin], rtol=1e-6)
    for origin in dropped:
        assert run.patch("a", *origin) is None
        with pytest.raises(NotPredictedError, match="skipped"):
            predictions[origin]
    (status,) = run.status().images()
    total = len(origins) + len(dropped)
    assert (status.state, status.patches, status.patches_done, status.skipped) == ("done", total, total, len(dropped))
    assert [item[1:-1] for item in run.items()] == origins
    table = run.patches().to_arrow()
    assert table.num_rows == total, "the rows of skipped patches stay at their places"
    nulls = table["0"].is_null().to_pylist()
    rows = zip(*(table[name].to_pylist() for name in ("z", "y", "x") if name in table.column_names), strict=True)
    assert [row for row, null in zip(rows, nulls, strict=True) if null] == dropped
    assert run.verify() == []


@pytest.fixture
def tiny_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units, chunks and blocks of some pixels, so that small images have many."""
    for module, name, extent in (
        (units, "CHUNK", 8), (units, "CHUNK_DEPTH", 2), (units, "WIDTH", 32), (units, "WIDTH_3D", 32),
        (units, "TABLE_PATCHES", 5), (reading, "BLOCK", 8), (reading, "BLOCK_DEPTH", 2), (reading, "SMALL_CHUNK", 4),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, extent)


class TestAgainstTheOracle:
    @pytest.mark.parametrize("edge", EDGES)
    @pytest.mark.parametrize("blend", BLENDS)
    def test_in_two_dimensions(self, blend: str, edge: str) -> None:
        oracle = Oracle((48, 40), (32, 24), edge=edge, blend=blend)
        image = islands((2, 1201, 101), share=0.2)
        assert 0 < len(kept(oracle, image)) < len(oracle.origins(image.shape[1:]))
        with run_of(image, both, oracle) as run:
            check(run, image, oracle)

    @pytest.mark.parametrize("blend", ["crop", "gaussian"])
    def test_in_three_dimensions(self, blend: str) -> None:
        oracle = Oracle((6, 20, 20), (4, 14, 20), blend=blend)
        image = islands((1, 37, 61, 83), share=0.05)
        assert 0 < len(kept(oracle, image)) < len(oracle.origins(image.shape[1:]))
        with run_of(image, both, oracle) as run:
            check(run, image, oracle)

    @given(layout=layouts(largest=24), blend=st.sampled_from(BLENDS), bits=st.integers(0, 2**16))
    @settings(max_examples=20)
    @pytest.mark.usefixtures("tiny_units")
    def test_for_any_layout_in_many_units(self, layout: Layout, blend: str, bits: int) -> None:
        oracle = layout.oracle.replace(blend=blend)
        rng = np.random.default_rng(bits)
        image = rng.integers(1, 250, (1, *layout.size), dtype=np.uint8)

        def some(patch: np.ndarray) -> bool:
            return bool(patch.sum(dtype=np.int64) % 3 == bits % 4)

        if oracle.origins(layout.size):
            with run_of(image, both, oracle, skip=some, batch=5) as run:
                check(run, image, oracle, some)

    @pytest.mark.parametrize("skip", ["background", "variance:30", "background:0.5"])
    def test_with_the_filters_of_the_command_line(self, skip: str) -> None:
        chosen, oracle, image = as_filter(skip), Oracle((32, 32), (24, 24), blend="gaussian"), islands((3, 200, 170))

        def skips(patch: np.ndarray) -> bool:
            return chosen.skips(patch, "a", Region((0, 0), patch.shape[1:]), (200, 170))

        assert 0 < len(kept(oracle, image, skips)) < len(oracle.origins((200, 170)))
        with run_of(image, both, oracle, skip=skip) as run:
            check(run, image, oracle, skips)


class TestKindsOfHeads:
    @pytest.mark.parametrize("blend", ["crop", "gaussian"])
    def test_nothing_is_skipped(self, blend: str) -> None:
        oracle, image = Oracle((32, 32), (24, 24), blend=blend), islands((1, 100, 90), share=1)
        with run_of(image, both, oracle) as run, run_of(image, both, oracle, skip=None) as plain:
            check(run, image, oracle)
            np.testing.assert_allclose(run["a"].stitched("map"), plain["a"].stitched("map"), rtol=1e-5)
            assert run.patches().to_arrow().equals(plain.patches().to_arrow())
            (table,) = (run.path / "patches").rglob("*.parquet")
            assert table.read_bytes() == next((plain.path / "patches").rglob("*.parquet")).read_bytes()

    @pytest.mark.parametrize("blend", ["crop", "gaussian"])
    def test_everything_is_skipped(self, blend: str) -> None:
        oracle, image = Oracle((32, 32), (24, 24), blend=blend), islands((1, 1100, 90), share=0)
        with run_of(image, both, oracle) as run:
            assert len(run["a"]) == 0
            assert list(run["a"]) == list(run.items()) == []
            assert len(list(run["a"].skipped())) == len(oracle.origins((1100, 90)))
            assert np.isnan(np.asarray(run["a"].stitched("map"))).all()
            assert run["a"].at(5, 5) == {}
            assert run.patches(where='"0" >= 0 or "0" < 0').to_arrow().num_rows == 0
            assert run.status().done == 1
            assert run.verify() == []

    @pytest.mark.parametrize("blend", ["crop", "hann"])
    def test_integer_classes_are_nodata_where_nothing_was_predicted_on_all_levels(self, blend: str) -> None:
        oracle, image = Oracle((32, 32), (32, 32), blend=blend), islands((2, 700, 640), share=0)
        image[:, 320:352, 64:128] = 9
        with run_of(image, positions_in_patch, oracle, reduce="argmax") as run:
            found = np.asarray(run["a"].stitched())
            assert found.dtype == np.uint8
            assert (found[320:352, 64:128] != 255).all()
            assert (found == 255).sum() == found.size - 32 * 64
            half = np.asarray(run["a"].stitched(level=1))
            assert (half == 255).sum() == half.size - 16 * 32
            assert (half[160:176, 32:64] != 255).all()

    def test_numbers_without_names_and_long_lists_are_null_in_tables(self, tmp_path: Path) -> None:
        image, oracle = islands((1, 100, 100), share=0.1), Oracle((20, 20), (20, 20))
        expected = kept(oracle, image)
        heads: list[Model] = [
            lambda batch: batch.max((1, 2, 3)),
            lambda batch: np.repeat(batch.mean((1, 2, 3), dtype=np.float32)[:, None], 200, 1),
            lambda batch: np.repeat(batch.mean((1, 2, 3))[:, None], 100, 1).astype(np.float16),
            lambda batch: batch.max((1, 2, 3)).astype(np.float16),
        ]
        for model in heads:
            with run_of(image, model, oracle) as run:
                table = run.patches().to_arrow()
                assert table["prediction"].null_count == 25 - len(expected)
                assert len(run.patches(where="prediction is not null")) == len(expected)
                for origin in expected:
                    box = tuple(slice(o, o + 20) for o in origin)
                    np.testing.assert_array_equal(run["a"][origin], model(image[(slice(None), *box)][None])[0])
                run.export(tmp_path / "out.csv")
                lines = (tmp_path / "out.csv").read_text().splitlines()[1:]
                assert sum(line.endswith(",") for line in lines) == 25 - len(expected)
                run.export(tmp_path / "out.parquet")
                assert pq.read_table(tmp_path / "out.parquet")["prediction"].null_count == 25 - len(expected)

    def test_a_prediction_that_is_no_number_is_told_from_a_patch_that_was_skipped(self, tmp_path: Path) -> None:
        image = islands((1, 64, 64), share=0)
        image[:, :32] = 5
        image[:, :16, :16] = 6

        def roots(batch: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore"):
                return np.sqrt(5.5 - batch.mean((1, 2, 3), dtype=np.float32))

        with run_of(image, roots, Oracle((16, 16), (16, 16))) as run:
            table = run.patches().to_arrow()
            assert table["prediction"].null_count == 8
            assert np.isnan(table["prediction"][0].as_py())
            frame = run.patches().to_pandas()
            assert frame["prediction"].isna().sum() == 9
            assert len(run.patches(where="prediction > 0")) == 7
            assert len(run.patches(sort="-prediction", limit=3)) == 3
            assert run.bad_patches() == {"a": 1}
            run.export(tmp_path / "out.csv")
            endings = [line.rpartition(",")[2] for line in (tmp_path / "out.csv").read_text().splitlines()[1:]]
            assert endings[0] == "nan"
            assert endings.count("") == 8


class TestTheModel:
    def test_sees_only_what_is_kept_in_full_batches(self, tmp_path: Path) -> None:
        image, sizes, seen = islands((1, 900, 200), share=0.1), [], []

        def model(batch: np.ndarray) -> np.ndarray:
            sizes.append(len(batch))
            seen.extend(batch)
            return batch.mean((1, 2, 3))

        events: list[Event] = []
        run = patchloom.predict({"a": image}, model, tmp_path / "run", axes="CYX", patch=20, skip=empty, batch=7,
                                threads=2, callbacks=[events.append])
        expected = kept(Oracle((20, 20), (20, 20)), image)
        assert list(run["a"]) == expected
        assert len(seen) == len(expected) + 1, "but for the patch that the model is tried on"
        assert all(patch.any() for patch in seen[1:])
        full, rest = divmod(len(expected), 7)
        assert sorted(sizes[1:]) == [rest] * bool(rest) + [7] * full
        assert sum(event.patches for event in events if isinstance(event, PatchesPredicted)) == len(expected)
        skipped = 450 - len(expected)
        assert sum(event.patches for event in events if isinstance(event, PatchesSkipped)) == skipped
        assert [event for event in events if isinstance(event, ImageDone)] == [ImageDone("a", 450, 0, skipped)]
        finished = events[-1]
        assert isinstance(finished, RunFinished)
        assert (finished.patches, finished.skipped) == (len(expected), skipped)

    def test_the_filter_sees_pixels_as_they_are_in_the_file_without_padding(self, tmp_path: Path) -> None:
        seen = []

        def note(patch: np.ndarray) -> bool:
            seen.append((patch.shape, patch.dtype.name, int(patch.max())))
            return False

        image = np.arange(70 * 50, dtype=np.uint16).reshape(70, 50)
        patchloom.predict({"a": image}, lambda batch: batch.mean((1, 2, 3)), tmp_path / "run", patch=40, edge="pad",
                          scale=1000, mean=3, skip=note, threads=1)
        assert sorted(seen) == sorted([((1, 40, 40), "uint16", 1989), ((1, 40, 10), "uint16", 1999),
                                       ((1, 30, 40), "uint16", 3489), ((1, 30, 10), "uint16", 3499)])


def images_of(folder: Path) -> Path:
    """Large and small images, some of them empty."""
    folder.mkdir()
    for i, shape in enumerate([(1300, 200), (90, 70), (1100, 130), (40, 200), (64, 64), (700, 90), (300, 80)]):
        np.save(folder / f"{i}.npy", islands((1, *shape), seed=i, share=0 if i == 4 else 0.15)[0])
    return folder


OPTIONS: dict[str, Any] = {"patch": 32, "overlap": 8, "skip": "variance:0.001"}


def everything(run: patchloom.Run) -> dict[tuple[Any, ...], Any]:
    return {(name, *key): run[name][key] for name in run for key in run[name]}


def same(found: patchloom.Run, expected: patchloom.Run) -> None:
    ours, theirs = everything(found), everything(expected)
    assert list(ours) == list(theirs)
    for key, heads in ours.items():
        for name, value in heads.items():
            np.testing.assert_array_equal(value, theirs[key][name], err_msg=str(key))
    assert {n: list(found[n].skipped()) for n in found} == {n: list(expected[n].skipped()) for n in expected}
    assert list(found.status().images()) == list(expected.status().images())
    assert found.patches().to_arrow().equals(expected.patches().to_arrow())
    assert found.verify() == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images_of(tmp_path_factory.mktemp("skip") / "images")


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> patchloom.Run:
    return patchloom.predict(folder, both, tmp_path_factory.mktemp("skip") / "run", **OPTIONS)


class TestTheSameAnswer:
    @pytest.mark.parametrize(("batch", "threads"), [
        (1, 1), (3, 4), pytest.param(64, 1, marks=pytest.mark.slow), pytest.param(17, 2, marks=pytest.mark.slow),
    ])  # fmt: skip
    def test_whatever_the_batch_and_the_threads(
        self, batch: int, threads: int, folder: Path, undisturbed: patchloom.Run, tmp_path: Path
    ) -> None:
        assert len(list(undisturbed["4.npy"])) == 0
        run = patchloom.predict(folder, both, tmp_path / "run", batch=batch, threads=threads, **OPTIONS)
        same(run, undisturbed)

    @pytest.mark.parametrize("after", [
        1, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow),
    ])  # fmt: skip
    def test_after_an_interruption(
        self, after: int, folder: Path, undisturbed: patchloom.Run, tmp_path: Path
    ) -> None:
        committed = 0

        def listen(event: Event) -> None:
            nonlocal committed
            committed += isinstance(event, UnitCommitted)
            if committed == after and isinstance(event, UnitCommitted):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)  # the main thread handles it before the last unit is acknowledged

        with pytest.raises(patchloom.Interrupted):
            patchloom.predict(folder, both, tmp_path / "run", batch=2, threads=1, callbacks=[listen], **OPTIONS)
        partial = patchloom.open(tmp_path / "run")
        assert partial.verify() == []
        for name in partial:
            assert set(partial[name].skipped()) <= set(undisturbed[name].skipped())
            assert set(partial[name]) <= set(undisturbed[name])
        run = partial.resume(model=both)
        same(run, undisturbed)

    def test_from_an_index_that_is_made_again(self, undisturbed: patchloom.Run, tmp_path: Path) -> None:
        shutil.copytree(undisturbed.path, tmp_path / "run")
        for path in (tmp_path / "run").glob("index*"):
            path.unlink()
        same(patchloom.open(tmp_path / "run"), undisturbed)

    def test_of_many_small_images_in_one_unit(self, tmp_path: Path) -> None:
        images = {f"{i:03}": islands((1, 40 + i % 7, 50), seed=i, share=0.3)[0] for i in range(200)}
        oracle = Oracle((20, 20), (20, 20))
        run = patchloom.predict(images, both, tmp_path / "run", patch=20, skip=empty)
        for name, image in images.items():
            assert list(run[name]) == kept(oracle, image[None])
        assert len(list((run.path / "patches").rglob("*.parquet"))) < 10

    def test_an_image_that_changes_is_tested_again(self, tmp_path: Path) -> None:
        image = islands((1, 100, 100), share=0)[0]
        patchloom.predict({"a": image}, both, tmp_path / "run", patch=20, skip="variance:1")
        run = patchloom.predict({"a": islands((1, 100, 100), share=1)[0]}, both, tmp_path / "run", patch=20,
                                skip="variance:1")
        assert list(run["a"].skipped()) == []
        assert len(run["a"]) == 25
        assert next(run.status().images()).skipped == 0


class TestTheFilterIsPartOfTheRun:
    def test_another_filter_is_refused(self, tmp_path: Path) -> None:
        images = {"a": islands((1, 50, 50))[0]}
        patchloom.predict(images, halves, tmp_path / "run", patch=20, skip="variance:1")
        for other in ("variance:2", None, empty):
            with pytest.raises(ConfigMismatchError, match="skip"):
                patchloom.predict(images, halves, tmp_path / "run", patch=20, skip=other)
        patchloom.predict(images, halves, tmp_path / "run", patch=20, skip="variance:1")

    def test_a_function_is_recognised_and_has_to_be_given_again(self, tmp_path: Path) -> None:
        images = {"a": islands((1, 50, 50))[0]}
        run = patchloom.predict(images, halves, tmp_path / "run", patch=20, skip=empty)
        patchloom.predict(images, halves, tmp_path / "run", patch=20, skip=empty)
        with pytest.raises(ConfigMismatchError, match="skip"):
            patchloom.predict(images, halves, tmp_path / "run", patch=20, skip=lambda patch: patch.max() < 3)
        with pytest.raises(UsageError, match="live skip") as caught:
            run.resume(model=halves, source=images)
        assert "skip=" in caught.value.hint

    def test_a_function_can_be_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "filters_of_mine.py").write_text("def dark(patch):\n    return patch.mean() < 5\n")
        monkeypatch.chdir(tmp_path)
        image = islands((1, 50, 50))[0]
        run = patchloom.predict({"a": image}, halves, tmp_path / "run", patch=25, skip="filters_of_mine:dark")
        expected = kept(Oracle((25, 25), (25, 25)), image[None], lambda patch: patch.mean() < 5)
        assert list(run["a"]) == expected

    @pytest.mark.parametrize("skip", ["tissue", "variance:x", "no_such_module:f", "mask:/no/such/masks"])
    def test_an_unknown_filter_is_refused_before_anything_is_written(self, skip: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="skip"):
            patchloom.predict({"a": islands((1, 50, 50))[0]}, halves, tmp_path / "run", patch=20, skip=skip)
        assert not (tmp_path / "run").exists()

    def test_a_function_that_fails_ends_the_run(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="gave a NoneType"):
            patchloom.predict({"a": islands((1, 50, 50))[0]}, halves, tmp_path / "run", patch=20,
                              skip=lambda patch: None)

    def test_a_run_without_a_filter_keeps_no_word_of_it(self, tmp_path: Path) -> None:
        run = patchloom.predict({"a": islands((1, 50, 50))[0]}, both, tmp_path / "run", patch=20)
        assert "skipped" not in "".join(log.read_text() for log in (run.path / "journal").iterdir())


class TestMasks:
    @pytest.fixture
    def slides(self, tmp_path: Path) -> Path:
        (tmp_path / "slides").mkdir()
        for name in ("a.png", "b.png"):
            Pillow.fromarray(np.random.default_rng(3).integers(0, 255, (120, 160, 3), np.uint8)).save(
                tmp_path / "slides" / name
            )
        return tmp_path / "slides"

    def mask(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        pixels = np.zeros((6, 8), np.uint8)
        pixels[1:3, 2:5] = 1  # rows 20 to 60, columns 40 to 100
        Pillow.fromarray(pixels * 255).save(path)

    def test_at_another_resolution_keep_what_they_touch(self, slides: Path, tmp_path: Path) -> None:
        self.mask(tmp_path / "masks" / "a.png")
        self.mask(tmp_path / "masks" / "b.bmp")
        run = patchloom.predict(slides, both, tmp_path / "run", patch=20, skip=f"mask:{tmp_path / 'masks'}")
        expected = [(y, x) for y in range(20, 60, 20) for x in range(40, 100, 20)]
        assert list(run["a.png"]) == list(run["b.png"]) == expected

    def test_an_image_without_one_costs_one_image(self, slides: Path, tmp_path: Path) -> None:
        self.mask(tmp_path / "masks" / "a.png")
        with pytest.warns(UserWarning, match="1 image failed"):
            run = patchloom.predict(slides, both, tmp_path / "run", patch=20, skip=f"mask:{tmp_path / 'masks'}")
        (failure,) = run.failures()
        assert failure.image == "b.png"
        assert "no mask" in failure.message
        assert len(run["a.png"]) == 6
        self.mask(tmp_path / "masks" / "b.png")
        assert len(run.resume(model=both)["b.png"]) == 6

    def test_one_file_is_for_one_image(self, slides: Path, tmp_path: Path) -> None:
        self.mask(tmp_path / "masks" / "mine.png")
        skip = f"mask:{tmp_path / 'masks' / 'mine.png'}"
        run = patchloom.predict(slides / "a.png", both, tmp_path / "one", patch=20, skip=skip)
        assert len(run["a.png"]) == 6
        with pytest.raises(UsageError, match="one mask"):
            patchloom.predict(slides, both, tmp_path / "two", patch=20, skip=skip)

    def test_are_found_again_from_another_folder(
        self, slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.mask(tmp_path / "masks" / "a.png")
        self.mask(tmp_path / "masks" / "b.png")
        monkeypatch.chdir(tmp_path)
        run = patchloom.predict(slides, both, tmp_path / "run", patch=20, skip="mask:masks")
        monkeypatch.chdir(slides)
        assert run.resume(model=both).status().done == 2


class TestCommandLine:
    @pytest.fixture
    def drawn(self, tmp_path: Path) -> Path:
        """A white page with some colour on it."""
        page = np.full((200, 300, 3), 245, np.uint8)
        page[50:100, 100:200] = (150, 40, 110)
        Pillow.fromarray(page).save(tmp_path / "page.png")
        (tmp_path / "colour.py").write_text("def mean(batch):\n    return batch.mean((2, 3))\n")
        return tmp_path

    def test_predict_skips_background(
        self, drawn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(drawn)
        asked = ["predict", "page.png", "-m", "colour:mean", "-o", "run", "--patch", "50", "--skip", "background"]
        assert main([*asked, "--dry-run"]) == 0
        assert "skip     background" in capsys.readouterr().out
        assert main(asked) == 0
        assert "page.png  done  24 patches, 22 skipped" in capsys.readouterr().err
        assert main(["status", "run", "--json"]) == 0
        (image,) = json.loads(capsys.readouterr().out)["images"]
        assert image == {"image": "page.png", "state": "done", "patches": 24, "patches_done": 24, "skipped": 22}
        assert main(["status", "run"]) == 0
        assert "skipped" in capsys.readouterr().out
        assert main(["patch", "run", "page.png", "50", "100", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["prediction"]["0"] == 150
        assert main(["patch", "run", "page.png", "0", "0"]) == 1
        assert "was skipped" in capsys.readouterr().err
        assert main(["query", "run", "--where", '"0" > 0', "--json"]) == 0
        assert [(row["y"], row["x"]) for row in json.loads(capsys.readouterr().out)] == [(50, 100), (50, 150)]
        assert main(["query", "run", "--json"]) == 0
        assert sum(row["0"] is None for row in json.loads(capsys.readouterr().out)) == 22
        assert main(["verify", "run"]) == 0

    def test_another_filter_or_an_unknown_one_is_one_line(
        self, drawn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(drawn)
        asked = ["predict", "page.png", "-m", "colour:mean", "-o", "run", "--patch", "50"]
        assert main([*asked, "--skip", "tissue"]) == 2
        assert "no filter is called 'tissue'" in capsys.readouterr().err
        assert main([*asked, "--skip", "background"]) == 0
        capsys.readouterr()
        assert main(asked) == 2
        assert "different skip (background is not none)" in capsys.readouterr().err


def test_smoothed_maps_of_kept_patches_agree_with_the_plain_run_where_nobody_is_missing(tmp_path: Path) -> None:
    """Inside islands larger than a patch the answer is that of a run without a filter."""
    image = np.zeros((300, 300), np.uint8)
    image[:150] = np.random.default_rng(0).integers(1, 250, (150, 300))
    options: dict[str, Any] = {"patch": 32, "overlap": 16, "blend": "gaussian"}
    run = patchloom.predict({"a": image}, smoothed, tmp_path / "skip", skip="variance:0.1", **options)
    plain = patchloom.predict({"a": image}, smoothed, tmp_path / "all", **options)
    found, expected = np.asarray(run["a"].stitched()), np.asarray(plain["a"].stitched())
    np.testing.assert_allclose(found[:, :144], expected[:, :144], rtol=1e-5, atol=1e-4)
    assert np.isnan(found[:, 192:]).all()
