"""Bad input costs what it has to and no more: the class of error, its kind, and what it names."""

from __future__ import annotations

import os
import resource
import struct
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tifffile
from onnx import TensorProto, helper
from PIL import Image as PillowImage

import patchloom
from patchloom.errors import (
    MemoryBudgetError,
    ModelError,
    ModelInputError,
    ModelLoadError,
    ModelNotFoundError,
    ModelOutputError,
    NotPredictedError,
    OutputError,
    PatchloomError,
    SourceError,
    SourceNotFoundError,
    UnreadableImageError,
    UsageError,
)
from patchloom.events import Event, ImageDone, ImageFailed
from patchloom.testing.oracle import Oracle, smoothed

DATA = Path(__file__).parents[3] / "shared" / "data"


def mean(batch: np.ndarray) -> np.ndarray:
    """Mean of each patch."""
    return batch.mean((1, 2, 3))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def png(path: Path, *shape: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(noise(*shape)).save(path)
    return path


def onnx_model(path: Path, channels: int | str = 3, patch: int | str = "size") -> Path:
    """Model that gives back its float input, as a file."""
    shape = ["n", channels, patch, patch]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def huge_png(path: Path) -> None:
    """A file of some bytes whose header claims a million pixels a side."""
    header = struct.pack(">IIBBBBB", 10**6, 10**6, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def huge_tiff(path: Path) -> None:
    """One strip of a million by a million pixels, of which there are ten bytes."""
    tags = [(256, 4, 10**6), (257, 4, 10**6), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
            (278, 4, 10**6), (279, 4, 10)]  # fmt: skip
    ifd = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", code, kind, 1, v) for code, kind, v in tags)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 18) + bytes(10) + ifd + bytes(4))


def huge_npy(path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(10))


class TestModels:
    @pytest.mark.parametrize("name", ["none.onnx", "none.pt", "none.pt2", "none.safetensors"])
    def test_a_model_file_that_is_not_there(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFoundError) as caught:
            patchloom.predict({"a": noise(9, 9)}, tmp_path / name, tmp_path / "run")
        assert caught.value.kind == "model-not-found"
        assert isinstance(caught.value, FileNotFoundError)
        assert name in caught.value.message
        assert not (tmp_path / "run").exists(), "nothing is left behind"

    @pytest.mark.parametrize("reference", ["no_such_module:f", "numpy:no_such_function"])
    def test_a_function_that_is_not_there(self, reference: str, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFoundError, match="no_such"):
            patchloom.predict({"a": noise(9, 9)}, reference, tmp_path / "run")

    @pytest.mark.parametrize("content", [b"", b"this is no model", bytes(1000)])
    def test_a_model_file_that_does_not_load(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "broken.onnx").write_bytes(content)
        with pytest.raises(ModelLoadError, match=r"broken\.onnx") as caught:
            patchloom.predict({"a": noise(9, 9)}, tmp_path / "broken.onnx", tmp_path / "run")
        assert caught.value.kind == "model-unreadable"

    def test_what_is_no_model_at_all(self, tmp_path: Path) -> None:
        for model in (3, None, object(), tmp_path):
            with pytest.raises(PatchloomError):
                patchloom.predict({"a": noise(9, 9)}, model, tmp_path / "run")

    def test_a_model_for_other_channels(self, tmp_path: Path) -> None:
        model = onnx_model(tmp_path / "rgb.onnx", channels=3)
        with pytest.raises(ModelInputError, match=r"3 channels") as caught:
            patchloom.predict({"grey": noise(40, 40)}, model, tmp_path / "run", patch=16)
        assert caught.value.kind == "model-input"
        assert "grey" in caught.value.message
        assert "channels" in caught.value.hint

    def test_one_image_of_other_channels_costs_that_image(self, tmp_path: Path) -> None:
        model = onnx_model(tmp_path / "rgb.onnx", channels=3)
        png(tmp_path / "in" / "rgb.png", 40, 40, 3)
        png(tmp_path / "in" / "grey.png", 40, 40)
        with pytest.warns(UserWarning, match="1 image failed"):
            run = patchloom.predict(tmp_path / "in", model, tmp_path / "run", patch=16, scale=255)
        assert [(failure.image, failure.kind) for failure in run.failures()] == [("grey.png", "image-mismatch")]
        assert list(run) == ["rgb.png"]

    @pytest.mark.parametrize("patch", [32, 8])
    def test_a_patch_of_another_size_than_the_fixed_input(self, patch: int, tmp_path: Path) -> None:
        model = onnx_model(tmp_path / "fixed.onnx", patch=16)
        with pytest.raises(ModelInputError, match="16") as caught:
            patchloom.predict({"a": noise(40, 40, 3)}, model, tmp_path / "run", patch=patch, axes="YXC", scale=255)
        assert str(patch) in caught.value.message

    def test_the_fixed_input_is_the_default_patch(self, tmp_path: Path) -> None:
        model = onnx_model(tmp_path / "fixed.onnx", patch=16)
        run = patchloom.predict({"a": noise(40, 40, 3)}, model, tmp_path / "run", axes="YXC", scale=255)
        assert run["a"][0, 16].shape == (3, 16, 16)

    @pytest.mark.parametrize(
        ("answer", "names"),
        [
            (lambda batch: None, "NoneType"),
            (lambda batch: "hello", None),
            (lambda batch: np.float32(3), "single number"),
            (lambda batch: {}, "nothing"),
            (lambda batch: np.zeros((7, 3)), "batch"),
            (lambda batch: np.zeros((len(batch), 2, 3, 4, 5, 6)), None),
            (lambda batch: np.full((len(batch), 2), 1j), "complex"),
            (lambda batch: np.full((len(batch), 2), "a"), None),
        ],
    )
    def test_an_answer_that_is_neither_a_map_nor_numbers(self, answer: Any, names: str | None, tmp_path: Path) -> None:
        with pytest.raises(ModelOutputError, match=names) as caught:
            patchloom.predict({"a": noise(20, 20)}, answer, tmp_path / "run", patch=10)
        assert caught.value.kind == "model-output"
        assert not (tmp_path / "run").exists()

    def test_an_answer_that_changes_its_shape_later(self, tmp_path: Path) -> None:
        calls = []

        def model(batch: np.ndarray) -> np.ndarray:
            calls.append(batch)
            return np.zeros((len(batch), 2 if len(calls) < 4 else 3), np.float32)

        with pytest.raises(ModelOutputError):
            patchloom.predict({"a": noise(80, 80)}, model, tmp_path / "run", patch=10, batch=1, threads=1)

    def test_a_model_that_raises_is_named_with_what_it_raised(self, tmp_path: Path) -> None:
        def model(batch: np.ndarray) -> np.ndarray:
            raise KeyError("conv1.weight")

        with pytest.raises(ModelError, match=r"KeyError.*conv1\.weight") as caught:
            patchloom.predict({"a": noise(20, 20)}, model, tmp_path / "run", patch=10)
        assert isinstance(caught.value.__cause__, KeyError)

    def test_a_model_that_produces_nan_is_reported(self, tmp_path: Path) -> None:
        def model(batch: np.ndarray) -> np.ndarray:
            result = batch.mean((1, 2, 3), dtype=np.float32)
            result[batch[:, 0, 0, 0] == 7] = np.nan
            return result

        image = np.zeros((40, 40), np.uint8)
        image[0, 0] = image[10, 20] = 7
        events: list[Event] = []
        images = {"a": image, "b": image * 0}
        run = patchloom.predict(images, model, tmp_path / "run", patch=10, callbacks=[events.append])
        assert run.bad_patches() == {"a": 2}
        done = {event.image: event.nan_patches for event in events if isinstance(event, ImageDone)}
        assert done == {"a": 2, "b": 0}
        assert np.isnan(run["a"][10, 20])
        assert patchloom.open(tmp_path / "run").bad_patches() == {"a": 2}

    @pytest.mark.parametrize("blend", ["crop", "gaussian"])
    def test_nan_in_a_map_is_reported_and_kept(self, blend: str, tmp_path: Path) -> None:
        def model(batch: np.ndarray) -> np.ndarray:
            return np.where(batch == 7, np.nan, batch.astype(np.float32))

        image = np.zeros((40, 40), np.uint8)
        image[5, 3] = 7
        run = patchloom.predict({"a": image}, model, tmp_path / "run", patch=20, overlap=4, blend=blend)
        assert run.bad_patches() == {"a": 1}
        assert np.argwhere(np.isnan(run["a"].stitched()[0])).tolist() == [[5, 3]]

    def test_a_model_short_of_memory_gets_smaller_batches(self, tmp_path: Path) -> None:
        largest = []

        def model(batch: np.ndarray) -> np.ndarray:
            if len(batch) > 3:
                raise MemoryError
            largest.append(len(batch))
            return smoothed(batch)

        image = noise(1, 61, 47)
        run = patchloom.predict({"a": image}, model, tmp_path / "run", axes="CYX", patch=10, stride=7, batch=32)
        oracle = Oracle((10, 10), (7, 7))
        np.testing.assert_array_equal(np.asarray(run["a"].stitched()), oracle.stitch(image, smoothed))
        assert 1 < max(largest) <= 3

    def test_a_model_without_memory_for_one_patch_is_a_clear_error(self, tmp_path: Path) -> None:
        calls = []

        def model(batch: np.ndarray) -> np.ndarray:
            calls.append(batch)
            if len(calls) > 2:
                raise MemoryError
            return batch.mean((1, 2, 3))

        with pytest.raises(MemoryBudgetError):
            patchloom.predict({"a": noise(61, 47)}, model, tmp_path / "run", patch=10, batch=4, threads=1)


class TestSources:
    def test_an_empty_folder(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        with pytest.raises(SourceError) as caught:
            patchloom.predict(tmp_path / "in", mean, tmp_path / "run")
        assert caught.value.kind == "source"
        assert not (tmp_path / "run").exists()

    def test_a_folder_of_other_files(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "notes.txt").write_text("no image")
        with pytest.raises(SourceError):
            patchloom.predict(tmp_path / "in", mean, tmp_path / "run")

    @pytest.mark.parametrize("name", ["none", "none.png"])
    def test_a_source_that_is_not_there(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(SourceNotFoundError, match="none") as caught:
            patchloom.predict(tmp_path / name, mean, tmp_path / "run")
        assert isinstance(caught.value, FileNotFoundError)
        assert not (tmp_path / "run").exists()

    def test_a_pattern_that_matches_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"none-\*\.png"):
            patchloom.predict(str(tmp_path / "none-*.png"), mean, tmp_path / "run")

    def test_an_empty_mapping_or_list(self, tmp_path: Path) -> None:
        for source in ({}, []):
            with pytest.raises(SourceError):
                patchloom.predict(source, mean, tmp_path / "run")

    def test_a_file_of_no_known_format(self, tmp_path: Path) -> None:
        (tmp_path / "a.xyz").write_bytes(b"what is this" * 20)
        png(tmp_path / "b.png", 20, 20)
        with pytest.warns(UserWarning, match="1 image failed"):
            run = patchloom.predict([tmp_path / "a.xyz", tmp_path / "b.png"], mean, tmp_path / "run", patch=10)
        (failure,) = run.failures()
        assert (failure.image, failure.kind) == ("a.xyz", "unknown-format")
        assert "a.xyz" in failure.message
        assert list(run) == ["b.png"]

    @pytest.mark.parametrize("suffix", [".png", ".tif", ".npy", ".jpg", ".webp", ".bmp"])
    def test_a_truncated_file_costs_one_image(self, suffix: str, tmp_path: Path) -> None:
        folder = tmp_path / "in"
        for name in ("a", "b", "c"):
            png(folder / "some.png", 120, 90, 3)
            path = folder / (name + suffix)
            if suffix == ".tif":
                tifffile.imwrite(path, noise(120, 90, 3), tile=(32, 32), compression="zlib", photometric="rgb")
            elif suffix == ".npy":
                np.save(path, noise(120, 90, 3))
            else:
                PillowImage.fromarray(noise(120, 90, 3)).save(path)
        whole = (folder / f"b{suffix}").read_bytes()
        (folder / f"b{suffix}").write_bytes(whole[: len(whole) // 2])
        events: list[Event] = []
        with pytest.warns(UserWarning, match="1 image failed"):
            run = patchloom.predict(
                folder, mean, tmp_path / "run", patch=32, axes="YXC" if suffix == ".npy" else None,
                callbacks=[events.append],
            )  # fmt: skip
        (failure,) = run.failures()
        assert failure.image == f"b{suffix}"
        assert failure.kind in {"unreadable-image", "unknown-format"}
        assert f"b{suffix}" in failure.message
        assert [event.image for event in events if isinstance(event, ImageFailed)] == [f"b{suffix}"]
        assert sorted(run) == sorted({f"a{suffix}", f"c{suffix}", "some.png"})
        assert run.verify() == []

    @pytest.mark.parametrize("make", [huge_png, huge_tiff, huge_npy], ids=lambda make: make.__name__)
    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    def test_a_header_that_claims_a_million_pixels_a_side_takes_no_memory(self, make: Any, tmp_path: Path) -> None:
        folder = tmp_path / "in"
        png(folder / "good.png", 40, 40)
        name = f"huge.{make.__name__.removeprefix('huge_')}"
        make(folder / name)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.warns(UserWarning, match="1 image failed"):
            run = patchloom.predict(folder, mean, tmp_path / "run", patch=32)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 300_000 if sys.platform == "linux" else True
        (failure,) = run.failures()
        assert failure.image == name
        assert failure.kind in {"image-too-large", "unreadable-image"}
        assert list(run) == ["good.png"]

    def test_the_first_failure_is_raised_where_the_user_asks_for_it(self, tmp_path: Path) -> None:
        folder = tmp_path / "in"
        png(folder / "a.png", 40, 40)
        (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:60])
        with pytest.raises(UnreadableImageError, match=r"b\.png"):
            patchloom.predict(folder, mean, tmp_path / "run", patch=32, on_error="raise")

    def test_when_every_image_is_bad_the_run_says_so(self, tmp_path: Path) -> None:
        folder = tmp_path / "in"
        for name in ("a.png", "b.png"):
            png(folder / name, 40, 40)
            (folder / name).write_bytes((folder / name).read_bytes()[:60])
        with pytest.warns(UserWarning, match="2 images failed"):
            run = patchloom.predict(folder, mean, tmp_path / "run", patch=32)
        assert {failure.image for failure in run.failures()} == {"a.png", "b.png"}
        assert len(run) == 0
        assert run.status().failed == 2

    @pytest.mark.parametrize("name", ["../../escaped", "a/../../b", "..", ""])
    def test_a_name_that_leads_out_of_the_folder_is_refused(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="name"):
            patchloom.predict({name: noise(20, 20)}, smoothed, tmp_path / "deep" / "er" / "run", patch=10)
        assert list(tmp_path.rglob("*escaped*")) == []

    def test_names_stay_in_the_folder_of_the_run_whatever_they_hold(self, tmp_path: Path) -> None:
        names = ["a\\b", "con", "ü/日本", "a:b|c?d*", "%2E", "new\nline", "A", "a", "a.zarr/0"]
        names += ["x" * 300, "x" * 299 + "y"]
        images = {name: np.full((20, 20), i, np.uint8) for i, name in enumerate(names)}
        folder = tmp_path / "deep" / "er"
        folder.mkdir(parents=True)
        run = patchloom.predict(images, smoothed, folder / "run", patch=10)
        outside = [path for path in tmp_path.rglob("*") if path.is_file() and folder / "run" not in path.parents]
        assert outside == []
        assert len(run) == len(names)
        values = sorted(float(run[name].stitched()[0, 5, 5]) for name in run)
        assert values == list(range(len(names))), "no image took another's place"


class TestOutputs:
    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        for out in (tmp_path / "file", tmp_path / "file" / "run"):
            with pytest.raises(OutputError, match="file") as caught:
                patchloom.predict({"a": noise(20, 20)}, mean, out, patch=10)
            assert caught.value.kind == "output"
        assert (tmp_path / "file").read_text() == "in the way"

    @pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
    def test_a_folder_without_permission(self, tmp_path: Path) -> None:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(OutputError, match="locked"):
            patchloom.predict({"a": noise(20, 20)}, mean, tmp_path / "locked" / "run", patch=10)

    def test_a_file_system_that_is_read_only(self) -> None:
        out = Path("/proc/patchloom-run")
        if not Path("/proc").is_dir():
            pytest.skip("no /proc here")
        with pytest.raises(OutputError, match="patchloom-run"):
            patchloom.predict({"a": noise(20, 20)}, mean, out, patch=10)

    def test_a_folder_of_somebody_else_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("years of work")
        for overwrite in (False, True):
            with pytest.raises(OutputError):
                patchloom.predict({"a": noise(20, 20)}, mean, tmp_path, patch=10, overwrite=overwrite)
        assert (tmp_path / "thesis.txt").read_text() == "years of work"

    @pytest.mark.parametrize("name", ["patches", "dense", "journal", "lock"])
    @pytest.mark.parametrize("overwrite", [False, True])
    def test_files_of_the_user_that_have_the_names_of_ours_are_left_alone(
        self, name: str, overwrite: bool, tmp_path: Path
    ) -> None:
        mine = tmp_path / "out" / name / "mine.png"
        png(mine, 20, 20)
        with pytest.raises(OutputError):
            patchloom.predict({"a": noise(20, 20)}, mean, tmp_path / "out", patch=10, overwrite=overwrite)
        assert mine.exists()

    def test_too_little_memory_is_refused_before_anything_is_written(self, tmp_path: Path) -> None:
        with pytest.raises(MemoryBudgetError) as caught:
            patchloom.predict({"a": noise(20, 20)}, mean, tmp_path / "run", patch=10, memory="1MB")
        assert caught.value.kind == "memory-budget"
        assert not (tmp_path / "run").exists()

    def test_a_plan_writes_nothing(self, tmp_path: Path) -> None:
        plan = patchloom.plan({"a": noise(1000, 2000)}, mean, tmp_path / "run", patch=512, overlap=64)
        assert (plan.images, plan.patches, plan.unreadable) == (1, 15, 0)
        assert list(tmp_path.iterdir()) == []


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "names"),
        [
            ({"patch": (4, 4, 4, 4)}, "patch"),
            ({"patch": 10, "overlap": 10}, "overlap"),
            ({"patch": 10, "overlap": (1, 2, 3)}, None),
            ({"overlap": 512}, "overlap"),
            ({"patch": 10, "channels": 7}, "channel"),
            ({"patch": 10, "level": 3}, "level"),
            ({"patch": 10, "reduce": "argmin"}, "argmin"),
            ({"patch": 10, "reduce": "argmax"}, "argmax"),
            ({"patch": 10, "reduce": "other=sigmoid"}, "other"),
            ({"patch": 10, "scale": 2, "mean": (1, 2, 3)}, "mean"),
            ({"patch": 10, "classes": "a,b,c,d"}, "classes"),
            ({"patch": 10, "axes": "YXC"}, "YXC"),
            ({"patch": 10, "pacth": 20}, "pacth"),
            ({"patch": 10, "preprocess": "no_such_module:f"}, "no_such_module"),
        ],
    )
    def test_an_option_that_does_not_fit_is_named(
        self, options: dict[str, Any], names: str | None, tmp_path: Path
    ) -> None:
        def run() -> None:
            made = patchloom.predict({"a": noise(40, 40)}, mean, tmp_path / "run", on_error="raise", **options)
            assert made.failures() == []

        with pytest.raises(PatchloomError, match=names) as caught:
            run()
        assert caught.value.hint

    def test_unknown_options_are_usage_errors(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="pacth"):
            patchloom.predict({"a": noise(40, 40)}, mean, tmp_path / "run", pacth=3)

    def test_a_patch_of_the_run_that_does_not_exist_is_a_key_error(self, tmp_path: Path) -> None:
        run = patchloom.predict({"a": noise(40, 40)}, mean, tmp_path / "run", patch=10)
        with pytest.raises(NotPredictedError) as caught:
            run["a"][3, 3]
        assert isinstance(caught.value, KeyError)
        assert "(3, 3)" in caught.value.message


class TestWhatOthersGetWrong:
    """Mistakes found in other programs; each of these was one."""

    @pytest.mark.parametrize("blend", ["crop", "constant", "gaussian", "hann"])
    @pytest.mark.parametrize("edge", ["shift", "pad"])
    @pytest.mark.parametrize(("patch", "stride"), [(32, 24), (32, 32), (32, 5), (17, 11)])
    def test_one_everywhere_stays_one_at_every_pixel(
        self, patch: int, stride: int, blend: str, edge: str, tmp_path: Path
    ) -> None:
        def ones(batch: np.ndarray) -> np.ndarray:
            return np.ones((len(batch), 1, *batch.shape[2:]), np.float32)

        run = patchloom.predict(
            {"a": noise(101, 77)}, ones, tmp_path / "run", patch=patch, stride=stride, blend=blend, edge=edge
        )
        np.testing.assert_allclose(np.asarray(run["a"].stitched()), 1, rtol=2e-6)

    @pytest.mark.parametrize("blend", ["constant", "gaussian", "hann"])
    def test_predictions_of_zero_count_in_a_mean(self, blend: str, tmp_path: Path) -> None:
        def left_or_right(batch: np.ndarray) -> np.ndarray:
            left = (batch[:, 0, 0, 0] == 0).astype(np.float32)
            return np.broadcast_to(left[:, None, None, None], (len(batch), 1, *batch.shape[2:])).copy()

        image = np.zeros((10, 15), np.uint8)
        image[:, 5:] = 1
        run = patchloom.predict({"a": image}, left_or_right, tmp_path / "run", patch=10, stride=5, blend=blend)
        found = run["a"].stitched()[0]
        assert (found[:, :5] == 1).all()
        assert (found[:, 10:] == 0).all()
        if blend == "constant":
            np.testing.assert_allclose(found[:, 5:10], 0.5, rtol=1e-6)
        else:
            assert ((found[:, 5:10] > 0) & (found[:, 5:10] < 1)).all()

    @pytest.mark.parametrize("shape", [(5, 7), (1, 1), (5, 40), (40, 5)])
    def test_an_image_below_the_patch_is_predicted(self, shape: tuple[int, int], tmp_path: Path) -> None:
        image = noise(*shape)
        run = patchloom.predict({"a": image}, lambda b: b.astype(np.float32), tmp_path / "run", patch=32)
        np.testing.assert_array_equal(run["a"].stitched()[0], image)

    def test_a_border_is_predicted_where_the_stride_is_the_patch(self, tmp_path: Path) -> None:
        image = noise(70, 65)
        run = patchloom.predict({"a": image}, lambda b: b.astype(np.float32), tmp_path / "run", patch=32, stride=32)
        np.testing.assert_array_equal(run["a"].stitched()[0], image)

    def test_images_of_one_name_in_two_folders_are_two(self, tmp_path: Path) -> None:
        paths = [tmp_path / "in" / name for name in ("a/s.png", "b/s.png", "s.png", "a/s.bmp")]
        for i, path in enumerate(paths):
            path.parent.mkdir(parents=True, exist_ok=True)
            PillowImage.fromarray(np.full((20, 20), i, np.uint8)).save(path)
        run = patchloom.predict(tmp_path / "in", smoothed, tmp_path / "run", patch=10)
        assert list(run) == ["a/s.bmp", "a/s.png", "b/s.png", "s.png"]
        for name, value in (("a/s.png", 0), ("b/s.png", 1), ("s.png", 2), ("a/s.bmp", 3)):
            assert run[name].stitched()[0, 5, 5] == value
        listed = patchloom.predict(paths[:2], smoothed, tmp_path / "listed", patch=10)
        assert list(listed) == ["a/s.png", "b/s.png"]

    def test_one_corrupt_file_does_not_end_the_batch(self, tmp_path: Path) -> None:
        folder = tmp_path / "in"
        for i in range(9):
            png(folder / f"{i}.png", 40, 40)
        (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:200])
        (folder / "6.tif").write_bytes(b"II*\0garbage and more garbage")
        with pytest.warns(UserWarning, match="2 images failed"):
            run = patchloom.predict(folder, mean, tmp_path / "run", patch=16, threads=2)
        assert sorted(failure.image for failure in run.failures()) == ["3.png", "6.tif"]
        assert list(run) == [f"{i}.png" for i in range(9) if i != 3]
        assert run.status().done == 8

    def test_work_in_the_interpreter_does_not_grow_with_the_patches_left(self, tmp_path: Path) -> None:
        """Calls of Python functions per patch, of a small and of a larger image."""
        per_patch = []
        for rows in (20, 80):
            calls = 0

            def count(frame: Any, event: str, argument: Any) -> None:
                nonlocal calls
                calls += event == "call"

            threading.setprofile(count)
            try:
                patchloom.predict(
                    {"a": np.zeros((rows * 8, 400), np.uint8)}, mean, tmp_path / str(rows), patch=8, batch=50, threads=1
                )
            finally:
                threading.setprofile(None)
            per_patch.append(calls / (rows * 50))
        assert per_patch[1] <= 1.1 * per_patch[0]


@pytest.mark.skipif(not DATA.is_dir(), reason="the sample images are not here")
class TestSamples:
    """Real files, corrupt ones among them."""

    def test_each_opens_or_fails_with_its_name(self, tmp_path: Path) -> None:
        def model(batch: np.ndarray) -> np.ndarray:
            return batch.mean((1, 2, 3), dtype=np.float64)

        names = sorted(path.name for path in DATA.iterdir() if path.suffix != ".md")
        done, failed = set(), {}
        for name in names:
            image = DATA / name
            try:
                run = patchloom.predict(image, model, tmp_path / name, patch=256, on_error="raise", threads=2)
            except PatchloomError as error:
                failed[name] = error.message
            else:
                assert len(run[name]) > 0
                done.add(name)
        assert all(name in message for name, message in failed.items())
        assert {"unopenable.tiff", "unreadable.svs"} <= set(failed)
        assert {"CMU-1-Small-Region.svs", "small.svs", "RGB.byte.tif", "aerial_tiled.tif", "cogeo.tif"} <= done
