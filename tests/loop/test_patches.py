"""Patches by number: arithmetic over images that are opened when they are needed."""

from __future__ import annotations

import pickle
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from patchloom.errors import ImageMismatchError, SourceError, UnreadableImageError, UsageError
from patchloom.loop.catalogue import Names
from patchloom.loop.patches import Crop, Patches


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def starts(size: int, patch: int, stride: int, edge: str) -> list[int]:
    """Written down from the definition, without arithmetic of ours."""
    if size < patch:
        return [] if edge == "drop" else [0]
    fit = [a for a in range(0, size, stride) if a + patch <= size]
    if edge == "drop" or fit[-1] + patch == size:
        return fit
    if edge == "shift":
        return [*fit, size - patch]
    return [*fit, fit[-1] + stride] if fit[-1] + stride < size else fit


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4),
    patch=st.integers(1, 20),
    stride=st.integers(1, 24),
    edge=st.sampled_from(["shift", "pad", "drop"]),
    pad=st.sampled_from(["reflect", "edge", "constant"]),
)
def test_every_patch_is_where_a_list_of_all_patches_has_it(
    sizes: list[tuple[int, int]], patch: int, stride: int, edge: str, pad: str
) -> None:
    images = {f"im{i}": noise(*size, seed=i) for i, size in enumerate(sizes)}
    patches = Patches(images, patch, stride, edge=edge, pad=pad)  # type: ignore[arg-type]
    listed = [
        (name, y, x)
        for name, image in images.items()
        for y in starts(image.shape[0], patch, stride, edge)
        for x in starts(image.shape[1], patch, stride, edge)
    ]
    assert len(patches) == len(listed)
    modes: dict[str, Any] = {"reflect": {"mode": "reflect"}, "edge": {"mode": "edge"}, "constant": {"mode": "constant"}}
    for i, (name, y, x) in enumerate(listed):
        padded = np.pad(images[name], ((0, patch * 3), (0, patch * 3)), **modes[pad])
        cut = patches[i]
        assert (cut.name, cut.crop.start) == (name, (y, x))
        np.testing.assert_array_equal(cut.pixels, padded[None, y : y + patch, x : x + patch])


def test_loop_axes_are_samples_with_s_outside_and_t_inside() -> None:
    image = noise(2, 3, 40, 40)
    patches = Patches({"a": image}, 40, axes="STYX")
    assert patches.loops
    assert len(patches) == 6
    for i in range(6):
        assert patches[i].crop.sample == i
        np.testing.assert_array_equal(patches[i].pixels[0], image[i // 3, i % 3])


def test_a_patch_of_three_numbers_is_a_volume() -> None:
    image = noise(12, 20, 20)
    patches = Patches({"a": image}, (8, 16, 16), (4, 4, 4), axes="ZYX")
    cut = patches[-1]
    assert cut.crop.start == (4, 4, 4)
    np.testing.assert_array_equal(cut.pixels[0], image[4:, 4:, 4:])


def test_channels_and_levels_are_chosen_as_in_a_run(tmp_path: Path) -> None:
    image = noise(64, 64, 3)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(image, tile=(16, 16), subifds=1, photometric="rgb")
        file.write(image[::2, ::2], tile=(16, 16), photometric="rgb", subfiletype=1)
    cut = Patches(tmp_path, 16, channels=[2, 0], level=1)[3]
    np.testing.assert_array_equal(cut.pixels, image[::2, ::2][16:, 16:, [2, 0]].transpose(2, 0, 1))


def test_a_crop_may_start_anywhere() -> None:
    image = noise(50, 60)
    cut = Patches({"a": image}, 16)[Crop(0, 0, (7, 31))]
    np.testing.assert_array_equal(cut.pixels[0], image[7:23, 31:47])


def test_numbers_go_back_and_forth() -> None:
    patches = Patches({"a": noise(50, 60), "b": noise(20, 70)}, 16, 10)
    for i in range(len(patches)):
        crop = patches.crop(i)
        assert patches.index.number(crop.image, crop.sample, crop.start) == i
    assert patches.index.number(0, 0, (1, 0)) is None
    assert patches.index.number(0, 1, (0, 0)) is None
    assert patches.crop(-1) == patches.crop(len(patches) - 1)
    with pytest.raises(IndexError, match="no patch"):
        patches.crop(len(patches))


def test_a_million_images_take_little_time_and_memory() -> None:
    image = noise(64, 64)
    images = {f"folder/{i:07d}.png": image for i in range(1_000_000)}
    begin = time.process_time()
    patches = Patches(images, 32)
    seconds = time.process_time() - begin
    assert len(patches) == 4_000_000
    assert seconds < 3, "about 0.4 s on an idle core"
    tracemalloc.start()
    Patches(images, 32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_the_cost_of_an_item_does_not_depend_on_the_number_of_patches() -> None:
    def median(side: int) -> float:
        image = np.broadcast_to(np.uint8(7), (side, side))
        patches = Patches({"a": image}, 64, 16, cache=1)
        chosen = np.random.default_rng(0).integers(len(patches), size=200).tolist()
        seconds = []
        for i in chosen:
            begin = time.perf_counter()
            patches[i]
            seconds.append(time.perf_counter() - begin)
        return float(np.median(seconds))

    small, large = median(1_000), median(10_000_000)
    assert len(Patches({"a": np.broadcast_to(np.uint8(7), (10_000_000,) * 2)}, 64, 16)) > 3 * 10**11
    assert large < 5 * small


def test_names_in_little_memory_are_the_names() -> None:
    names = Names()
    texts = ["a", "", "ä/ö.tif", "\udcff.tif"]
    for text in texts:
        names.append(text)
    assert list(names) == texts
    assert (names[-1], names[1:3]) == (texts[-1], texts[1:3])
    with pytest.raises(IndexError):
        names[4]


def test_images_stay_open_only_so_many(tmp_path: Path) -> None:
    for i in range(100):
        Image.fromarray(noise(8, 8, seed=i)).save(tmp_path / f"{i:03}.png")
    patches = Patches(tmp_path, 8)
    for i in [*range(100), 0]:
        np.testing.assert_array_equal(patches[i].pixels[0], noise(8, 8, seed=i))


def test_a_pickled_copy_reads_the_same(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(64, 64), tile=(16, 16))
    for source in (tmp_path, str(tmp_path / "*.tif"), {"a.tif": tmp_path / "a.tif"}, {"a.tif": noise(64, 64)}):
        patches = Patches(source, 32)
        before = patches[3].pixels
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(patches))[3].pixels, before)


def test_memory_holds_what_was_decoded_once(tmp_path: Path) -> None:
    image = noise(40, 50, 3)
    Image.fromarray(image).save(tmp_path / "a.png")
    patches = Patches(tmp_path, 16, cache="memory")
    (tmp_path / "a.png").unlink()
    np.testing.assert_array_equal(patches[0].pixels, image[:16, :16].transpose(2, 0, 1))


def test_names_of_images_are_made_plain_and_unique() -> None:
    assert list(Patches({"./a//b": noise(8, 8), 7: noise(8, 8)}, 8).names) == ["a/b", "7"]
    with pytest.raises(SourceError, match="two images are called 'a/b'"):
        Patches({"a//b": noise(8, 8), "a/b": noise(8, 8)}, 8)
    with pytest.raises(SourceError, match="cannot be the name"):
        Patches({"../a": noise(8, 8)}, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 8, "overlap": 8}, "overlap 8 is not below patch 8"),
        ({"patch": 8, "stride": 4, "overlap": 4}, "exclude each other"),
        ({"patch": 0}, "at least 1"),
        ({"patch": 8, "edge": "fold"}, "one of shift, pad, drop"),
        ({"patch": (8, 8, 8), "stride": (2, 2)}, "2 numbers for 3 axes"),
        ({"patch": 8, "on_error": "ignore"}, "raise or skip"),
        ({"patch": 8, "cache": "lots"}, "cache"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Patches({"a": noise(16, 16, 16)}, axes="ZYX", **options)


def test_axes_that_do_not_fit_the_array_are_refused() -> None:
    with pytest.raises(ImageMismatchError, match="axes 'YX' name 2 axes"):
        Patches({"a": noise(4, 16, 16)}, 8, axes="YX")


def test_an_error_names_the_file(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "good.tif", noise(64, 64))
    (tmp_path / "zbad.tif").write_bytes(b"II*\0nothing")
    with pytest.raises(UnreadableImageError, match=r"zbad\.tif"):
        Patches(tmp_path, 32)
    with pytest.warns(UserWarning, match=r"zbad\.tif.*skipped, 1 image so far"):
        patches = Patches(tmp_path, 32, on_error="skip")
    assert (len(patches), patches.failures()) == (4, ["zbad.tif"])


def test_a_known_shape_spares_the_headers_and_is_checked_when_an_image_is_opened(tmp_path: Path) -> None:
    Image.fromarray(noise(32, 32)).save(tmp_path / "a.png")
    Image.fromarray(noise(32, 40)).save(tmp_path / "b.png")
    patches = Patches(tmp_path, 16, shape=(32, 32))
    assert len(patches) == 8
    assert patches[3].pixels.shape == (1, 16, 16)
    with pytest.raises(ImageMismatchError, match=r"b\.png has 32x40 pixels"):
        patches[4]
