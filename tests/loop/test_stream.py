"""Patches in a stream: all of them, in order, and every chunk decoded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import ImageError
from patchloom.geometry.region import Region
from patchloom.loop.patches import Patches
from patchloom.loop.stream import stream
from tests.loop.counting import CountingArray, reads
from tests.loop.test_patches import noise


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=3),
    patch=st.integers(1, 20),
    stride=st.integers(1, 30),
    edge=st.sampled_from(["shift", "pad", "drop"]),
    shares=st.integers(1, 5),
)
def test_shares_have_each_patch_once_and_the_same_pixels(
    sizes: list[tuple[int, int]], patch: int, stride: int, edge: Any, shares: int
) -> None:
    patches = Patches({f"im{i}": noise(*size, seed=i) for i, size in enumerate(sizes)}, patch, stride, edge=edge)
    cuts = [cut for share in range(shares) for cut in stream(patches, share=share, shares=shares)]
    assert sorted(cut.crop for cut in cuts) == [patches.crop(i) for i in range(len(patches))]
    for cut in cuts:
        np.testing.assert_array_equal(cut.pixels, patches[cut.crop].pixels)
    if shares == 1:
        assert [cut.crop for cut in cuts] == [patches.crop(i) for i in range(len(patches))]


@pytest.mark.parametrize("edge", ["shift", "pad", "drop"])
@pytest.mark.parametrize(("patch", "stride"), [(256, 192), (300, 128), (100, 100)])
def test_every_chunk_is_decoded_once(tmp_path: Path, patch: int, stride: int, edge: Any) -> None:
    log = tmp_path / "log"
    images = {
        name: CountingArray(name, noise(*shape), 256, log)
        for name, shape in {"a": (1000, 900), "b": (300, 1500)}.items()
    }
    patches = Patches(images, patch, stride, edge=edge)
    assert sum(1 for _ in stream(patches)) == len(patches)
    counts = reads(log)
    assert set(counts.values()) == {1}
    if edge != "drop":
        assert len(counts) == 4 * 4 + 2 * 6


def test_planes_are_dealt_out_whole_so_that_shares_decode_each_chunk_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    images = {f"im{i}": CountingArray(f"im{i}", noise(700, 700), 256, log) for i in range(5)}
    patches = Patches(images, 256, 128)
    assert sum(1 for share in range(2) for _ in stream(patches, share=share, shares=2)) == len(patches)
    counts = reads(log)
    assert len(counts) == 5 * 9
    assert set(counts.values()) == {1}


def test_one_image_is_cut_into_bands_that_share_the_chunks_at_the_cut_only(tmp_path: Path) -> None:
    log = tmp_path / "log"
    patches = Patches({"a": CountingArray("a", noise(2560, 512), 256, log)}, 256, 128)
    shares = [[cut.crop for cut in stream(patches, share=share, shares=2)] for share in range(2)]
    assert len(shares[0]) + len(shares[1]) == len(patches)
    assert abs(len(shares[0]) - len(shares[1])) <= patches.index.layouts[0].grid.counts[1]
    twice = [chunk for chunk, count in reads(log).items() if count > 1]
    assert len({chunk.split()[1] for chunk in twice}) <= 2


def test_wide_images_are_read_in_stripes(monkeypatch: pytest.MonkeyPatch) -> None:
    patches = Patches({"a": noise(600, 4000)}, 256, 192)
    whole = {cut.crop: cut.pixels for cut in stream(patches)}
    monkeypatch.setattr("patchloom.loop.stream.BAND_BYTES", 3 * 256 * 1024)
    stripes = {cut.crop: cut.pixels for cut in stream(patches)}
    assert list(stripes) != list(whole)
    assert set(stripes) == set(whole)
    assert all(np.array_equal(stripes[crop], whole[crop]) for crop in whole)


def test_an_image_that_cannot_be_read_is_left_out_where_the_user_asks_for_that(tmp_path: Path) -> None:
    images = {}
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", noise(64, 64))
        images[name] = str(tmp_path / f"{name}.npy")
    for on_error in ("raise", "skip"):
        patches = Patches(images, 32, on_error=on_error)
        patches.reader.planes(0)
        (tmp_path / "b.npy").write_bytes(b"broken")
        patches.reader._kept.images.clear()
        if on_error == "raise":
            with pytest.raises(ImageError, match=r"b\.npy"):
                list(stream(patches))
            np.save(tmp_path / "b.npy", noise(64, 64))
        else:
            with pytest.warns(UserWarning, match=r"b\.npy.*skipped, 1 image"):
                assert {cut.name for cut in stream(patches)} == {"a", "c"}
            assert patches.failures() == ["b"]


def test_what_a_filter_skips_is_left_out() -> None:
    image = noise(64, 64)
    image[:32] = 0

    class Dark:
        def skips(self, pixels: Any, image: str, region: Region, plane: tuple[int, ...]) -> bool:
            assert pixels.shape == (1, *region.shape)
            return not pixels.any()

    cuts = list(stream(Patches({"a": image}, 32), skip=Dark()))
    assert [cut.crop.start for cut in cuts] == [(32, 0), (32, 32)]
