"""Images at the size that a model takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps

from patchloom.errors import ImageMismatchError
from patchloom.geometry.region import Region
from patchloom.images import open_image
from patchloom.images.array import ArrayImage
from patchloom.images.image import Image
from patchloom.images.resized import Fit, ResizedImage


def shapes(rows: int, columns: int, seed: int = 0) -> NDArray[np.uint8]:
    """Discs of one colour with a little noise: edges, flats and texture."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    picture = np.full((rows, columns, 3), 128.0)
    for _ in range(20):
        centre, radius = random.random(2) * (rows, columns), random.uniform(0.05, 0.2) * min(rows, columns)
        picture[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = random.integers(0, 256, 3)
    return np.clip(picture + random.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


def whole(image: Image, level: int = 0) -> NDArray[Any]:
    return np.array(image.read(Region.whole(image.info.levels[level]), level))


def naive(pixels: NDArray[np.uint8], length: int, crop: int) -> NDArray[np.uint8]:
    """Resize and CenterCrop of torchvision, written out."""
    rows, columns = pixels.shape[:2]
    size = (length, int(length * columns / rows)) if rows <= columns else (int(length * rows / columns), length)
    small = np.asarray(Pillow.fromarray(pixels).resize(size[::-1], Pillow.Resampling.BILINEAR))
    top, left = (round((n - crop) / 2) for n in size)
    return small[top : top + crop, left : left + crop]


@given(st.integers(20, 90), st.integers(20, 90), st.integers(8, 120), st.integers(1, 120))
@settings(max_examples=40, deadline=None)
def test_it_is_what_torchvision_makes_of_it(rows: int, columns: int, length: int, crop: int) -> None:
    pixels, crop = shapes(rows, columns), min(crop, length)
    image = ResizedImage(ArrayImage(pixels), Fit((length,), (crop,)))
    assert image.info.shape == (crop, crop, 3)
    expected = naive(pixels, length, crop)
    # The centre is computed alone; positions of its pixels are rounded to float32 on the way, once for each axis.
    assert np.abs(whole(image).astype(int) - expected).max() <= 2


def test_without_a_centre_the_longer_side_follows_the_shorter() -> None:
    pixels = shapes(60, 101)
    image = ResizedImage(ArrayImage(pixels), Fit((30,)))
    assert image.info.shape == (30, 50, 3)
    np.testing.assert_array_equal(whole(image), np.asarray(Pillow.fromarray(pixels).resize((50, 30), 2)))


def test_two_numbers_are_the_exact_size() -> None:
    assert ResizedImage(ArrayImage(shapes(60, 100)), Fit((32, 48))).info.shape == (32, 48, 3)


def test_a_centre_alone_is_cut_out_unchanged() -> None:
    pixels = shapes(60, 100)
    image = ResizedImage(ArrayImage(pixels), Fit(None, (20, 30)))
    np.testing.assert_array_equal(whole(image), pixels[20:40, 35:65])


@pytest.mark.parametrize(("axes", "order"), [("CYX", (2, 0, 1)), ("YXC", (0, 1, 2)), ("XYC", (1, 0, 2)),
                                             ("CXY", (2, 1, 0)), ("YCX", (0, 2, 1))])  # fmt: skip
def test_any_order_of_axes_gives_the_same_pixels(axes: str, order: tuple[int, ...]) -> None:
    pixels, fit = shapes(40, 60), Fit((16,), (12, 14))
    expected = whole(ResizedImage(ArrayImage(pixels), fit))
    found = whole(ResizedImage(ArrayImage(pixels.transpose(order), axes), fit))
    np.testing.assert_array_equal(found, expected.transpose(order))


def test_loops_stay_as_they_are() -> None:
    stack = np.stack([shapes(40, 60, seed) for seed in range(3)])
    image = ResizedImage(ArrayImage(stack, "TYXC"), Fit((16,), (16,)))
    assert image.info.shape == (3, 16, 16, 3)
    second = image.read(Region((1, 0, 0, 0), (1, 16, 16, 3)))
    np.testing.assert_array_equal(second[0], whole(ResizedImage(ArrayImage(stack[1]), Fit((16,), (16,)))))


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "f4", "f8"])
def test_other_types_agree_with_bytes_within_rounding(dtype: str) -> None:
    pixels = shapes(50, 70)[..., :2]  # two channels go one by one
    expected = whole(ResizedImage(ArrayImage(pixels, "YXC"), Fit((20,))))
    found = whole(ResizedImage(ArrayImage(pixels.astype(dtype), "YXC"), Fit((20,))))
    assert found.dtype == np.dtype(dtype)
    assert np.abs(found.astype(float) - expected).max() <= 1.01


def test_masks_stay_masks() -> None:
    mask = np.zeros((40, 40), bool)
    mask[:20] = True
    found = whole(ResizedImage(ArrayImage(mask), Fit((10,))))
    assert found.dtype == bool
    np.testing.assert_array_equal(found, mask[::4, ::4])


def test_large_values_do_not_wrap_round() -> None:
    pixels = np.full((40, 40), np.iinfo(np.uint32).max, np.uint32)
    assert (whole(ResizedImage(ArrayImage(pixels), Fit((10,)))) == pixels[:10, :10]).all()


def test_alpha_does_not_change_colours() -> None:
    pixels = np.dstack([shapes(40, 60), np.zeros((40, 60), np.uint8)])
    found = whole(ResizedImage(ArrayImage(pixels), Fit((16,))))
    np.testing.assert_array_equal(found[..., :3], whole(ResizedImage(ArrayImage(pixels[..., :3]), Fit((16,)))))


def test_a_part_is_a_part_of_the_whole() -> None:
    image = ResizedImage(ArrayImage(shapes(40, 60)), Fit((20,)))
    np.testing.assert_array_equal(image.read(Region((3, 4, 1), (5, 6, 2))), whole(image)[3:8, 4:10, 1:3])


def test_a_centre_larger_than_the_image_is_an_error_that_names_both() -> None:
    with pytest.raises(ImageMismatchError, match=r"small\.png: the centre of 64 x 64 .* 40 x 60") as caught:
        ResizedImage(ArrayImage(shapes(40, 60)), Fit(None, (64,)), "small.png")
    assert "--resize" in caught.value.hint


def test_complex_pixels_are_refused() -> None:
    with pytest.raises(ImageMismatchError, match="complex64"):
        ResizedImage(ArrayImage(np.zeros((8, 8), np.complex64)), Fit((4,)))


class Slide(ArrayImage):
    """Array with a pyramid of means."""

    def __init__(self, pixels: NDArray[Any], levels: int) -> None:
        from dataclasses import replace

        super().__init__(pixels)
        self.arrays = [pixels]
        for _ in range(1, levels):
            rows, columns, channels = self.arrays[-1].shape
            halved = self.arrays[-1].reshape(rows // 2, 2, columns // 2, 2, channels).mean((1, 3))
            self.arrays.append(np.rint(halved).astype(pixels.dtype))
        found = tuple(array.shape for array in self.arrays)
        self.info = replace(self.info, levels=found, chunks=found, spacing={"Y": 0.5, "X": 0.5}, origin=(100.0, 200.0))
        self.read_levels: set[int] = set()

    def read(self, region: Region, level: int = 0) -> NDArray[Any]:
        self.read_levels.add(level)
        return self.arrays[level][region.slices]


def test_a_slide_is_made_small_from_a_coarse_level() -> None:
    slide = Slide(shapes(512, 768), 4)
    image = ResizedImage(slide, Fit((64,)))
    found = whole(image)
    assert slide.read_levels == {2}  # 128 x 192, twice of what is wanted
    expected = whole(ResizedImage(ArrayImage(slide.arrays[0]), Fit((64,))))
    assert np.abs(found.astype(int) - expected).mean() < 1.5
    assert image.decoded_bytes == 128 * 192 * 3


def test_spacing_and_origin_are_those_of_the_result() -> None:
    image = ResizedImage(Slide(shapes(512, 768), 1), Fit((64,), (32,)))
    assert image.info.spacing == {"Y": 4.0, "X": 4.0}
    assert image.info.origin == (100.0 + 32 * 4.0, 200.0 - 16 * 4.0)
    assert image.original == (512, 768)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_small_decoding_of_a_photograph_differs_little_and_knows_its_orientation(
    tmp_path: Path, orientation: int
) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    Pillow.fromarray(shapes(1003, 1501)).save(tmp_path / "a.jpg", quality=90, exif=exif)
    with Pillow.open(tmp_path / "a.jpg") as stored:
        expected = naive(np.asarray(ImageOps.exif_transpose(stored)), 100, 80)
    image = ResizedImage(open_image(tmp_path / "a.jpg"), Fit((100,), (80,)))
    found = whole(image)
    image.close()
    differences = np.abs(found.astype(int) - expected)
    assert differences.mean() < 0.7
    assert differences.max() <= 16  # at the edge of a disc; one pixel aside it would be a hundred


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_files_are_resized_as_their_pixels_are(tmp_path: Path, suffix: str, mode: str) -> None:
    if suffix == ".jpg" and mode == "RGBA":
        mode = "CMYK"
    options = {"lossless": True} if suffix == ".webp" else {}
    Pillow.fromarray(shapes(90, 130)).convert(mode).save(tmp_path / f"a{suffix}", **options)
    pixels = whole(open_image(tmp_path / f"a{suffix}"))
    found = whole(ResizedImage(open_image(tmp_path / f"a{suffix}"), Fit((64,), (56,))))
    np.testing.assert_array_equal(found, whole(ResizedImage(ArrayImage(pixels), Fit((64,), (56,)))))
