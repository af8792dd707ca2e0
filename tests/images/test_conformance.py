"""Every reader that comes with patchloom does what readers must do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image as Pillow

from patchloom.images.image import Reader
from patchloom.images.readers.npy import NpyReader
from patchloom.images.readers.raster import RasterReader
from patchloom.images.readers.tiff import TiffReader
from patchloom.images.readers.zarr import ZarrReader
from patchloom.testing.readers import ReaderTests

Pixels = NDArray[Any]
Arrays = list[tuple[str, tuple[int, ...], str]]


class TiffTests(ReaderTests):
    reader: ClassVar[Reader] = TiffReader()
    options: ClassVar[dict[str, Any]] = {}

    def make(self, folder: Path, array: Pixels, axes: str) -> Path:
        path = folder / "image.tif"
        colour = {"photometric": "rgb" if axes.endswith("YXC") and array.shape[-1] == 3 else "minisblack"}
        if "C" in axes:
            colour |= {"planarconfig": "separate" if axes.endswith("CYX") else "contig"}
        colour |= copy.deepcopy(self.options)  # tifffile adds to what it is given
        tifffile.imwrite(path, array, metadata={"axes": axes.replace("C", "S")}, **colour)
        return path


class TestUncompressedTiff(TiffTests):
    arrays: ClassVar[Arrays] = [
        ("YX", (61, 83), "uint8"), ("YXC", (61, 83, 3), "uint16"), ("CYX", (3, 61, 83), "float32"),
        ("TZYX", (2, 3, 31, 43), "int16"), ("YX", (1, 1), "uint8"), ("YXC", (40, 1, 3), "uint8"),
    ]


class TestBigEndianTiff(TiffTests):
    arrays: ClassVar[Arrays] = [("YX", (61, 83), "uint16"), ("TYXC", (2, 31, 43, 3), "float32")]
    options: ClassVar[dict[str, Any]] = {"byteorder": ">", "rowsperstrip": 7}


class TestDeflateStrips(TiffTests):
    arrays: ClassVar[Arrays] = [
        ("YX", (61, 83), "uint8"), ("YXC", (61, 83, 3), "uint16"), ("CYX", (5, 61, 83), "uint8"),
        ("ZYX", (4, 31, 43), "float32"), ("YXC", (61, 83, 7), "uint8"),
    ]
    options: ClassVar[dict[str, Any]] = {"compression": "zlib", "predictor": True, "rowsperstrip": 16}


class TestLzwTiles(TiffTests):
    arrays: ClassVar[Arrays] = [
        ("YX", (161, 83), "uint8"), ("YXC", (61, 183, 3), "uint16"), ("CYX", (3, 61, 83), "uint8"),
        ("TZYXC", (2, 3, 31, 43, 3), "uint8"),
    ]
    options: ClassVar[dict[str, Any]] = {"compression": "lzw", "tile": (32, 48)}


class TestZstdBigTiff(TiffTests):
    arrays: ClassVar[Arrays] = [("YX", (161, 83), "float64"), ("YXC", (61, 183, 4), "uint32")]
    options: ClassVar[dict[str, Any]] = {"compression": "zstd", "tile": (64, 64), "bigtiff": True, "byteorder": ">"}


class TestLosslessImageCodecs(TiffTests):
    arrays: ClassVar[Arrays] = [("YXC", (61, 183, 3), "uint8")]
    options: ClassVar[dict[str, Any]] = {"compression": "jpeg2000", "tile": (64, 64)}


class TestLosslessWebp(TiffTests):
    arrays: ClassVar[Arrays] = [("YXC", (61, 183, 3), "uint8")]
    options: ClassVar[dict[str, Any]] = {"compression": "webp", "compressionargs": {"level": -1}, "tile": (64, 64)}


class TestPackbitsAndBilevel(TiffTests):
    arrays: ClassVar[Arrays] = [("YX", (61, 83), "uint8"), ("YX", (64, 88), "bool")]
    options: ClassVar[dict[str, Any]] = {"compression": "packbits", "rowsperstrip": 8}


class TestVolumesInOnePage(TiffTests):
    arrays: ClassVar[Arrays] = [("ZYX", (18, 61, 83), "uint8")]
    options: ClassVar[dict[str, Any]] = {"compression": "zlib", "volumetric": True, "tile": (16, 32, 32)}


class TestJpegTiles(TiffTests):
    arrays: ClassVar[Arrays] = [("YX", (161, 83), "uint8"), ("YXC", (161, 83, 3), "uint8")]
    options: ClassVar[dict[str, Any]] = {"compression": "jpeg", "compressionargs": {"level": 98}, "tile": (64, 80)}
    tolerance = 12


class TestPyramid(ReaderTests):
    reader: ClassVar[Reader] = TiffReader()
    arrays: ClassVar[Arrays] = [("YXC", (160, 200, 3), "uint8"), ("YX", (160, 200), "uint16")]
    levels = 3

    def make(self, folder: Path, array: Pixels, axes: str) -> Path:
        path = folder / "pyramid.tif"
        options = {"photometric": "rgb" if axes == "YXC" else "minisblack", "tile": (32, 32), "compression": "zlib"}
        with tifffile.TiffWriter(path) as writer:
            writer.write(array, subifds=2, **options)
            for level in (1, 2):
                writer.write(self.expected(array, axes, level), subfiletype=1, **options)
        return path

    def expected(self, array: Pixels, axes: str, level: int) -> Pixels:
        return array[:: 2**level, :: 2**level]


class TestOmePyramid(TestPyramid):
    arrays: ClassVar[Arrays] = [("CZYX", (2, 3, 80, 96), "uint16"), ("TYXC", (2, 80, 96, 3), "uint8")]

    def make(self, folder: Path, array: Pixels, axes: str) -> Path:
        path = folder / "pyramid.ome.tif"
        options: dict[str, Any] = {"photometric": "rgb" if axes[-1] == "C" else "minisblack", "tile": (32, 32)}
        with tifffile.TiffWriter(path, bigtiff=True) as writer:
            writer.write(array, subifds=2, metadata={"axes": axes.replace("YXC", "YXS")}, **options)
            for level in (1, 2):
                writer.write(self.expected(array, axes, level), subfiletype=1, **options)
        return path

    def expected(self, array: Pixels, axes: str, level: int) -> Pixels:
        return array[tuple(slice(None, None, 2**level if letter in "YX" else 1) for letter in axes)]


class TestNpy(ReaderTests):
    reader: ClassVar[Reader] = NpyReader()
    arrays: ClassVar[Arrays] = [
        ("YX", (61, 83), "uint8"), ("YXC", (61, 83, 3), "float32"), ("CZYX", (2, 5, 31, 43), "int16"),
        ("TCZYX", (1, 2, 5, 31, 43), "bool"),
    ]

    def make(self, folder: Path, array: Pixels, axes: str) -> Path:
        np.save(folder / "array.npy", array)
        return folder / "array.npy"


class TestFortranBigEndianNpy(TestNpy):
    def make(self, folder: Path, array: Pixels, axes: str) -> Path:
        np.save(folder / "array.npy", np.asfortranarray(array).astype(array.dtype.newbyteorder(">")))
        return folder / "array.npy"


class TestPng(ReaderTests):
    reader: ClassVar[Reader] = RasterReader()
    arrays: ClassVar[Arrays] = [
        ("YX", (61, 83), "uint8"), ("YXC", (61, 83, 3), "uint8"), ("YXC", (61, 83, 4), "uint8"),
        ("YXC", (61, 83, 2), "uint8"), ("YX", (61, 83), "uint16"),
    ]
    suffix = ".png"
    options: ClassVar[dict[str, Any]] = {}

    def make(self, folder: Path, array: Pixels, axes: str) -> Path:
        path = folder / f"picture{self.suffix}"
        Pillow.fromarray(array).save(path, **self.options)
        return path


class TestDeepPng(TestPng):
    arrays: ClassVar[Arrays] = [("YXC", (61, 83, 3), "uint16"), ("YXC", (61, 83, 4), "uint16")]

    def make(self, folder: Path, array: Pixels, axes: str) -> Path:
        import imagecodecs

        path = folder / "deep.png"
        path.write_bytes(imagecodecs.png_encode(array))
        return path


class TestJpeg(TestPng):
    arrays: ClassVar[Arrays] = [("YX", (61, 83), "uint8"), ("YXC", (61, 83, 3), "uint8")]
    suffix = ".jpg"
    options: ClassVar[dict[str, Any]] = {"quality": 98, "subsampling": 0}
    tolerance = 6


class TestWebp(TestPng):
    arrays: ClassVar[Arrays] = [("YXC", (61, 83, 3), "uint8")]
    suffix = ".webp"
    options: ClassVar[dict[str, Any]] = {"lossless": True}


class TestBmp(TestPng):
    arrays: ClassVar[Arrays] = [("YX", (61, 83), "uint8"), ("YXC", (61, 83, 3), "uint8")]
    suffix = ".bmp"


class TestZarr(ReaderTests):
    reader: ClassVar[Reader] = ZarrReader()
    arrays: ClassVar[Arrays] = [
        ("YX", (61, 83), "uint8"), ("YXC", (61, 83, 3), "float32"), ("CZYX", (2, 5, 31, 43), "int16"),
    ]
    options: ClassVar[dict[str, Any]] = {"zarr_format": 3}

    def make(self, folder: Path, array: Pixels, axes: str) -> Path:
        path = folder / "array.zarr"
        chunks = tuple(min(n, 16) for n in array.shape)
        stored = zarr.create_array(path, shape=array.shape, dtype=array.dtype, chunks=chunks, **self.options)
        stored[...] = array
        return path


class TestZarr2(TestZarr):
    options: ClassVar[dict[str, Any]] = {"zarr_format": 2}


class TestShardedZarr(TestZarr):
    arrays: ClassVar[Arrays] = [("YX", (61, 83), "uint8")]
    options: ClassVar[dict[str, Any]] = {"shards": (64, 64)}

    def test_chunks_are_those_inside_a_shard(self, case: Any) -> None:
        assert case[0].info.chunks == ((16, 16),)


class TestOmeZarr(TestPyramid):
    reader: ClassVar[Reader] = ZarrReader()
    arrays: ClassVar[Arrays] = [("CYX", (3, 160, 200), "uint8"), ("TCZYX", (1, 2, 3, 40, 50), "uint16")]
    version = "0.4"

    def make(self, folder: Path, array: Pixels, axes: str) -> Path:
        path = folder / "image.ome.zarr"
        group = zarr.open_group(path, mode="w", zarr_format=2 if self.version == "0.4" else 3)
        datasets = []
        for level in range(3):
            part = self.expected(array, axes, level)
            chunks = tuple(min(n, 32) for n in part.shape)
            stored = group.create_array(str(level), shape=part.shape, dtype=part.dtype, chunks=chunks)
            stored[...] = part
            scale = [0.5 * 2**level if letter in "YX" else 1.0 for letter in axes]
            datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
        space = {"type": "space", "unit": "micrometer"}
        described = [{"name": letter.lower()} | (space if letter in "YX" else {}) for letter in axes]
        scales = {"multiscales": [{"version": self.version, "axes": described, "datasets": datasets}],
                  "omero": {"channels": [{"label": f"stain {i}"} for i in range(array.shape[axes.index("C")])]}}
        group.attrs.update(scales if self.version == "0.4" else {"ome": {"version": "0.5", **scales}})
        return path

    def expected(self, array: Pixels, axes: str, level: int) -> Pixels:
        return array[tuple(slice(None, None, 2**level if letter in "YX" else 1) for letter in axes)]

    def test_spacing_unit_and_names_of_channels_are_read(self, case: Any) -> None:
        info = case[0].info
        assert info.spacing["Y"] == info.spacing["X"] == 0.5
        assert info.unit == {"Y": "micrometer", "X": "micrometer"}
        assert info.channels[:2] == ("stain 0", "stain 1")


class TestOmeZarr5(TestOmeZarr):
    version = "0.5"


READERS: list[Reader] = [TiffReader(), NpyReader(), RasterReader(), ZarrReader()]


@pytest.mark.parametrize("reader", READERS)
def test_readers_do_not_recognise_each_others_files(reader: Reader, tmp_path: Path) -> None:
    others = [other for other in READERS if other is not reader]
    for signature in (b"II*\0", b"\x93NUMPY", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"):
        if reader.recognises(tmp_path / "a", signature + bytes(60)):
            assert not any(other.recognises(tmp_path / "a", signature + bytes(60)) for other in others)
