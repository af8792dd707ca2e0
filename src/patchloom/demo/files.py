"""Scenes as files: a tiled JPEG TIFF with two reduced levels, and beside it the truth, lossless."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from patchloom.demo.scenes import SPACING, Scene

__all__ = ["overview_of", "rows_of", "window_of", "write_scene"]

TILE = 256
BLOCK = 2 * TILE
"""Pixels made at once, per side."""
REDUCED = (4, 16)
"""Pixels that become one in each reduced level."""
QUALITY = 85
PER_CENTIMETRE = 1e4 / SPACING

Bytes = NDArray[np.uint8]
Tiles = list[list[bytes]]


def write_scene(
    scene: Scene, image: Path, truth: Path, *, threads: int = 2, done: Callable[[int], None] = lambda _: None
) -> None:
    """Make a scene and write it and its truth, block by block.

    Each file appears under its name when it is complete.

    Parameters
    ----------
    scene
        What to make.
    image, truth
        Files to write; their folders are made.
    threads
        Blocks that are made at a time.
    done
        Told the number of pixels of each row of blocks that is finished.
    """
    parts = {path: path.with_name(path.name + ".part") for path in (image, truth)}
    for path in parts:
        path.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(threads) as pool:
        rows = _Rows(scene, pool, done)
        _write_image(parts[image], scene.shape, rows)
    _write_truth(parts[truth], scene.shape, rows.truth)
    for path, part in parts.items():
        part.replace(path)


class _Rows:
    """Encoded tiles of a scene, row by row; collects the reduced image and the truth on the way."""

    def __init__(self, scene: Scene, pool: ThreadPoolExecutor, done: Callable[[int], None]) -> None:
        self._scene, self._pool, self._done = scene, pool, done
        self.reduced = np.zeros((*(-(-n // REDUCED[0]) for n in scene.shape), 3), np.uint8)
        self.truth: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        height, width = self._scene.shape
        waiting: deque[list[Future[tuple[Tiles, Tiles]]]] = deque()
        for top in range(0, height + BLOCK, BLOCK):
            if top < height:
                waiting.append([self._pool.submit(self._encoded, top, left) for left in range(0, width, BLOCK)])
            if top > 0:
                finished = [block.result() for block in waiting.popleft()]
                self._done(min(BLOCK, height - top + BLOCK) * width)
                yield from self._row(finished)

    def _row(self, finished: list[tuple[Tiles, Tiles]]) -> Iterator[bytes]:
        for line in range(len(finished[0][0])):
            self.truth += [tile for _, truth in finished for tile in truth[line]]
            yield from (tile for pixels, _ in finished for tile in pixels[line])

    def _encoded(self, top: int, left: int) -> tuple[Tiles, Tiles]:
        height, width = (min(BLOCK, n - start) for n, start in zip(self._scene.shape, (top, left), strict=True))
        rgb, truth = self._scene.block(top, left, height, width)
        small = _reduced(rgb, REDUCED[0])
        y, x = top // REDUCED[0], left // REDUCED[0]
        self.reduced[y : y + small.shape[0], x : x + small.shape[1]] = small
        return _tiles(rgb, _jpeg), _tiles(truth, _deflate)


def _reduced(rgb: Bytes, factor: int) -> Bytes:
    """Means of squares of `factor` pixels; what is left over at the far edges is repeated first."""
    rgb = np.pad(rgb, [(0, -n % factor) for n in rgb.shape[:2]] + [(0, 0)], "edge")
    rows = np.add.reduceat(rgb, np.arange(0, len(rgb), factor), axis=0, dtype=np.uint16)
    both = np.add.reduceat(rows, np.arange(0, rgb.shape[1], factor), axis=1, dtype=np.uint16)
    return np.asarray((both + factor * factor // 2) // (factor * factor), np.uint8)


def _tiles(block: NDArray[Any], encode: Callable[[Bytes], bytes]) -> Tiles:
    """Tiles of a block, those at the far edges filled up."""
    padding = [(0, -n % TILE) for n in block.shape[:2]] + [(0, 0)] * (block.ndim - 2)
    block = np.pad(block, padding, "edge")
    return [[encode(np.ascontiguousarray(block[y : y + TILE, x : x + TILE])) for x in range(0, block.shape[1], TILE)]
            for y in range(0, block.shape[0], TILE)]


def _jpeg(tile: Bytes) -> bytes:
    encoded = imagecodecs.jpeg8_encode(tile, level=QUALITY, colorspace="RGB", outcolorspace="YCBCR", subsampling="420")
    return bytes(encoded)


def _deflate(tile: Bytes) -> bytes:
    return bytes(imagecodecs.zlib_encode(tile.tobytes(), level=1))


def _write_image(path: Path, shape: tuple[int, int], rows: _Rows) -> None:
    about: dict[str, Any] = {
        "dtype": np.uint8, "tile": (TILE, TILE), "photometric": "ycbcr", "compression": "jpeg", "subsampling": (2, 2),
        "metadata": None,
    }
    with tifffile.TiffWriter(path) as writer:
        writer.write(iter(rows), shape=(*shape, 3), subifds=len(REDUCED), resolutionunit="CENTIMETER",
                     resolution=(PER_CENTIMETRE, PER_CENTIMETRE), software="patchloom demo", **about)
        small = rows.reduced
        for factor in REDUCED:
            if factor > REDUCED[0]:
                small = _reduced(small, factor // REDUCED[0])
            tiles = [tile for line in _tiles(small, _jpeg) for tile in line]
            writer.write(iter(tiles), shape=small.shape, subfiletype=1, resolutionunit="CENTIMETER",
                         resolution=(PER_CENTIMETRE / factor, PER_CENTIMETRE / factor), **about)


def _write_truth(path: Path, shape: tuple[int, int], tiles: list[bytes]) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(iter(tiles), shape=shape, dtype=np.uint8, tile=(TILE, TILE), photometric="minisblack",
                     compression="zlib", resolution=(PER_CENTIMETRE, PER_CENTIMETRE), resolutionunit="CENTIMETER",
                     metadata=None)


def rows_of(path: Path) -> Iterator[tuple[int, Bytes]]:
    """Rows of tiles of a map, from top to bottom: first row, and uint8 of shape ``(rows, X)``.

    A band is valid until the next is asked for.
    """
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        band = np.empty((page.tilelength, page.imagewidth), np.uint8)
        for tile, (_, _, y, x, _), _ in page.segments(maxworkers=1):
            height, width = min(page.tilelength, page.imagelength - y), min(page.tilewidth, page.imagewidth - x)
            band[:height, x : x + width] = tile[0, :height, :width, 0]
            if x + width == page.imagewidth:
                yield y, band[:height]


def overview_of(path: Path) -> Bytes:
    """Smallest level of a scene."""
    with tifffile.TiffFile(path) as file:
        return np.asarray(file.series[0].levels[-1].asarray())


def window_of(path: Path, rows: slice, columns: slice) -> Bytes:
    """A window of a tiled file; decodes the tiles that it touches."""
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        window = np.zeros((rows.stop - rows.start, columns.stop - columns.start, page.samplesperpixel), np.uint8)
        across = -(-page.imagewidth // page.tilewidth)
        for i in range(rows.start // page.tilelength, -(-rows.stop // page.tilelength)):
            for j in range(columns.start // page.tilewidth, -(-columns.stop // page.tilewidth)):
                index = i * across + j
                file.filehandle.seek(page.dataoffsets[index])
                data = file.filehandle.read(page.databytecounts[index])
                tile, (_, _, y, x, _), (_, height, width, _) = page.decode(data, index)
                _place(window, tile[0, :height, :width], y - rows.start, x - columns.start)
    return window[..., 0] if page.samplesperpixel == 1 else window


def _place(window: Bytes, tile: Bytes, y: int, x: int) -> None:
    height, width = tile.shape[:2]
    top, left = max(0, y), max(0, x)
    bottom, right = min(len(window), y + height), min(window.shape[1], x + width)
    window[top:bottom, left:right] = tile[top - y : bottom - y, left - x : right - x]
