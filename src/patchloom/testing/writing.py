"""What every write strategy must do: subclass `WriteStrategyTests`, say how to make and read, let pytest collect it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from patchloom.errors import IncompleteImageError, PredictionError
from patchloom.geometry.grid import Grid
from patchloom.writing.prediction import ImagePrediction, ImageShape
from patchloom.writing.strategy import WriteStrategy

__all__ = ["WriteStrategyTests"]

Pixels = NDArray[Any]

CASES: list[tuple[str, tuple[int, ...], int, int | None]] = [
    ("YX", (40, 56), 2, None),
    ("YX", (40, 56), 2, 1),
    ("YXC", (40, 56, 3), 2, 2),
    ("SYX", (5, 40, 56), 2, 1),
    ("TYX", (3, 40, 56), 2, None),
    ("YXTS", (40, 56, 2, 3), 2, 2),
    ("STCYX", (2, 3, 4, 40, 56), 2, 2),
    ("ZYX", (4, 40, 56), 2, 3),
    ("TCZYX", (2, 1, 3, 40, 56), 2, 2),
    ("ZYX", (20, 24, 24), 3, None),
    ("SCZYX", (2, 3, 20, 24, 24), 3, 2),
    ("SYX", (2, 9, 12), 2, 1),
]
"""Axes and shape of sources, spatial axes and channels of predictions."""


class WriteStrategyTests:
    """Conformance of a `WriteStrategy`. Override `make` and `read`; the class attributes say what it takes.

    Examples
    --------
    ::

        class TestMyStrategy(WriteStrategyTests):
            def make(self):
                return WriteImage(my_write_func, ".mine")

            def read(self, folder, name, source):
                return read_my_format(folder / f"{name}.mine")
    """

    patch: ClassVar[int | None] = None
    """Pixels of a tile; None for a strategy that takes whole images."""
    overlap: ClassVar[int] = 0
    """Pixels that neighbouring tiles share; `make` tells the strategy the same, where it wants to know."""
    any_order: ClassVar[bool] = True
    """Whether the tiles of an image may come in any order."""
    tolerance: ClassVar[float] = 0
    """How far, in relation to the largest value, what is read may be from what was given."""
    dtypes: ClassVar[Sequence[str]] = ("float32", "uint8", "int64", "float64")
    """Types that are written as they are."""

    def make(self) -> WriteStrategy:
        """Strategy to test; it raises where images are incomplete. Called once a test."""
        raise NotImplementedError

    def read(self, folder: Path, name: str, source: str) -> Pixels:
        """What was written of an image, in OME order.

        Parameters
        ----------
        folder
            Where the strategy was told to write.
        name
            Expected path below it, without an ending.
        source
            Of the image.

        Raises
        ------
        Exception
            Any, if there is nothing of the name.
        """
        raise NotImplementedError

    # How the tests go about it.

    def image(self, shape: ImageShape, seed: int = 0) -> Pixels:
        """A prediction of a whole image in OME order."""
        values = np.random.default_rng(seed).random(shape.output_shape()) * 250
        return values.astype(shape.dtype)

    def shape(
        self, axes: str, data_shape: tuple[int, ...], ndim: int, channels: int | None, dtype: str = "float32"
    ) -> ImageShape:
        """What predictions of an image have in common."""
        extent = tuple(data_shape[axes.index(axis)] for axis in "ZYX"[-ndim:])
        return ImageShape(axes, data_shape, channels, extent, np.dtype(dtype))

    def predictions(
        self, image: Pixels, shape: ImageShape, index: int = 0, source: str | None = "a/s.tif"
    ) -> list[ImagePrediction]:
        """An image cut into what the strategy takes, in order."""
        common: dict[str, Any] = {"axes": shape.axes, "data_shape": shape.data_shape, "data_index": index}
        found = []
        for sample in range(shape.samples):
            whole = image[shape.index(sample)]
            for start, part in self.cut(whole, shape.ndim):
                found.append(
                    ImagePrediction(part, sample=sample, source=source, start=start, ndim=shape.ndim, **common)
                )
        return found

    def cut(self, whole: Pixels, ndim: int) -> Iterator[tuple[tuple[int, ...] | None, Pixels]]:
        """A sample whole, or in tiles, each with its start; tiles reach over the edges of small images."""
        if self.patch is None:
            yield None, whole
            return
        space = whole.shape[-ndim:]
        patch = (self.patch // 2, self.patch, self.patch)[-ndim:]
        beyond = [(0, 0)] * (whole.ndim - ndim) + [(0, max(0, p - n)) for p, n in zip(patch, space, strict=True)]
        padded = np.pad(whole, beyond)
        for one in Grid.of(space, patch, overlap=self.overlap):
            index: Any = (..., *one.region.slices)
            yield one.region.start, padded[index]

    def check(self, found: Pixels, expected: Pixels) -> None:
        """Compare what was read with what was given."""
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        if self.tolerance == 0:
            np.testing.assert_array_equal(found, expected)
        else:
            # Whole numbers may be rounded the other way.
            margin = self.tolerance * 250 + (expected.dtype.kind in "iu")
            assert np.abs(found.astype(np.float64) - expected.astype(np.float64)).max() <= margin

    def nothing(self, folder: Path, name: str, source: str) -> bool:
        """Whether no image of a name can be read."""
        with suppress(Exception):
            self.read(folder, name, source)
            return False
        return True

    def simple(self, seed: int = 0) -> tuple[ImageShape, Pixels]:
        """An image of five samples."""
        shape = self.shape("SYX", (5, 40, 56), 2, 1)
        return shape, self.image(shape, seed)

    def test_it_satisfies_the_protocol(self) -> None:
        assert isinstance(self.make(), WriteStrategy)

    @pytest.mark.parametrize("batch", [1, 3, 1000])
    @pytest.mark.parametrize(("axes", "data_shape", "ndim", "channels"), CASES)
    def test_images_are_written_in_ome_order_whatever_the_batches(
        self, axes: str, data_shape: tuple[int, ...], ndim: int, channels: int | None, batch: int, tmp_path: Path
    ) -> None:
        shape = self.shape(axes, data_shape, ndim, channels)
        image, strategy = self.image(shape), self.make()
        predictions = iter(self.predictions(image, shape))
        while some := list(itertools.islice(predictions, batch)):
            strategy.write_batch(tmp_path, some)
        strategy.close()
        self.check(self.read(tmp_path, "a/s", "a/s.tif"), image)

    def test_types_are_kept(self, tmp_path: Path) -> None:
        strategy = self.make()
        for index, dtype in enumerate(self.dtypes):
            folder = tmp_path / dtype
            shape = self.shape("SYX", (2, 40, 56), 2, 2, dtype)
            strategy.write_batch(folder, self.predictions(self.image(shape), shape, index))
            strategy.close()
            self.check(self.read(folder, "a/s", "a/s.tif"), self.image(shape))

    def test_images_may_come_interleaved(self, tmp_path: Path) -> None:
        strategy, predictions = self.make(), []
        images = [self.simple(seed) for seed in range(3)]
        for index, (shape, image) in enumerate(images):
            predictions.append(self.predictions(image, shape, index, f"{index}.tif"))
        for batch in zip(*predictions, strict=True):
            strategy.write_batch(tmp_path, batch)
        strategy.close()
        for index, (_, image) in enumerate(images):
            self.check(self.read(tmp_path, str(index), f"{index}.tif"), image)

    def test_a_batch_may_end_one_image_and_begin_the_next(self, tmp_path: Path) -> None:
        strategy, predictions = self.make(), []
        images = [self.simple(seed) for seed in range(3)]
        for index, (shape, image) in enumerate(images):
            predictions += self.predictions(image, shape, index, f"{index}.tif")
        size = len(predictions) // 3 + 1
        for first in range(0, len(predictions), size):
            strategy.write_batch(tmp_path, predictions[first : first + size])
        strategy.close()
        for index, (_, image) in enumerate(images):
            self.check(self.read(tmp_path, str(index), f"{index}.tif"), image)

    def test_the_order_does_not_matter(self, tmp_path: Path) -> None:
        if not self.any_order:
            pytest.skip("takes tiles in order")
        strategy, (shape, image) = self.make(), self.simple()
        predictions = self.predictions(image, shape)
        for i in np.random.default_rng(3).permutation(len(predictions)):
            strategy.write_batch(tmp_path, [predictions[i]])
        strategy.close()
        self.check(self.read(tmp_path, "a/s", "a/s.tif"), image)

    def test_an_empty_batch_is_nothing(self, tmp_path: Path) -> None:
        strategy = self.make()
        strategy.write_batch(tmp_path, [])
        strategy.close()
        assert self.nothing(tmp_path, "a/s", "a/s.tif")

    def test_arrays_belong_to_the_caller_afterwards(self, tmp_path: Path) -> None:
        strategy, (shape, image) = self.make(), self.simple()
        for prediction in self.predictions(image, shape):
            one = ImagePrediction(**{**vars(prediction), "data": prediction.data.copy()})
            strategy.write_batch(tmp_path, [one])
            one.data[...] = 7
        strategy.close()
        self.check(self.read(tmp_path, "a/s", "a/s.tif"), image)

    def test_the_same_base_name_in_two_folders_makes_two_files(self, tmp_path: Path) -> None:
        strategy = self.make()
        images = {"a/s.tif": self.simple(1), "b/s.tif": self.simple(2)}
        for index, (source, (shape, image)) in enumerate(images.items()):
            strategy.write_batch(tmp_path, self.predictions(image, shape, index, source))
        strategy.close()
        for source, (_, image) in images.items():
            self.check(self.read(tmp_path, source.removesuffix(".tif"), source), image)

    def test_sources_that_differ_in_their_endings_make_two_files(self, tmp_path: Path) -> None:
        strategy = self.make()
        images = [("a/s.tif", "a/s", *self.simple(1)), ("a/s.png", "a/s_1", *self.simple(2))]
        for index, (source, _, shape, image) in enumerate(images):
            strategy.write_batch(tmp_path, self.predictions(image, shape, index, source))
        strategy.close()
        for source, name, _, image in images:
            self.check(self.read(tmp_path, name, source), image)

    @pytest.mark.parametrize("source", [None, ""])
    def test_sources_without_a_file_are_named_by_their_index(self, source: str | None, tmp_path: Path) -> None:
        strategy, (shape, image) = self.make(), self.simple()
        strategy.write_batch(tmp_path, self.predictions(image, shape, 7, source))
        strategy.close()
        self.check(self.read(tmp_path, "array_7", "array_7"), image)

    @pytest.mark.parametrize("source", ["../s.tif", "/etc/s.tif", "a/../../s.tif", "..", "C:\\s.tif", "a\0b.tif"])
    def test_nothing_is_written_outside_the_folder(self, source: str, tmp_path: Path) -> None:
        strategy, (shape, image) = self.make(), self.simple()
        folder = tmp_path / "deep" / "out"
        strategy.write_batch(folder, self.predictions(image, shape, 0, source))
        strategy.close()
        assert any(path.is_file() for path in folder.rglob("*"))
        assert [path.name for path in tmp_path.iterdir()] == ["deep"]
        assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]

    def test_the_same_index_in_two_folders_is_two_images(self, tmp_path: Path) -> None:
        strategy = self.make()
        images = {"one": self.simple(1), "two": self.simple(2)}
        predictions = [self.predictions(image, shape) for shape, image in images.values()]
        for batch in zip(*predictions, strict=True):
            for name, prediction in zip(images, batch, strict=True):
                strategy.write_batch(tmp_path / name, [prediction])
        strategy.close()
        for name, (_, image) in images.items():
            self.check(self.read(tmp_path / name, "a/s", "a/s.tif"), image)

    def test_more_than_expected_is_an_error_that_names_the_index_and_both_counts(self, tmp_path: Path) -> None:
        strategy, (shape, image) = self.make(), self.simple()
        predictions = self.predictions(image, shape, 3)
        strategy.write_batch(tmp_path, predictions)
        with pytest.raises(ValueError, match=rf"index 3 .*{len(predictions)}\b.* {len(predictions) + 1}\b") as caught:
            strategy.write_batch(tmp_path, predictions[:1])
        assert isinstance(caught.value, PredictionError)
        strategy.close()
        self.check(self.read(tmp_path, "a/s", "a/s.tif"), image)

    def test_a_prediction_that_is_given_twice_is_an_error_and_changes_nothing(self, tmp_path: Path) -> None:
        strategy, (shape, image) = self.make(), self.simple()
        predictions = self.predictions(image, shape, 3)
        strategy.write_batch(tmp_path, predictions[:2])
        for again in ([predictions[1]], [predictions[2], predictions[2]]):
            with pytest.raises(PredictionError, match="index 3 was given twice"):
                strategy.write_batch(tmp_path, again)
        strategy.write_batch(tmp_path, predictions[2:])
        strategy.close()
        self.check(self.read(tmp_path, "a/s", "a/s.tif"), image)

    def test_an_image_that_is_never_completed_is_reported_with_its_counts(self, tmp_path: Path) -> None:
        strategy, (shape, image) = self.make(), self.simple()
        predictions = self.predictions(image, shape)
        strategy.write_batch(tmp_path, self.predictions(image, shape, 0, "whole.tif"))
        strategy.write_batch(tmp_path, self.predictions(image, shape, 1, "a/s.tif")[:-1])
        strategy.write_batch(tmp_path, self.predictions(image, shape, 2, "b.tif")[:2])
        with pytest.raises(IncompleteImageError) as caught:
            strategy.close()
        message = str(caught.value)
        assert "whole.tif" not in message
        assert re.search(rf"a/s\.tif.*\b{len(predictions) - 1}\b", message)
        assert re.search(r"b\.tif.*\b2\b", message)
        self.check(self.read(tmp_path, "whole", "whole.tif"), image)

    def test_it_can_be_used_again_after_it_was_closed(self, tmp_path: Path) -> None:
        strategy, (shape, image) = self.make(), self.simple()
        strategy.close()
        strategy.write_batch(tmp_path, self.predictions(image, shape)[:2])
        with pytest.raises(IncompleteImageError):
            strategy.close()
        for folder in (tmp_path, tmp_path / "other"):
            strategy.write_batch(folder, self.predictions(image, shape))
            strategy.close()
            self.check(self.read(folder, "a/s", "a/s.tif"), image)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"axes": "YX"}, "axes"),
            ({"axes": "SYQ"}, "axes"),
            ({"axes": "SYY"}, "axes"),
            ({"axes": "SCY"}, "axes"),
            ({"data_shape": (40, 56)}, "axes"),
            ({"data_shape": (5, 0, 56)}, "no pixels"),
            ({"data_shape": (5, 40, 5.5)}, "index 3"),
            ({"sample": 5}, "no sample 5"),
            ({"sample": -1}, "no sample -1"),
            ({"sample": 1.5}, "index 3"),
            ({"data": np.zeros((1, 1, 1, 40, 56))}, "shape"),
            ({"data": np.zeros(())}, "index 3|shape"),
            ({"data": np.zeros((1, 0, 56))}, "pixels"),
            ({"data": np.full((1, 40, 56), "x")}, "type|array"),
            ({"data": None}, "array"),
            ({"start": (0, 56)}, "outside|start"),
            ({"start": (-1, 0)}, "outside|start"),
            ({"start": (0, 0, 0)}, "start"),
            ({"ndim": 3}, "axes|ndim|start"),
        ],
    )
    def test_what_does_not_fit_is_an_error_and_nothing_of_its_batch_is_kept(
        self, changes: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        strategy, (shape, image) = self.make(), self.simple()
        predictions = self.predictions(image, shape, 3)
        wrong = ImagePrediction(**{**vars(predictions[-1]), **changes})
        with pytest.raises(PredictionError, match=message):
            strategy.write_batch(tmp_path, [*predictions[:-1], wrong])
        assert self.nothing(tmp_path, "a/s", "a/s.tif")
        strategy.write_batch(tmp_path, predictions)
        strategy.close()
        self.check(self.read(tmp_path, "a/s", "a/s.tif"), image)

    @pytest.mark.parametrize(
        "changes",
        [
            {"data_shape": (6, 40, 56)},
            {"axes": "TYX"},
            {"data_shape": (5, 41, 56)},
            {"dtype": "float64"},
            {"channels": 2},
            {"channels": None},
        ],
    )
    def test_an_image_does_not_change_its_shape_or_type(self, changes: dict[str, Any], tmp_path: Path) -> None:
        strategy, (shape, image) = self.make(), self.simple()
        about = {"axes": "SYX", "data_shape": (5, 40, 56), "ndim": 2, "channels": 1, "dtype": "float32"} | changes
        other = self.shape(**about)  # type: ignore[arg-type]
        strategy.write_batch(tmp_path, self.predictions(image, shape, 3)[:1])
        with pytest.raises(PredictionError, match=r"index 3"):
            strategy.write_batch(tmp_path, self.predictions(self.image(other), other, 3)[1:2])
        strategy.write_batch(tmp_path, self.predictions(image, shape, 3)[1:])
        strategy.close()
        self.check(self.read(tmp_path, "a/s", "a/s.tif"), image)

    def test_what_is_no_prediction_is_an_error(self, tmp_path: Path) -> None:
        strategy = self.make()
        with pytest.raises(PredictionError, match="ImagePrediction, not ndarray"):
            strategy.write_batch(tmp_path, [np.zeros((1, 8, 8))])  # type: ignore[list-item]
