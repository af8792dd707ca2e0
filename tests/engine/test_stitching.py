"""What a run stitches is what a naive oracle makes of the whole image at once."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import patchloom
from patchloom.engine import prepare, reading
from patchloom.geometry import units
from patchloom.testing.oracle import Oracle, positions_in_patch, smoothed
from patchloom.testing.strategies import Layout, layouts

BLENDS = ("crop", "constant", "gaussian", "hann")
WEIGHTED = BLENDS[1:]
EDGES = ("shift", "pad", "drop")

Model = Callable[[np.ndarray], Any]


def pointwise(batch: np.ndarray) -> np.ndarray:
    """Two channels, each a function of the pixel alone; exact in float32."""
    first = batch[:, 0].astype(np.float32)
    return np.stack([first * 2 + 1, 5 - first], axis=1)


def pixels(shape: tuple[int, ...], dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    """Reproducible noise."""
    return np.random.default_rng(seed).integers(0, 250, shape).astype(dtype)


def options(oracle: Oracle) -> dict[str, Any]:
    """The oracle's fields as options of `predict`."""
    names = ("patch", "stride", "edge", "pad", "fill", "blend", "nodata")
    return {name: getattr(oracle, name) for name in names}


@contextmanager
def run_of(image: np.ndarray, model: Model, oracle: Oracle, **more: Any) -> Iterator[patchloom.Run]:
    """A run over one image ``(C, [Z,] Y, X)`` named `a`, in a folder that is gone afterwards."""
    axes = "CZYX" if image.ndim == 4 else "CYX"
    with tempfile.TemporaryDirectory() as folder:
        yield patchloom.predict({"a": image}, model, Path(folder) / "run", axes=axes, **options(oracle), **more)


def stitched(run: patchloom.Run, head: str | None = None, level: int = 0) -> np.ndarray:
    return np.asarray(run["a"].stitched(head, level))


def expect(found: np.ndarray, expected: np.ndarray, oracle: Oracle) -> None:
    """Equal for `crop`; within 1e-5 of the largest value for sums of float32."""
    if oracle.blend == "crop":
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    else:
        largest = np.nanmax(np.abs(expected), initial=1)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * largest)


@pytest.fixture
def tiny_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units, chunks and blocks of some pixels, so that small images have many."""
    for module, name, extent in (
        (units, "CHUNK", 8), (units, "CHUNK_DEPTH", 2), (units, "WIDTH", 32), (units, "WIDTH_3D", 32),
        (units, "TABLE_PATCHES", 5), (reading, "BLOCK", 8), (reading, "BLOCK_DEPTH", 2), (reading, "SMALL_CHUNK", 4),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, extent)


class TestEveryLayout:
    """Shapes of one pixel, primes, strides above the patch, images below it; two and three dimensions."""

    @given(layout=layouts(), blend=st.sampled_from(BLENDS), pad=st.sampled_from(["reflect", "edge", "constant"]))
    @settings(max_examples=60)
    @pytest.mark.parametrize("model", [pointwise, positions_in_patch, smoothed], ids=lambda model: model.__name__)
    def test_equals_the_oracle(self, model: Model, layout: Layout, blend: str, pad: str) -> None:
        oracle = layout.oracle.replace(blend=blend, pad=pad, fill=3.0)
        image = pixels((1, *layout.size))
        with run_of(image, model, oracle) as run:
            if not oracle.origins(layout.size):
                assert np.isnan(stitched(run)).all()
                assert list(run["a"]) == []
                return
            expect(stitched(run), oracle.stitch(image, model), oracle)
            assert list(run["a"]) == oracle.origins(layout.size)

    @given(layout=layouts(largest=40), blend=st.sampled_from(BLENDS))
    @settings(max_examples=60)
    @pytest.mark.usefixtures("tiny_units")
    @pytest.mark.parametrize("model", [positions_in_patch, smoothed], ids=lambda model: model.__name__)
    def test_equals_the_oracle_in_many_units(self, model: Model, layout: Layout, blend: str) -> None:
        oracle = layout.oracle.replace(blend=blend)
        image = pixels((1, *layout.size))
        if oracle.origins(layout.size):
            with run_of(image, model, oracle, batch=5) as run:
                expect(stitched(run), oracle.stitch(image, model), oracle)

    @given(layout=layouts(), blend=st.sampled_from(BLENDS))
    @settings(max_examples=25)
    def test_a_patch_looked_up_is_its_part_of_the_map(self, layout: Layout, blend: str) -> None:
        oracle = layout.oracle.replace(blend=blend)
        image = pixels((1, *layout.size))
        with run_of(image, smoothed, oracle) as run:
            whole = stitched(run)
            for key, footprint in oracle.footprints(layout.size).items():
                np.testing.assert_array_equal(run["a"][key], whole[(slice(None), *footprint)])
                np.testing.assert_array_equal(run.patch("a", *key), whole[(slice(None), *footprint)])


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("blend", BLENDS)
class TestLargerImages:
    """Several units of the usual size."""

    def test_in_two_dimensions(self, blend: str, edge: str) -> None:
        oracle = Oracle((100, 90), (80, 60), edge=edge, blend=blend)
        image = pixels((3, 1201, 307))
        with run_of(image, positions_in_patch, oracle) as run:
            expect(stitched(run), oracle.stitch(image, positions_in_patch), oracle)

    def test_in_three_dimensions(self, blend: str, edge: str) -> None:
        oracle = Oracle((12, 30, 20), (9, 20, 20), edge=edge, blend=blend)
        image = pixels((1, 75, 61, 53))
        with run_of(image, positions_in_patch, oracle) as run:
            expect(stitched(run), oracle.stitch(image, positions_in_patch), oracle)

    def test_in_sweeps_side_by_side(self, blend: str, edge: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(units, "WIDTH", 512)
        oracle = Oracle((64, 64), (50, 50), edge=edge, blend=blend)
        image = pixels((1, 530, 1301))
        with run_of(image, positions_in_patch, oracle) as run:
            expect(stitched(run), oracle.stitch(image, positions_in_patch), oracle)


def enlarged(k: int) -> Model:
    """Model whose map has k pixels for each of the image, and shows which patch it comes from."""

    def model(batch: np.ndarray) -> np.ndarray:
        large = batch.astype(np.float32)
        for axis in range(2, batch.ndim):
            large = np.repeat(large, k, axis)
        return positions_in_patch(large)

    return model


def reduced(k: int) -> Model:
    """Model whose map has a pixel for each k of the image."""

    def model(batch: np.ndarray) -> np.ndarray:
        small = batch.astype(np.float32)
        for axis in range(2, batch.ndim):
            shape = (*small.shape[:axis], small.shape[axis] // k, k, *small.shape[axis + 1 :])
            small = small.reshape(shape).mean(axis + 1)
        return positions_in_patch(small)

    return model


class TestHeadsAtAnotherScale:
    @given(
        layout=layouts(largest=12), blend=st.sampled_from(BLENDS), scale=st.sampled_from([2, 3, 4]), data=st.data()
    )
    @settings(max_examples=40)
    @pytest.mark.usefixtures("tiny_units")
    def test_enlarged_maps_equal_the_oracle(
        self, layout: Layout, blend: str, scale: int, data: st.DataObject
    ) -> None:
        if all(n == 1 for n in layout.patch) or len(layout.patch) == 3:
            scale = 2
        oracle = layout.oracle.replace(blend=blend, scale=Fraction(scale))
        image = pixels((1, *layout.size))
        if oracle.origins(layout.size):
            with run_of(image, enlarged(scale), oracle) as run:
                expect(stitched(run), oracle.stitch(image, enlarged(scale)), oracle)
                whole = stitched(run)
                key, footprint = data.draw(st.sampled_from(sorted(oracle.footprints(layout.size).items(), key=str)))
                np.testing.assert_array_equal(run["a"][key], whole[(slice(None), *footprint)])

    @given(layout=layouts(largest=9), blend=st.sampled_from(BLENDS), k=st.sampled_from([2, 3, 4]), data=st.data())
    @settings(max_examples=40)
    @pytest.mark.usefixtures("tiny_units")
    def test_reduced_maps_equal_the_oracle(self, layout: Layout, blend: str, k: int, data: st.DataObject) -> None:
        size = tuple(max(1, n * k - data.draw(st.integers(0, k - 1))) for n in layout.size)
        patch, stride = tuple(n * k for n in layout.patch), tuple(n * k for n in layout.stride)
        oracle = Oracle(patch, stride, layout.edge, blend=blend, scale=Fraction(1, k))
        image = pixels((1, *size))
        if oracle.origins(size):
            with run_of(image, reduced(k), oracle) as run:
                assert stitched(run).shape[1:] == tuple(-(-n // k) for n in size)
                expect(stitched(run), oracle.stitch(image, reduced(k)), oracle)
                whole = stitched(run)
                for key, footprint in oracle.footprints(size).items():
                    np.testing.assert_array_equal(run["a"][key], whole[(slice(None), *footprint)])

    @pytest.mark.parametrize("scale", [Fraction(2), Fraction(1, 2), Fraction(1, 4)])
    @pytest.mark.parametrize("blend", ["crop", "gaussian"])
    def test_of_an_image_of_several_units(self, scale: Fraction, blend: str) -> None:
        oracle = Oracle((64, 64), (48, 48), blend=blend, scale=scale)
        model = enlarged(scale.numerator) if scale > 1 else reduced(scale.denominator)
        image = pixels((1, 1407, 203))
        with run_of(image, model, oracle) as run:
            expect(stitched(run), oracle.stitch(image, model), oracle)

    def test_a_stride_between_two_pixels_of_the_map_is_refused_and_the_nearest_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="48") as caught:
            patchloom.predict({"a": pixels((100, 100))}, reduced(4), tmp_path / "run", patch=64, stride=49)
        assert "4" in str(caught.value)


class TestKindsOfHeads:
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float16", "float32", "float64"])
    def test_crop_keeps_the_dtype_and_the_bytes(self, dtype: str) -> None:
        def model(batch: np.ndarray) -> np.ndarray:
            return (batch % 100).astype(dtype)

        oracle = Oracle((16, 16), (12, 12))
        image = pixels((2, 61, 47))
        with run_of(image, model, oracle) as run:
            expect(stitched(run), oracle.stitch(image, model), oracle)
            assert stitched(run).dtype == dtype

    @pytest.mark.parametrize("blend", WEIGHTED)
    @pytest.mark.parametrize(("dtype", "within"), [("uint8", 0.51), ("uint16", 0.51), ("float16", 0.13)])
    def test_blends_are_rounded_to_the_dtype(self, dtype: str, within: float, blend: str) -> None:
        def model(batch: np.ndarray) -> np.ndarray:
            return positions_in_patch(batch)[:, :1].astype(dtype)

        oracle = Oracle((12, 12), (7, 7), blend=blend)
        image = pixels((1, 61, 47))
        with run_of(image, model, oracle) as run:
            assert stitched(run).dtype == dtype
            np.testing.assert_allclose(stitched(run).astype(float), oracle.stitch(image, model), atol=within)

    @pytest.mark.parametrize(
        ("dtype", "nodata"), [("uint8", 255), ("uint16", 65535), ("int16", 32767), ("float32", np.nan)]
    )
    @pytest.mark.parametrize("blend", ["crop", "hann"])
    def test_what_is_never_predicted_is_nodata(self, dtype: str, nodata: float, blend: str) -> None:
        oracle = Oracle((8, 8), (13, 11), edge="drop", blend=blend)
        image = pixels((1, 50, 40)) % 100

        def model(batch: np.ndarray) -> np.ndarray:
            return batch.astype(dtype)

        with run_of(image, model, oracle) as run:
            found = stitched(run)
            np.testing.assert_allclose(found.astype(float), oracle.stitch(image, model).astype(float), rtol=1e-6)
            missing = np.isnan(found) if np.isnan(nodata) else found == nodata
            assert missing.sum() == 50 * 40 - 64 * len(oracle.origins((50, 40)))

    def test_nodata_is_what_the_user_says(self) -> None:
        oracle = Oracle((8, 8), (13, 11), edge="drop", nodata=-1)
        image = pixels((1, 50, 40))
        with run_of(image, smoothed, oracle) as run:
            assert (stitched(run) == -1).sum() == 50 * 40 - 64 * len(oracle.origins((50, 40)))

    def test_a_head_without_channels_is_a_map_without_them(self) -> None:
        oracle = Oracle((16, 16), (12, 12), blend="gaussian")
        image = pixels((3, 61, 47))

        def model(batch: np.ndarray) -> np.ndarray:
            return batch.mean(axis=1, dtype=np.float32)

        with run_of(image, model, oracle) as run:
            assert run["a"].stitched().axes == "YX"
            assert stitched(run).shape == (61, 47)
            expect(stitched(run), oracle.stitch(image, model), oracle)
            assert run["a"][12, 24].shape == (16, 16)

    @given(layout=layouts())
    @settings(max_examples=30)
    @pytest.mark.usefixtures("tiny_units")
    def test_vectors_are_found_at_the_origins_of_their_patches(self, layout: Layout) -> None:
        def model(batch: np.ndarray) -> np.ndarray:
            flat = batch.reshape(len(batch), -1).astype(np.float32)
            return np.stack([flat[:, 0], flat[:, -1], flat.sum(1)], axis=1)

        image = pixels((1, *layout.size), "uint16")
        expected = layout.oracle.vectors(image, model)
        with run_of(image, model, layout.oracle) as run:
            predictions = run["a"]
            assert list(predictions) == list(expected)
            assert len(predictions) == len(expected)
            for key, vector in expected.items():
                np.testing.assert_array_equal(predictions[key], vector)
            assert [item[1:-1] for item in run.items()] == list(expected)

    def test_numbers_are_vectors_without_an_axis(self) -> None:
        oracle = Oracle((10, 10), (10, 10))
        image = pixels((1, 40, 30))
        with run_of(image, lambda batch: batch.mean((1, 2, 3)), oracle) as run:
            assert run["a"][10, 20].shape == ()
            assert run["a"][10, 20] == image[0, 10:20, 20:30].mean()

    @pytest.mark.parametrize("blend", ["crop", "gaussian"])
    def test_several_heads_are_a_dict_a_patch(self, blend: str) -> None:
        def model(batch: np.ndarray) -> dict[str, np.ndarray]:
            return {
                "mask": smoothed(batch),
                "score": batch.mean((2, 3), dtype=np.float32),
                "half": reduced(2)(batch),
            }

        oracle = Oracle((16, 16), (12, 12), blend=blend)
        image = pixels((2, 61, 47))
        with run_of(image, model, oracle) as run:
            assert [head.name for head in run.heads] == ["mask", "score", "half"]
            assert [head.kind for head in run.heads] == ["dense", "vector", "dense"]
            halved = oracle.replace(scale=Fraction(1, 2))
            expect(stitched(run, "half"), halved.stitch(image, reduced(2)), halved)
            found = run["a"][12, 24]
            assert list(found) == ["mask", "score", "half"]
            assert found["mask"].shape == (2, 16, 16)
            assert found["half"].shape == (2, 8, 8)
            np.testing.assert_array_equal(found["score"], image[:, 12:28, 24:40].mean((1, 2), dtype=np.float32))
            np.testing.assert_array_equal(run.patch("a", 12, 24, head="score"), found["score"])

    def test_a_tuple_of_heads_keeps_their_order(self) -> None:
        oracle = Oracle((16, 16), (16, 16))
        image = pixels((1, 32, 32))
        with run_of(image, lambda batch: (smoothed(batch), batch.max((1, 2, 3))), oracle) as run:
            assert [head.kind for head in run.heads] == ["dense", "vector"]
            dense, vector = run.heads
            assert run["a"][16, 0][vector.name] == image[0, 16:, :16].max()
            np.testing.assert_array_equal(stitched(run, dense.name), oracle.stitch(image, smoothed))


class TestReductions:
    """What is reduced is the blended result."""

    @staticmethod
    def scores(batch: np.ndarray) -> np.ndarray:
        """Three channels of scores that depend on the place in the patch."""
        number = positions_in_patch(batch)[:, 0]
        values = batch[:, 0].astype(np.float32)
        return np.stack([np.sin(number + values), np.cos(number * 2 + values), np.sin(values * 3)], axis=1) * 2

    @pytest.mark.parametrize("blend", BLENDS)
    def test_argmax_is_that_of_the_blended_scores(self, blend: str) -> None:
        oracle = Oracle((12, 12), (7, 7), blend=blend)
        image = pixels((1, 61, 47))
        scores = oracle.stitch(image, self.scores)
        with run_of(image, self.scores, oracle, reduce="argmax") as run:
            found = stitched(run)
        assert found.dtype == np.uint8
        assert found.shape == (61, 47)
        first, second = np.sort(scores, axis=0)[:-3:-1]
        decided = first - second > 1e-4
        assert decided.mean() > 0.99
        np.testing.assert_array_equal(found[decided], scores.argmax(0)[decided])
        if blend == "crop":
            np.testing.assert_array_equal(found, scores.argmax(0))

    @pytest.mark.parametrize("blend", BLENDS)
    @pytest.mark.parametrize(
        ("reduce", "formula", "dtype", "within"),
        [
            ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), "float32", 1e-5),
            ("softmax", lambda x: np.exp(x) / np.exp(x).sum(0), "float32", 1e-5),
            ("float16", lambda x: x, "float16", 2e-3),
            ("sigmoid,uint8", lambda x: 255 / (1 + np.exp(-x)), "uint8", 0.51),
            (["softmax", "float16"], lambda x: np.exp(x) / np.exp(x).sum(0), "float16", 1e-3),
        ],
    )
    def test_scores_become_what_the_formula_says(
        self, blend: str, reduce: Any, formula: Callable[[np.ndarray], np.ndarray], dtype: str, within: float
    ) -> None:
        oracle = Oracle((12, 12), (7, 7), blend=blend)
        image = pixels((1, 61, 47))
        with run_of(image, self.scores, oracle, reduce=reduce) as run:
            found = stitched(run)
        assert found.dtype == dtype
        expected = formula(oracle.stitch(image, self.scores).astype(np.float64))
        np.testing.assert_allclose(found.astype(float), expected, atol=within)

    @pytest.mark.parametrize("blend", BLENDS)
    def test_a_threshold_cuts_the_blended_scores(self, blend: str) -> None:
        oracle = Oracle((12, 12), (7, 7), blend=blend)
        image = pixels((1, 61, 47))
        with run_of(image, self.scores, oracle, reduce="threshold:0.5") as run:
            found = stitched(run)
        scores = oracle.stitch(image, self.scores)
        decided = np.abs(scores - 0.5) > 1e-4
        np.testing.assert_array_equal(found[decided].astype(bool), scores[decided] > 0.5)

    @pytest.mark.parametrize("blend", ["crop", "gaussian"])
    def test_gaps_stay_nodata_after_reduction(self, blend: str) -> None:
        oracle = Oracle((8, 8), (13, 11), blend=blend)
        image = pixels((1, 50, 40))
        with run_of(image, self.scores, oracle, reduce="argmax") as run:
            found = stitched(run)
        covered = ~np.isnan(oracle.stitch(image, self.scores)[0])
        assert (found[~covered] == 255).all()
        assert (found[covered] <= 2).all()

    def test_one_head_is_reduced_and_the_other_is_not(self) -> None:
        def model(batch: np.ndarray) -> dict[str, np.ndarray]:
            return {"mask": self.scores(batch), "score": self.scores(batch).mean((2, 3))}

        oracle = Oracle((16, 16), (12, 12))
        image = pixels((1, 40, 40))
        with run_of(image, model, oracle, reduce="mask=argmax") as run:
            found = run["a"][0, 12]
            assert found["mask"].dtype == np.uint8
            assert found["score"].shape == (3,)
            np.testing.assert_array_equal(stitched(run, "mask"), oracle.stitch(image, self.scores).argmax(0))


class TestLoops:
    """Axes that the model does not see are planes, and come back on their axes."""

    @pytest.mark.parametrize("blend", ["crop", "gaussian"])
    @pytest.mark.parametrize("axes", ["TYX", "TCYX", "YXCT", "STCYX", "TZCYX", "STCZYX", "ZYX"])
    def test_each_plane_is_stitched_by_itself(self, axes: str, blend: str, tmp_path: Path) -> None:
        extents = {"S": 2, "T": 3, "Z": 2, "C": 2, "Y": 31, "X": 22}
        image = pixels(tuple(extents[axis] for axis in axes))
        oracle = Oracle((10, 10), (7, 7), blend=blend)
        run = patchloom.predict({"a": image}, smoothed, tmp_path / "run", axes=axes, **options(oracle))
        loops = "".join(axis for axis in "STZ" if axis in axes)
        has_channels = "C" in axes
        order = "".join(axis for axis in "STCZYX" if axis in loops + "CYX")
        assert run["a"].stitched().axes == order
        keys = []
        for place in itertools.product(*(range(extents[axis]) for axis in loops)):
            plane = plane_of(image, axes, dict(zip(loops, place, strict=True)))
            assert plane.shape[0] == (2 if has_channels else 1)
            index = tuple(dict(zip(loops, place, strict=True)).get(axis, slice(None)) for axis in order)
            expect(stitched(run)[index], oracle.stitch(plane, smoothed), oracle)
            keys += [(*place, *origin) for origin in oracle.origins((31, 22))]
        assert list(run["a"]) == keys
        whole, key = stitched(run), keys[-1]
        index = tuple({**dict(zip(loops, key, strict=False)), "Y": slice(21, 31), "X": slice(12, 22)}.get(
            axis, slice(None)) for axis in order)
        np.testing.assert_array_equal(run["a"][key], whole[index])

    def test_a_model_in_three_dimensions_sees_z_and_loops_over_t(self, tmp_path: Path) -> None:
        image = pixels((2, 9, 31, 22))
        oracle = Oracle((4, 10, 10), (3, 7, 7), blend="hann")
        run = patchloom.predict({"a": image}, smoothed, tmp_path / "run", axes="TZYX", **options(oracle))
        assert run["a"].stitched().axes == "TCZYX"
        for t in range(2):
            expect(stitched(run)[t], oracle.stitch(image[t][None], smoothed), oracle)
        assert run["a"][1, 5, 21, 12].shape == (1, 4, 10, 10)
        assert run.patch("a", 2, 5, 21, 12) is None

    def test_vectors_of_planes_have_the_loops_in_their_keys(self, tmp_path: Path) -> None:
        image = pixels((3, 2, 20, 30))
        run = patchloom.predict({"a": image}, lambda b: b.mean((1, 2, 3)), tmp_path / "run", axes="TZYX", patch=10)
        assert len(run["a"]) == 3 * 2 * 6
        assert run["a"][2, 1, 10, 20] == image[2, 1, 10:20, 20:30].mean()
        assert run["a"].get((3, 0, 0, 0)) is None
        assert run["a"].get((0, 0)) is None


def plane_of(image: np.ndarray, axes: str, loops: dict[str, int]) -> np.ndarray:
    """One plane as ``(C, Y, X)``."""
    plane = image[tuple(loops.get(axis, slice(None)) for axis in axes)]
    left = [axis for axis in axes if axis not in loops]
    plane = np.transpose(plane, [left.index(axis) for axis in "CYX" if axis in left])
    return plane if "C" in left else plane[None]


class TestTheAnswerDoesNotDependOnHowItWasComputed:
    IMAGE = pixels((2, 1203, 411), "uint16", seed=5)

    def maps(
        self, folder: Path, oracle: Oracle, rows: int | None = None, **more: Any
    ) -> tuple[np.ndarray, dict[str, bytes]]:
        """The map, and the bytes of every file that holds predictions."""
        run = patchloom.predict({"a": self.IMAGE[:, :rows]}, smoothed, folder, axes="CYX", **options(oracle), **more)
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in (folder / "dense").rglob("*")
            if path.is_file()
        }
        return stitched(run), files

    @pytest.mark.parametrize("blend", ["crop", "gaussian"])
    def test_batches_and_threads_change_nothing(self, blend: str, tmp_path: Path) -> None:
        oracle = Oracle((96, 96), (72, 72), blend=blend)
        found = {
            (batch, threads): self.maps(tmp_path / f"{batch}-{threads}", oracle, batch=batch, threads=threads)
            for batch in (1, 7, "auto")
            for threads in (1, 4)
        }
        first, files = found[1, 1]
        for again, other_files in found.values():
            if blend == "crop":
                assert other_files == files
            np.testing.assert_allclose(again, first, rtol=1e-5)

    @pytest.mark.parametrize("blend", ["crop", "gaussian"])
    def test_one_unit_or_many_change_nothing(
        self, blend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
    ) -> None:
        oracle = Oracle((48, 48), (36, 36), blend=blend)
        with monkeypatch.context() as patched:
            patched.setattr(units, "CHUNK", 4096)
            one, _ = self.maps(tmp_path / "one", oracle, 203)
        request.getfixturevalue("tiny_units")
        many, files = self.maps(tmp_path / "many", oracle, 203)
        assert len(files) > 100
        if blend == "crop":
            assert one.tobytes() == many.tobytes()
        np.testing.assert_allclose(many, one, rtol=1e-5)

    def test_less_memory_makes_units_narrower_and_changes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # What this process holds is no part of the test.
        monkeypatch.setattr(prepare, "resident_memory", lambda: 200_000_000)

        def model(batch: np.ndarray) -> np.ndarray:
            return np.concatenate([smoothed(batch)] * 12, axis=1)

        more: dict[str, Any] = {"axes": "CYX", "batch": 1, "threads": 2, **options(Oracle((96, 96), (72, 72)))}
        images = {"a": pixels((1, 150, 6000))}
        roomy = patchloom.predict(images, model, tmp_path / "roomy", memory="64GB", **more)
        assert roomy.layout.unit_width is None
        memory = patchloom.plan(images, model, memory="64GB", **more).memory
        narrow = patchloom.predict(images, model, tmp_path / "narrow", memory=int(0.8 * memory), **more)
        assert narrow.layout.unit_width is not None
        assert stitched(narrow).tobytes() == stitched(roomy).tobytes()

    def test_channels_last_or_first_change_nothing(self, tmp_path: Path) -> None:
        class Last:
            channels_last = True

            def __call__(self, batch: np.ndarray) -> np.ndarray:
                assert batch.shape[-1] == 2
                return np.moveaxis(smoothed(np.moveaxis(batch, -1, 1)), 1, -1)

        oracle = Oracle((96, 96), (72, 72))
        with run_of(self.IMAGE, Last(), oracle, model_id="last") as run:
            np.testing.assert_array_equal(stitched(run), oracle.stitch(self.IMAGE, smoothed))

    def test_many_small_images_fill_batches_and_keep_apart(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(1)
        images = {f"{i:03}": pixels((1, *rng.integers(1, 40, 2)), seed=i) for i in range(60)}
        sizes: list[int] = []

        def model(batch: np.ndarray) -> np.ndarray:
            sizes.append(len(batch))
            return smoothed(batch)

        oracle = Oracle((16, 16), (12, 12))
        run = patchloom.predict(images, model, tmp_path / "run", axes="CYX", batch=8, threads=1, **options(oracle))
        for name, image in images.items():
            np.testing.assert_array_equal(np.asarray(run[name].stitched()), oracle.stitch(image, smoothed))
        patches = sum(len(oracle.origins(image.shape[1:])) for image in images.values())
        assert sizes.count(8) >= patches // 8, "batches span images"


class TestLookup:
    @pytest.fixture
    def run(self, tmp_path: Path) -> patchloom.Run:
        oracle = Oracle((10, 10), (7, 7))
        return patchloom.predict(
            {"a": pixels((31, 22)), "b/c": pixels((5, 5))}, smoothed, tmp_path / "run", **options(oracle)
        )

    def test_pixels_at_which_no_patch_starts_have_no_prediction(self, run: patchloom.Run) -> None:
        assert run["a"].get((0, 7)) is not None
        assert run["a"].get((0, 8)) is None
        assert run.patch("a", 0, 8) is None
        assert run.patch("none", 0, 0) is None
        assert run.get("none") is None
        with pytest.raises(KeyError):
            run["a"][0, 8]
        with pytest.raises(KeyError):
            run["none"]

    def test_a_pixel_is_covered_by_the_patches_around_it(self, run: patchloom.Run) -> None:
        found = run["a"].at(8, 13)
        assert list(found) == [(0, 7), (0, 12), (7, 7), (7, 12)]
        for key, prediction in found.items():
            np.testing.assert_array_equal(prediction, run["a"][key])
        assert run["a"].at(31, 0) == {}

    def test_an_image_below_the_patch_is_cut_back(self, run: patchloom.Run) -> None:
        assert run["b/c"][0, 0].shape == (1, 5, 5)
        assert run["b/c"].stitched().shape == (1, 5, 5)

    def test_a_run_is_a_mapping_of_mappings(self, run: patchloom.Run) -> None:
        assert list(run) == ["a", "b/c"]
        assert len(run) == 2
        assert "a" in run
        assert "none" not in run
        assert (0, 7) in run["a"]
        assert len(run["a"]) == len(list(run["a"])) == 12
        assert [item[0] for item in run.items()] == ["a"] * 12 + ["b/c"]

    def test_a_map_is_read_by_slices(self, run: patchloom.Run) -> None:
        lazy = run["a"].stitched()
        whole = np.asarray(lazy)
        assert (lazy.shape, lazy.axes, lazy.dtype) == ((1, 31, 22), "CYX", np.float32)
        np.testing.assert_array_equal(lazy[0, 5:9, -3:], whole[0, 5:9, -3:])
        np.testing.assert_array_equal(lazy[..., 3], whole[..., 3])

    def test_an_opened_run_says_the_same(self, run: patchloom.Run) -> None:
        again = patchloom.open(run.path)
        assert list(again) == list(run)
        np.testing.assert_array_equal(again["a"][7, 7], run["a"][7, 7])


class TestPreprocessing:
    def test_a_callable_gets_the_dtype_of_the_image(self) -> None:
        dtypes = set()

        def model(batch: np.ndarray) -> np.ndarray:
            dtypes.add(batch.dtype.name)
            return smoothed(batch)

        with run_of(pixels((1, 20, 20), "uint16"), model, Oracle((10, 10), (10, 10))):
            assert dtypes == {"uint16"}

    def test_scale_mean_and_std_make_float32(self) -> None:
        def model(batch: np.ndarray) -> np.ndarray:
            assert batch.dtype == np.float32
            return batch.copy()

        image = pixels((2, 25, 20))
        with run_of(image, model, Oracle((10, 10), (7, 7)), scale=255, mean=(0.5, 0.25), std=(0.5, 2)) as run:
            mean, std = np.array([0.5, 0.25])[:, None, None], np.array([0.5, 2])[:, None, None]
            np.testing.assert_allclose(stitched(run), (image / 255 - mean) / std, rtol=1e-5, atol=1e-6)

    def test_channels_are_chosen_in_the_order_given(self) -> None:
        image = pixels((4, 25, 20))
        with run_of(image, lambda batch: batch.copy(), Oracle((10, 10), (7, 7)), channels="2,0") as run:
            np.testing.assert_array_equal(stitched(run), image[[2, 0]])

    def test_padding_is_of_pixels_and_before_scaling(self) -> None:
        image = pixels((1, 5, 5))
        oracle = Oracle((8, 8), (8, 8), pad="constant", fill=255)

        def model(batch: np.ndarray) -> np.ndarray:
            return batch.max((1, 2, 3))

        with run_of(image, model, oracle, scale=255) as run:
            assert run["a"][0, 0] == 1


def test_a_model_of_a_fixed_batch_gets_it_also_where_fewer_patches_are_left(tmp_path: Path) -> None:
    sizes = []

    class Fixed:
        batch = 4
        model_id = "fixed"

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            sizes.append(len(batch))
            return batch * 2

    images = {"a": np.random.default_rng(0).random((48, 80), np.float32)}
    run = patchloom.predict(images, Fixed(), tmp_path / "run", patch=16, threads=1)
    assert set(sizes) == {4}
    np.testing.assert_array_equal(np.asarray(run["a"].stitched())[0], images["a"] * 2)
