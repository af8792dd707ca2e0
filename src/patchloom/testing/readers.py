"""What every reader must do: subclass `ReaderTests`, say how to write a file, and let pytest collect the class."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from patchloom.errors import ImageError, ImageMismatchError, UnreadableImageError
from patchloom.geometry.axes import check_axes
from patchloom.geometry.region import Region
from patchloom.images.image import Image, Reader

__all__ = ["ReaderTests"]

Pixels = NDArray[Any]


class ReaderTests:
    """Conformance of a `Reader`. Override `make` and `reader`; the class attributes say what the format can hold.

    Examples
    --------
    ::

        class TestMyReader(ReaderTests):
            reader = MyReader()
            arrays = [("YXC", (70, 90, 3), "uint8")]

            def make(self, folder, array, axes):
                return write_my_format(folder / "image.mine", array)
    """

    reader: ClassVar[Reader]
    """To test."""
    arrays: ClassVar[list[tuple[str, tuple[int, ...], str]]] = [
        ("YX", (61, 83), "uint8"), ("YXC", (61, 83, 3), "uint8"),
    ]  # fmt: skip
    """Axes, shape and dtype of the images that are written and read back."""
    tolerance: ClassVar[float] = 0
    """How far pixels may be from what was written: 0 for formats without loss."""
    levels: ClassVar[int] = 1
    """Number of resolution levels that `make` writes."""
    notices_truncation: ClassVar[bool] = True
    """Whether a file cut in half can be told from a whole one."""

    def make(self, folder: Path, array: Pixels, axes: str) -> Path:
        """Write `array` into `folder`; returns the path of the image."""
        raise NotImplementedError

    def expected(self, array: Pixels, axes: str, level: int) -> Pixels:
        """What level `level` of an image should hold; formats with levels override it."""
        assert level == 0
        return array

    # How the tests go about it.

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test on each image."""
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", range(len(self.arrays)), indirect=True)

    @pytest.fixture
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Image, Pixels, str, Path]]:
        """One image after the other, with what was written, its axes and its path."""
        axes, shape, dtype = self.arrays[request.param]
        array = self.pixels(shape, dtype)
        path = self.make(tmp_path, array, axes)
        image = self.reader.open(path)
        yield image, array, axes, path
        image.close()

    def pixels(self, shape: tuple[int, ...], dtype: str) -> Pixels:
        """Pixels that differ from place to place, smooth enough for lossy formats."""
        places = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij", sparse=True)
        wave = sum(np.sin(place / (7 + 3 * i)) for i, place in enumerate(places))
        wave = (wave - np.min(wave)) / max(float(np.ptp(wave)), 1e-9)
        kind = np.dtype(dtype)
        if kind.kind == "b":
            return np.asarray(wave > 0.5)
        largest = min(np.iinfo(kind).max, 60000) if kind.kind in "iu" else 1
        return np.asarray(wave * largest).astype(kind)

    def check(self, found: Pixels, expected: Pixels) -> None:
        """Compare pixels within the tolerance."""
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        if self.tolerance == 0:
            np.testing.assert_array_equal(found, expected)
        else:
            difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
            assert float(difference.max(initial=0)) <= self.tolerance

    def test_the_content_is_recognised(self, case: Any) -> None:
        """By its first bytes, whatever its name is."""
        path = case[3]
        head = b"" if path.is_dir() else path.read_bytes()[:64]
        assert self.reader.recognises(path, head)
        assert not self.reader.recognises(path.with_name("other"), b"neither this nor that" * 3)
        assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in self.reader.suffixes)

    def test_it_satisfies_the_protocol(self, case: Any) -> None:
        """The engine recognises it."""
        assert isinstance(case[0], Image)

    def test_info_is_consistent(self, case: Any) -> None:
        """Axes, levels and chunks fit each other, and what was written."""
        info, array, axes = case[0].info, case[1], case[2]
        assert info.axes == axes
        assert info.shape == array.shape
        assert info.dtype == array.dtype
        assert info.dtype.isnative
        assert check_axes(info.axes, info.shape) == info.axes
        assert len(info.levels) == len(info.chunks) == self.levels
        for shape, chunk in zip(info.levels, info.chunks, strict=True):
            assert len(shape) == len(chunk) == len(info.axes)
            assert all(0 < c <= n for c, n in zip(chunk, shape, strict=True))
        assert set(info.spacing) <= set(info.axes)
        assert all(size > 0 for size in info.spacing.values())
        assert set(info.unit) <= set(info.spacing)
        assert len(info.channels) in (0, info.extent("C"))

    def test_every_level_is_read_as_it_was_written(self, case: Any) -> None:
        """Whole, in one go."""
        image, array, axes, _ = case
        for level, shape in enumerate(image.info.levels):
            self.check(image.read(Region.whole(shape), level), self.expected(array, axes, level))

    def test_any_region_is_the_same_part_of_the_whole(self, case: Any) -> None:
        """Random boxes, single pixels and corners."""
        image = case[0]
        choice = random.Random(7)
        for level, shape in enumerate(image.info.levels):
            whole = np.array(image.read(Region.whole(shape), level))
            for i in range(40):
                start = tuple(choice.randrange(n) for n in shape)
                extent = tuple(1 if i < 8 else choice.randint(1, n - a) for a, n in zip(start, shape, strict=True))
                region = Region(start, extent)
                np.testing.assert_array_equal(image.read(region, level), whole[region.slices])
            last = Region(tuple(n - 1 for n in shape), (1,) * len(shape))
            np.testing.assert_array_equal(image.read(last, level), whole[last.slices])

    def test_each_chunk_is_the_same_part_of_the_whole(self, case: Any) -> None:
        """Chunks as the engine reads them, those at the edges cut."""
        image = case[0]
        for level, (shape, chunk) in enumerate(zip(image.info.levels, image.info.chunks, strict=True)):
            whole = np.array(image.read(Region.whole(shape), level))
            for place in list(np.ndindex(*(-(-n // c) for n, c in zip(shape, chunk, strict=True))))[:200]:
                start = tuple(i * c for i, c in zip(place, chunk, strict=True))
                region = Region(start, chunk).intersect(Region.whole(shape))
                np.testing.assert_array_equal(image.read(region, level), whole[region.slices])

    def test_eight_threads_at_once_read_the_same(self, case: Any) -> None:
        """Each region is what one thread alone reads."""
        image = case[0]
        choice = random.Random(3)
        shape = image.info.shape
        regions = []
        for _ in range(24):
            start = tuple(choice.randrange(n) for n in shape)
            regions.append(Region(start, tuple(choice.randint(1, n - a) for a, n in zip(start, shape, strict=True))))
        alone = [np.array(image.read(region)) for region in regions]
        gate = threading.Barrier(8)

        def read_all(offset: int) -> list[Pixels]:
            gate.wait()
            return [np.array(image.read(regions[(i + offset) % len(regions)])) for i in range(len(regions))]

        with ThreadPoolExecutor(8) as pool:
            for offset, found in enumerate(pool.map(read_all, range(8))):
                for i, part in enumerate(found):
                    np.testing.assert_array_equal(part, alone[(i + offset) % len(regions)])

    def test_what_was_read_outlives_the_image(self, case: Any) -> None:
        """Closing takes nothing away from the caller."""
        image = case[0]
        part = image.read(Region.whole(image.info.shape))
        kept = np.array(part)
        image.close()
        np.testing.assert_array_equal(part, kept)

    def test_it_may_be_closed_twice(self, case: Any) -> None:
        """And is forgotten quietly when it is not closed at all."""
        case[0].close()
        case[0].close()
        self.reader.open(case[3])

    def test_axes_that_do_not_fit_are_a_mismatch(self, case: Any) -> None:
        """The message names the file."""
        path = case[3]
        with pytest.raises(ImageMismatchError) as caught:
            self.reader.open(path, axes="STCZYX"[-2:] if len(case[2]) > 2 else "ZYX")
        assert path.name in str(caught.value)
        assert caught.value.hint

    def test_a_truncated_file_is_unreadable_and_named(self, case: Any) -> None:
        """Half of a file is an error when it is opened or read; never another exception, never wrong pixels."""
        image, _, _, path = case
        if path.is_dir() or not self.notices_truncation:
            pytest.skip("nothing to cut in half")
        image.close()
        whole = path.read_bytes()
        for part in (0.5, 0.95):
            path.write_bytes(whole[: int(len(whole) * part)])
            with unreadable(path):
                cut = self.reader.open(path)
                try:
                    cut.read(Region.whole(cut.info.shape))
                finally:
                    cut.close()

    def test_damage_is_an_image_error_and_named(self, case: Any) -> None:
        """Whatever bytes are wrong: pixels of the shape that was promised, or an `ImageError` that names the file."""
        image, _, _, path = case
        if path.is_dir():
            pytest.skip("a folder of files")
        image.close()
        whole = path.read_bytes()
        choice = random.Random(11)
        for _ in range(30):
            damaged = bytearray(whole)
            for _ in range(choice.choice((1, 4, 32))):
                damaged[choice.randrange(min(len(whole), choice.choice((64, 512, 1 << 30))))] = choice.randrange(256)
            path.write_bytes(damaged)
            self._read_damaged(path)

    def _read_damaged(self, path: Path) -> None:
        with image_errors_name(path):
            image = self.reader.open(path)
            try:
                if np.prod(image.info.shape, dtype=float) < 1e8:
                    assert image.read(Region.whole(image.info.shape)).shape == image.info.shape
            finally:
                image.close()


@contextmanager
def image_errors_name(path: Path) -> Iterator[None]:
    """Lets an `ImageError` pass if it names `path`."""
    caught = None
    try:
        yield
    except ImageError as error:
        caught = error
    assert caught is None or path.name in str(caught)


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Expects an `UnreadableImageError` that names `path`."""
    with pytest.raises(UnreadableImageError) as caught:
        yield
    assert path.name in str(caught.value)
