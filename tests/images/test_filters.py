"""What is skipped, and what is kept."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from patchloom.errors import ImageError, UsageError
from patchloom.geometry.region import Region
from patchloom.images.filters import Background, Filter, Function, Mask, Variance, as_filter

WHOLE = Region((0, 0), (20, 20))
PLANE = (20, 20)


def skips(chosen: str | Filter | Callable[..., Any], pixels: np.ndarray) -> bool:
    return as_filter(chosen).skips(pixels, "a.png", WHOLE, PLANE)


def colour(*values: int, dtype: str = "uint8") -> np.ndarray:
    """A patch of one colour."""
    return np.broadcast_to(np.asarray(values, dtype)[:, None, None], (len(values), 20, 20)).copy()


def test_each_form_gives_its_filter(tmp_path: Path) -> None:
    assert as_filter("background") == Background(0.05)
    assert as_filter("background:0.2") == Background(0.2)
    assert as_filter("variance:7") == Variance(7.0)
    assert as_filter(f"mask:{tmp_path}") == Mask(str(tmp_path))
    assert as_filter("numpy:all") == Function(np.all)
    assert as_filter(np.any) == Function(np.any)
    assert as_filter(Variance(3.0)) == Variance(3.0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tissue", "no filter is called 'tissue'"),
        ("", "no filter"),
        ("mask:", "no filter"),
        ("variance", "no number"),
        ("variance:high", "no number"),
        ("variance:0", "standard deviation"),
        ("variance:nan", "standard deviation"),
        ("background:1.5", "share"),
        ("background:0", "share"),
        ("mask:/no/such/folder", "no mask"),
        ("no_such_module:skip", "no_such_module"),
        ("numpy:no_such_function", "no_such_function"),
        ("math:pi", "float is no filter"),
        (5, "int is no filter"),
    ],
)
def test_what_is_no_filter_is_a_usage_error_with_a_hint(value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        as_filter(value)
    assert caught.value.hint


class TestBackground:
    @pytest.mark.parametrize(
        "values", [(255, 255, 255), (200, 200, 200), (243, 240, 238), (0, 0, 0), (25, 10, 0), (240, 240, 240, 255),
                   (180, 60, 120, 0)],
    )  # fmt: skip
    def test_of_colour_images_is_bright_and_grey_or_dark_or_transparent(self, values: tuple[int, ...]) -> None:
        assert skips("background", colour(*values))

    @pytest.mark.parametrize("values", [(180, 60, 120), (235, 210, 230), (150, 150, 150), (40, 20, 30), (26, 26, 26)])
    def test_is_neither_colour_nor_grey_in_between(self, values: tuple[int, ...]) -> None:
        assert not skips("background", colour(*values))
        assert not skips("background", colour(*values, 255))

    @given(foreground=st.integers(0, 400), least=st.sampled_from([0.01, 0.05, 0.5, 1.0]))
    def test_a_patch_is_kept_from_the_least_share_of_foreground_on(self, foreground: int, least: float) -> None:
        pixels = colour(255, 255, 255)
        pixels.reshape(3, -1)[0, :foreground] = 90
        assert skips(f"background:{least}", pixels) == (foreground < least * 400)

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64", "bool"])
    def test_of_other_images_is_what_is_flat(self, dtype: str) -> None:
        flat = np.full((1, 20, 20), 1 if dtype == "bool" else 100).astype(dtype)
        varied = flat.copy()
        varied[0, :10] = 0
        assert skips("background", flat)
        assert not skips("background", varied)

    def test_of_sixteen_bits_does_not_depend_on_how_many_are_used(self) -> None:
        dim = np.random.default_rng(0).integers(100, 4000, (3, 20, 20)).astype(np.uint16)
        assert not skips("background", dim), "12 bits in 16: far below white"

    def test_any_channel_that_varies_counts(self) -> None:
        pixels = np.full((5, 20, 20), 100, np.uint8)
        pixels[4, ::2] = 120
        assert not skips("background", pixels)

    def test_pixels_without_a_value_are_background(self) -> None:
        assert skips("background", np.full((1, 20, 20), np.nan, np.float32))
        some = np.full((1, 20, 20), np.nan, np.float32)
        some[0, :10, :10] = np.arange(100).reshape(10, 10)
        assert not skips("background", some)


class TestVariance:
    def test_is_the_standard_deviation_in_units_of_pixels(self) -> None:
        pixels = np.tile(np.array([10, 14], np.uint16), (1, 20, 10))  # deviates by 2
        assert skips("variance:2.01", pixels)
        assert not skips("variance:2", pixels)

    def test_one_channel_above_keeps_a_patch(self) -> None:
        pixels = np.stack([np.zeros((20, 20)), np.tile([0.0, 10.0], (20, 10))])
        assert not skips("variance:5", pixels)
        assert skips("variance:5.1", pixels)

    def test_is_exact_far_from_zero(self) -> None:
        pixels = np.tile(np.array([60_000, 60_002], np.float32), (1, 20, 10))
        assert not skips("variance:0.99", pixels)
        assert skips("variance:1.01", pixels)

    def test_only_finite_pixels_count(self) -> None:
        assert skips("variance:1", np.full((1, 20, 20), np.nan))
        assert not skips("variance:1", np.tile([np.nan, 0.0, 9.0, 18.0], (1, 20, 5)))


class TestFunction:
    def test_is_given_the_pixels_and_says_whether_to_skip(self) -> None:
        seen = []

        def dark(patch: np.ndarray) -> np.bool_:
            seen.append(patch.shape)
            return patch.mean() < 50

        assert skips(dark, colour(10, 10, 10))
        assert not skips(dark, colour(200, 10, 10))
        assert seen == [(3, 20, 20)] * 2

    def test_that_raises_is_named_with_the_patch(self) -> None:
        def broken(patch: np.ndarray) -> bool:
            raise RuntimeError("no such luck")

        with pytest.raises(UsageError, match=r"broken raised RuntimeError at the patch of a\.png at 0, 0: no such"):
            skips(broken, colour(1))

    @pytest.mark.parametrize("answer", [None, 1, "yes", np.array([True, False])])
    def test_that_does_not_say_yes_or_no_is_a_usage_error(self, answer: object) -> None:
        with pytest.raises(UsageError, match=type(answer).__name__):
            skips(lambda patch: answer, colour(1))


class TestMask:
    @pytest.fixture
    def masks(self, tmp_path: Path) -> Path:
        folder = tmp_path / "masks"
        (folder / "sub").mkdir(parents=True)
        return folder

    def save(self, path: Path, pixels: np.ndarray) -> None:
        Pillow.fromarray(pixels).save(path)

    def skips(self, masks: Path, image: str, region: Region, plane: tuple[int, ...] = (100, 200)) -> bool:
        return Mask(str(masks)).skips(np.zeros((1, *region.shape)), image, region, plane)

    @given(data=st.data())
    def test_at_any_resolution_equals_a_mask_that_was_enlarged(self, data: st.DataObject) -> None:
        mask = np.array([[data.draw(st.booleans()) for _ in range(5)] for _ in range(4)], np.uint8) * 255
        scale = data.draw(st.integers(1, 7))
        plane = (4 * scale, 5 * scale)
        start = [data.draw(st.integers(0, n - 1)) for n in plane]
        shape = [data.draw(st.integers(1, n - a)) for n, a in zip(plane, start, strict=True)]
        region = Region(tuple(start), tuple(shape))
        large = mask.repeat(scale, 0).repeat(scale, 1)
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder) / "a.png", mask)
            assert self.skips(Path(folder), "a.png", region, plane) == (not large[region.slices].any())

    def test_has_the_name_of_its_image_with_any_suffix(self, masks: Path) -> None:
        full = np.full((10, 20), 255, np.uint8)
        patch = Region((0, 0), (10, 10))
        self.save(masks / "a.png", full)
        tifffile.imwrite(masks / "sub" / "b.ome.tif", full)
        self.save(masks / "c.svs.png", full)
        self.save(masks / "array.bmp", full)
        for image in ("a.png", "a.svs", "a.ome.tif", "sub/b.svs", "c.svs", "array"):
            assert not self.skips(masks, image, patch)
        for image in ("b.svs", "sub/a.png", "d.png"):
            with pytest.raises(ImageError, match=f"{image} has no mask"):
                self.skips(masks, image, patch)

    def test_of_which_there_are_two_is_an_error(self, masks: Path) -> None:
        for name in ("a.png", "a.bmp"):
            self.save(masks / name, np.zeros((4, 4), np.uint8))
        with pytest.raises(ImageError, match=r"a\.bmp and a\.png"):
            self.skips(masks, "a.svs", Region((0, 0), (1, 1)))

    def test_that_is_damaged_costs_the_image(self, masks: Path) -> None:
        (masks / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
        with pytest.raises(ImageError, match=r"the mask .*a\.png"):
            self.skips(masks, "a.png", Region((0, 0), (1, 1)))

    def test_transparency_is_no_mask(self, masks: Path) -> None:
        pixels = np.zeros((10, 20, 4), np.uint8)
        pixels[..., 3] = 255
        pixels[5:, :, 1] = 1
        self.save(masks / "a.png", pixels)
        assert self.skips(masks, "a.png", Region((0, 0), (50, 200)))
        assert not self.skips(masks, "a.png", Region((0, 0), (51, 200)))

    def test_one_file_serves_one_image(self, masks: Path) -> None:
        self.save(masks / "mine.png", np.eye(10, dtype=np.uint8))
        one = Mask(str(masks / "mine.png"))
        assert one.is_one
        assert not Mask(str(masks)).is_one
        assert not one.skips(np.zeros((1, 1, 1)), "whatever.svs", Region((0, 0), (1, 1)), (10, 10))
        assert one.skips(np.zeros((1, 1, 1)), "whatever.svs", Region((0, 1), (1, 1)), (10, 10))

    def test_of_a_volume_is_compared_slice_by_slice_or_stands_for_all_slices(self, masks: Path) -> None:
        volume = np.zeros((4, 10, 20), np.uint8)
        volume[2, 5, 5] = 1
        tifffile.imwrite(masks / "deep.tif", volume, metadata={"axes": "ZYX"}, imagej=True)
        self.save(masks / "flat.png", volume[2])
        plane = (8, 10, 20)
        upper, lower = Region((0, 0, 0), (4, 10, 20)), Region((4, 0, 0), (4, 10, 20))
        assert self.skips(masks, "deep.tif", upper, plane)
        assert not self.skips(masks, "deep.tif", lower, plane)
        assert not self.skips(masks, "flat.tif", upper, plane)
        assert self.skips(masks, "flat.tif", Region((0, 0, 6), (8, 10, 14)), plane)

    def test_few_are_kept_open_and_all_are_right(self, masks: Path) -> None:
        for i in range(40):
            self.save(masks / f"{i}.png", np.full((4, 4), i % 2, np.uint8))
        mask = Mask(str(masks))
        for _ in range(2):
            for i in range(40):
                assert mask.skips(np.zeros((1, 1, 1)), f"{i}.png", Region((0, 0), (1, 1)), (4, 4)) == (i % 2 == 0)
        assert len(mask._views) <= 16

    def test_goes_to_other_processes(self, masks: Path) -> None:
        self.save(masks / "a.png", np.eye(10, dtype=np.uint8))
        mask = Mask(str(masks))
        mask.skips(np.zeros((1, 1, 1)), "a.png", Region((0, 0), (1, 1)), (10, 10))
        copy = pickle.loads(pickle.dumps(mask))
        assert copy == mask
        assert copy.skips(np.zeros((1, 1, 1)), "a.png", Region((0, 1), (1, 1)), (10, 10))
