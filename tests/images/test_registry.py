"""The reader is chosen by content first and suffix second, and other packages may bring readers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from patchloom.errors import UnknownFormatError, UnreadableImageError
from patchloom.geometry.region import Region
from patchloom.images import open_image
from patchloom.images.registry import known_suffixes, reader_of

DATA = Path(__file__).parents[2].parent / "shared" / "data"

READER = '''
import numpy as np
from patchloom.images import ArrayImage

class RawReader:
    suffixes = (".rawimg",)

    def recognises(self, path, head):
        return head.startswith(b"RAWIMG")

    def open(self, path, *, axes=None):
        return ArrayImage(np.frombuffer(path.read_bytes()[6:], np.uint8).reshape(4, 5), axes, str(path))
'''


def install(folder: Path, entry_points: str) -> None:
    """Make a package as pip would leave it."""
    (folder / "rawimg.py").write_text(READER)
    info = folder / "rawimg-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rawimg\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[patchloom.readers]\n{entry_points}\n")


def run(code: str, *folders: Path) -> str:
    """What a fresh interpreter with `folders` in its path prints."""
    path = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_reader_of_another_package_is_found_with_no_change_here(tmp_path: Path) -> None:
    install(tmp_path, "raw = rawimg:RawReader")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "one.rawimg").write_bytes(b"RAWIMG" + bytes(range(20)))
    code = f"""
from patchloom.images import as_source
entry, = as_source({str(tmp_path / 'pictures')!r})
image = entry.open()
print(entry.name, image.info.shape, image.info.dtype)
"""
    assert run(code, tmp_path) == "one.rawimg (4, 5) uint8"


def test_a_broken_reader_of_another_package_does_not_keep_ours_from_reading(tmp_path: Path) -> None:
    install(tmp_path, "raw = nonsense_that_is_not_installed:Reader")
    Pillow.new("L", (3, 2)).save(tmp_path / "picture.png")
    (tmp_path / "unknown.bin").write_bytes(b"unknown content")
    code = f"""
from patchloom.images import open_image
print(open_image({str(tmp_path / 'picture.png')!r}).info.shape)
try:
    open_image({str(tmp_path / 'unknown.bin')!r})
except ValueError as error:
    print(error.kind, "reader raw of rawimg cannot be loaded" in error.hint)
"""
    assert run(code, tmp_path).split("\n") == ["(2, 3)", "unknown-format True"]


def test_choosing_a_reader_loads_no_codec() -> None:
    code = """
import sys
from patchloom.images.registry import known_suffixes
assert {".tif", ".svs", ".zarr", ".png", ".npy"} <= known_suffixes()
print(sorted({"tifffile", "imagecodecs", "zarr", "PIL"} & set(sys.modules)))
"""
    assert run(code) == "[]"


def test_content_decides_whatever_the_name_is(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "wrong.png", np.zeros((5, 6), np.uint8))
    Pillow.new("RGB", (4, 3)).save(tmp_path / "wrong.tif", format="PNG")
    np.save(tmp_path / "array.npy", np.zeros((7, 8)))
    (tmp_path / "array.npy").rename(tmp_path / "no_suffix")
    shapes = [open_image(tmp_path / name).info.shape for name in ("wrong.png", "wrong.tif", "no_suffix")]
    assert shapes == [(5, 6), (3, 4, 3), (7, 8)]


def test_suffix_decides_where_content_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.tif").write_bytes(b"this is no TIFF file at all")
    with pytest.raises(UnreadableImageError, match=r"broken\.tif") as caught:
        open_image(tmp_path / "broken.tif")
    assert caught.value.hint


def test_unknown_content_is_an_unknown_format(tmp_path: Path) -> None:
    (tmp_path / "notes.xyz").write_text("BM is how this text begins, and it is no bitmap at all, not even nearly")
    with pytest.raises(UnknownFormatError, match=r"notes\.xyz") as caught:
        open_image(tmp_path / "notes.xyz")
    assert "TIFF" in caught.value.hint


def test_a_format_without_a_reader_is_named(tmp_path: Path) -> None:
    (tmp_path / "scan.dcm").write_bytes(bytes(128) + b"DICM" + bytes(100))
    with pytest.raises(UnknownFormatError, match="DICOM"):
        open_image(tmp_path / "scan.dcm")


def test_empty_and_missing_files_are_unreadable_and_a_plain_folder_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "empty.tif").touch()
    with pytest.raises(UnreadableImageError, match=r"empty\.tif: is empty"):
        open_image(tmp_path / "empty.tif")
    with pytest.raises(UnreadableImageError, match=r"gone\.tif: there is no such file"):
        open_image(tmp_path / "gone.tif")
    with pytest.raises(UnknownFormatError, match="the folder is no image"):
        open_image(tmp_path)


def test_suffixes_are_lower_case_with_a_dot() -> None:
    assert known_suffixes()
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in known_suffixes())


def test_nothing_is_recognised_in_random_bytes(tmp_path: Path) -> None:
    assert reader_of(tmp_path / "any", b"\x01\x02\x03" * 20) is None


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared images are not here")
@pytest.mark.parametrize("path", sorted(DATA.glob("*.*")) if DATA.is_dir() else [], ids=lambda path: path.name)
def test_real_files_open_or_fail_with_an_error_that_names_them(path: Path) -> None:
    if path.suffix == ".md":
        pytest.skip("no image")
    if path.suffix == ".dcm":
        with pytest.raises(UnknownFormatError, match=path.name):
            open_image(path)
        return
    if path.name == "unopenable.tiff":
        with pytest.raises(UnreadableImageError, match=r"unopenable.*52479"):
            open_image(path)
        return
    image = open_image(path)
    if path.name == "unreadable.svs":
        with pytest.raises(UnreadableImageError, match=r"unreadable.*Bogus marker length"):
            image.read(Region.whole(image.info.shape))
        image.close()
        return
    with tifffile.TiffFile(path) as tif:
        for level, page in enumerate(tif.series[0].levels):
            found = image.read(Region.whole(image.info.levels[level]), level)
            np.testing.assert_array_equal(found, page.asarray())
        assert len(tif.series[0].levels) == len(image.info.levels)
    image.close()


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared images are not here")
def test_real_files_say_how_large_their_pixels_are() -> None:
    images = {name: open_image(DATA / name) for name in (
        "CMU-1-Small-Region.svs", "RGB.byte.tif", "aerial_tiled.tif", "yb10kx5k.zstd.tiff", "grey10kx5k.tif")}
    infos = {name: image.info for name, image in images.items()}
    slide = infos["CMU-1-Small-Region.svs"]
    assert (slide.axes, slide.levels, slide.chunks) == ("YXC", ((2967, 2220, 3),), ((240, 240, 3),))
    assert slide.spacing == {"X": 0.499, "Y": 0.499}
    assert slide.unit == {"X": "micrometer", "Y": "micrometer"}
    landsat = infos["RGB.byte.tif"]
    assert (landsat.crs, landsat.origin, landsat.unit["X"]) == ("EPSG:32618", (101985.0, 2826915.0), "meter")
    assert landsat.spacing["X"] == pytest.approx(300.038, abs=1e-3)
    assert infos["aerial_tiled.tif"].crs == "EPSG:28992"
    assert infos["aerial_tiled.tif"].spacing == {"X": 0.25, "Y": 0.25}
    assert len(infos["yb10kx5k.zstd.tiff"].levels) == 5
    assert infos["grey10kx5k.tif"].shape == (5000, 10000)
    for image in images.values():
        image.close()
