"""What is particular to TIFF: pyramids and stacks, metadata, palettes, damage and claims that no file can keep."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from patchloom.errors import ImageError, ImageMismatchError, ImageTooLargeError, UnreadableImageError
from patchloom.geometry.region import Region
from patchloom.images import open_image
from patchloom.images.image import ImageInfo


def pixels(*shape: int, dtype: str = "uint8") -> NDArray[Any]:
    return np.random.default_rng(1).integers(0, 200, shape).astype(dtype)


def whole(path: Path, level: int = 0, **options: Any) -> tuple[ImageInfo, NDArray[Any]]:
    image = open_image(path, **options)
    try:
        return image.info, np.array(image.read(Region.whole(image.info.levels[level]), level))
    finally:
        image.close()


def bare_tiff(tags: list[tuple[int, int, int, int]], data: bytes = b"") -> bytes:
    """TIFF of one directory with tags (code, type, count, value) whose values fit into 4 bytes; `data` stands at 8."""
    start = 8 + len(data)
    head = b"II*\0" + struct.pack("<I", start) + data
    body = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return head + struct.pack("<H", len(tags)) + body + struct.pack("<I", 0)


def header(rows: int, columns: int, *more: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
    size = [(256, 4, 1, columns), (257, 4, 1, rows)]
    return [*size, (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1), *more]


def test_pages_that_follow_each_other_are_s(tmp_path: Path) -> None:
    array = pixels(4, 30, 40)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in array:
            writer.write(page, metadata=None, compression="zlib")
    info, found = whole(tmp_path / "a.tif")
    assert info.axes == "SYX"
    np.testing.assert_array_equal(found, array)


def test_axes_of_ome_and_imagej_are_kept(tmp_path: Path) -> None:
    array = pixels(2, 3, 4, 30, 40, dtype="uint16")
    tifffile.imwrite(tmp_path / "a.ome.tif", array, metadata={"axes": "TZCYX"})
    tifffile.imwrite(tmp_path / "b.tif", array, imagej=True, metadata={"axes": "TZCYX"})
    for name in ("a.ome.tif", "b.tif"):
        info, found = whole(tmp_path / name)
        assert info.axes == "TZCYX"
        np.testing.assert_array_equal(found, array)


def test_singleton_axes_that_a_format_pads_with_are_left_out(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels(1, 1, 3, 30, 40), metadata={"axes": "TZCYX"})
    assert whole(tmp_path / "a.ome.tif")[0].axes == "CYX"
    info, _ = whole(tmp_path / "a.ome.tif", axes="ZYX")
    assert info.axes == "ZYX"


def test_axes_that_the_user_names_win(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels(4, 30, 40), photometric="minisblack")
    assert whole(tmp_path / "a.tif", axes="TYX")[0].axes == "TYX"
    with pytest.raises(ImageMismatchError, match=r"a\.tif"):
        open_image(tmp_path / "a.tif", axes="YXC"[:2])


def test_ome_channels_of_rgb_are_kept_apart(tmp_path: Path) -> None:
    array = pixels(2, 30, 40, 3)
    tifffile.imwrite(tmp_path / "a.ome.tif", array, photometric="rgb", metadata={"axes": "CYXS"})
    info, found = whole(tmp_path / "a.ome.tif")
    assert info.axes == "SYXC"
    np.testing.assert_array_equal(found, array)


def test_metadata_of_ome_are_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels(2, 5, 30, 40), metadata={
        "axes": "CZYX", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25, "PhysicalSizeZ": 1.5,
        "Channel": {"Name": ["DAPI", "GFP"]}})
    info, _ = whole(tmp_path / "a.ome.tif")
    assert info.spacing == {"X": 250.0, "Y": 0.25, "Z": 1.5}
    assert info.unit == {"X": "nanometer", "Y": "micrometer", "Z": "micrometer"}
    assert info.channels == ("DAPI", "GFP")


def test_metadata_of_imagej_are_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels(5, 30, 40), imagej=True, resolution=(4, 2),
                     metadata={"axes": "ZYX", "spacing": 3.0, "unit": "um"})
    info, _ = whole(tmp_path / "a.tif")
    assert info.spacing == {"X": 0.25, "Y": 0.5, "Z": 3.0}
    assert set(info.unit.values()) == {"micrometer"}


def test_resolution_tags_are_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels(30, 40), resolution=(20000, 10000), resolutionunit="CENTIMETER")
    info, _ = whole(tmp_path / "a.tif")
    assert info.spacing == {"X": 0.5, "Y": 1.0}


@pytest.mark.parametrize(("raster_type", "origin"), [(1, (500.0, 900.0)), (2, (495.0, 905.0))])
def test_geotiff_is_placed(tmp_path: Path, raster_type: int, origin: tuple[float, float]) -> None:
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, raster_type, 3072, 0, 1, 32633)
    tifffile.imwrite(tmp_path / "a.tif", pixels(30, 40), extratags=[
        (33550, 12, 3, (10.0, 10.0, 0.0), True), (33922, 12, 6, (0.0, 0.0, 0.0, 500.0, 900.0, 0.0), True),
        (34735, 3, len(keys), keys, True)])
    info, _ = whole(tmp_path / "a.tif")
    assert (info.crs, info.origin, info.spacing) == ("EPSG:32633", origin, {"X": 10.0, "Y": 10.0})
    assert info.unit == {"X": "meter", "Y": "meter"}


def test_palettes_are_shown_as_rgb(tmp_path: Path) -> None:
    array = pixels(30, 40)
    colours = np.random.default_rng(2).integers(0, 65535, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="palette", colormap=colours, compression="zlib")
    info, found = whole(tmp_path / "a.tif")
    assert (info.axes, info.dtype) == ("YXC", np.uint8)
    np.testing.assert_array_equal(found, (colours >> 8).astype(np.uint8).T[array])


def test_thumbnails_labels_and_masks_are_no_levels(tmp_path: Path) -> None:
    array = pixels(512, 384, 3)
    with tifffile.TiffWriter(tmp_path / "slide.svs") as writer:
        options: dict[str, Any] = {"photometric": "rgb", "metadata": None}
        about = "Aperio Image Library v12.0\r\n512x384 |AppMag = 20|MPP = 0.4990"
        writer.write(array, tile=(64, 64), description=about, compression="zlib", **options)
        writer.write(array[::8, ::8], description="Aperio thumbnail", **options)
        writer.write(array[::4, ::4], tile=(64, 64), description="Aperio", compression="zlib", **options)
        writer.write(array[:100, :50], subfiletype=1, description="Aperio label", **options)
        writer.write(array[:90, :70], subfiletype=9, description="Aperio macro", **options)
    info, found = whole(tmp_path / "slide.svs", 1)
    assert info.levels == ((512, 384, 3), (128, 96, 3))
    assert info.spacing == {"X": 0.499, "Y": 0.499}
    np.testing.assert_array_equal(found, array[::4, ::4])


def test_the_largest_image_is_the_main_one(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(pixels(10, 12), metadata=None)
        writer.write(pixels(300, 200), metadata=None)
    assert whole(tmp_path / "a.tif")[0].shape == (300, 200)


def test_large_uncompressed_images_are_read_in_bands(tmp_path: Path) -> None:
    array = pixels(3000, 1000)
    tifffile.imwrite(tmp_path / "a.tif", array)
    image = open_image(tmp_path / "a.tif")
    assert image.info.chunks[0][0] < 3000
    tracemalloc.start()
    np.testing.assert_array_equal(image.read(Region((1700, 10), (3, 5))), array[1700:1703, 10:15])
    assert tracemalloc.get_traced_memory()[1] < 2_500_000
    tracemalloc.stop()
    image.close()


def test_a_whole_chunk_is_not_copied(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels(512, 512, 3), tile=(256, 256), compression="jpeg", photometric="rgb")
    image = open_image(tmp_path / "a.tif")
    tile = image.read(Region((256, 0, 0), (256, 256, 3)))
    assert tile.flags.c_contiguous and tile.base is not None
    image.close()


def test_tiles_that_are_not_stored_hold_nodata(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    array = np.zeros((128, 128), np.int16)
    array[:64, :64] = 5
    tifffile.imwrite(path, iter([array[:64, :64], None, None, None]), shape=array.shape, dtype=array.dtype,
                     tile=(64, 64), compression="zlib", extratags=[(42113, 2, 0, "-7", True)])
    _, found = whole(path)
    assert (found[:64, :64] == 5).all()
    assert (found[64:] == -7).all() and (found[:64, 64:] == -7).all()


def test_old_style_jpeg_comes_as_rgb(tmp_path: Path) -> None:
    colour = np.full((32, 48, 3), (200, 30, 60), np.uint8)
    stream = imagecodecs.jpeg_encode(colour, level=95)
    more = [(513, 4, 1, 8), (514, 4, 1, len(stream))]
    tags = [(256, 4, 1, 48), (257, 4, 1, 32), (259, 3, 1, 6), (262, 3, 1, 6), (277, 3, 1, 3), *more]
    (tmp_path / "old.tif").write_bytes(bare_tiff(tags, stream))
    info, found = whole(tmp_path / "old.tif")
    assert info.shape == (32, 48, 3)
    assert np.abs(found.astype(int) - (200, 30, 60)).max() <= 4


def test_aperio_ycbcr_comes_as_rgb(tmp_path: Path) -> None:
    rgb = np.full((64, 64, 3), (200, 30, 60), np.uint8)
    y, cb, cr = (0.299 * 200 + 0.587 * 30 + 0.114 * 60, 0, 0)
    cb, cr = 128 + (60 - y) * 0.564, 128 + (200 - y) * 0.713
    stored = np.full((64, 64, 3), np.rint([y, cb, cr]), np.uint8)
    tile = imagecodecs.jpeg2k_encode(stored, codecformat="j2k", mct=False, reversible=True, level=0)
    tifffile.imwrite(tmp_path / "a.tif", iter([tile]), shape=rgb.shape, dtype=rgb.dtype, tile=(64, 64),
                     compression=33003, photometric="rgb")
    _, found = whole(tmp_path / "a.tif")
    assert np.abs(found.astype(int) - rgb).max() <= 3


def test_a_giant_strip_is_refused_without_memory(tmp_path: Path) -> None:
    strip = [(273, 4, 1, 8), (278, 4, 1, 10**6), (279, 4, 1, 100)]
    for compression in (1, 8):
        tags = [tag if tag[0] != 259 else (259, 3, 1, compression) for tag in header(10**6, 10**6, *strip)]
        (tmp_path / "huge.tif").write_bytes(bare_tiff(tags, bytes(100)))
        tracemalloc.start()
        with pytest.raises((ImageTooLargeError, UnreadableImageError), match=r"huge\.tif"):
            open_image(tmp_path / "huge.tif")
        assert tracemalloc.get_traced_memory()[1] < 50e6
        tracemalloc.stop()


def test_too_few_tiles_are_refused(tmp_path: Path) -> None:
    tiles = [(322, 4, 1, 256), (323, 4, 1, 256), (324, 4, 1, 8), (325, 4, 1, 65536)]
    (tmp_path / "huge.tif").write_bytes(bare_tiff(header(10**6, 10**6, *tiles), bytes(65536)))
    with pytest.raises(UnreadableImageError, match=r"huge\.tif: its header claims 15264649 tiles and lists 1"):
        open_image(tmp_path / "huge.tif")


def test_a_tile_that_claims_to_be_larger_than_it_may_be_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(path, pixels(64, 64, 3), tile=(64, 64), compression="jpeg", photometric="rgb")
    data = bytearray(path.read_bytes())
    place = data.rfind(b"\xff\xc0\x00\x11\x08")
    data[place + 5 : place + 9] = b"\xff\xf0\xff\xf0"
    path.write_bytes(data)
    image = open_image(path)
    with pytest.raises(UnreadableImageError, match="claims 65520 x 65520"):
        image.read(Region((0, 0, 0), (64, 64, 3)))
    image.close()


def test_ome_metadata_that_announce_too_many_planes_are_refused(tmp_path: Path) -> None:
    xml = ('<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
           'DimensionOrder="XYCZT" Type="uint8" SizeX="40" SizeY="30" SizeC="1" SizeZ="1" SizeT="1">'
           '<TiffData IFD="0" PlaneCount="99999999999"/></Pixels></Image></OME>')
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels(30, 40), description=xml, metadata=None, ome=False)
    with pytest.raises(UnreadableImageError, match="PlaneCount"):
        open_image(tmp_path / "a.ome.tif")


def test_an_ome_set_of_files_opens_no_other_file(tmp_path: Path) -> None:
    xml = ('<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
           'DimensionOrder="XYCZT" Type="uint8" SizeX="40" SizeY="30" SizeC="1" SizeZ="2" SizeT="1">'
           '<TiffData IFD="0" FirstZ="0"><UUID FileName="a.ome.tif">urn:uuid:1</UUID></TiffData>'
           '<TiffData IFD="0" FirstZ="1"><UUID FileName="../secret.tif">urn:uuid:2</UUID></TiffData>'
           '</Pixels></Image></OME>')
    array = pixels(30, 40)
    tifffile.imwrite(tmp_path / "a.ome.tif", array, description=xml, metadata=None, ome=False)
    _, found = whole(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(found, array)


def test_a_stack_that_lost_pages_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for page in pixels(10, 30, 40):
            writer.write(page, metadata=None, compression="zlib")
    data = buffer.getvalue()
    for part in range(1, 10):
        path.write_bytes(data[: len(data) * part // 10])
        with pytest.raises(UnreadableImageError, match=r"stack\.tif"):
            whole(path)


def test_imagej_stacks_that_lost_planes_are_truncated(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, pixels(10, 300, 40), imagej=True, metadata={"axes": "ZYX"})
    path.write_bytes(path.read_bytes()[:70000])
    with pytest.raises(UnreadableImageError, match=r"stack\.tif"):
        whole(path)


def test_reading_after_closing_is_an_image_error(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels(30, 40))
    image = open_image(tmp_path / "a.tif")
    image.close()
    with pytest.raises(ImageError, match="closed"):
        image.read(Region((0, 0), (30, 40)))


def test_reading_a_tile_costs_little_above_its_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels(64, 64 * 64, 3), tile=(64, 64), photometric="rgb")
    image = open_image(path)
    regions = [Region((0, 64 * i, 0), (64, 64, 3)) for i in range(64)]
    costs = []
    for _ in range(20):
        start = time.thread_time()
        for region in regions:
            image.read(region)
        costs.append((time.thread_time() - start) / 64)
    assert min(costs) < 120e-6  # about 25 microseconds on an idle machine
    image.close()
