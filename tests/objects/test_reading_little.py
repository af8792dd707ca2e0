"""A patch of a large image costs what it is made of: counted by a proxy between patchloom and the server."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from patchloom.loop.patches import Patches
from patchloom.objects import ObjectPath, traffic
from tests.objects.web import counting
from tests.servers import Server

TILE = 256
KINDS = 40
Seen = list[tuple[str, str, int]]


@pytest.fixture
def counted(s3_url: str, s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """What goes over the wire between patchloom and the S3 server."""
    with counting(s3_server.url) as (url, seen):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield seen


def slide(tiles: int) -> tuple[bytes, list[np.ndarray], list[int]]:
    """BigTIFF of `tiles` x `tiles` tiles, of which many are the same bytes: the file, the tiles, their lengths."""
    rng = np.random.default_rng(1)
    pixels = [rng.integers(0, 16, (TILE, TILE), np.uint8) for _ in range(KINDS)]
    encoded = [zlib.compress(each.tobytes()) for each in pixels]
    places = 16 + np.cumsum([0, *map(len, encoded)])
    number = np.arange(tiles * tiles) % KINDS
    offsets = places[number].astype("<u8").tobytes()
    counts = np.array(list(map(len, encoded)), "<u4")[number].tobytes()
    at = int(places[-1])
    shape = (256, tiles * TILE), (257, tiles * TILE), (258, 8), (259, 8), (262, 1), (277, 1), (322, TILE), (323, TILE)
    tags = [struct.pack("<HHQQ", code, 4, 1, value) for code, value in shape]
    tags.append(struct.pack("<HHQQ", 324, 16, tiles * tiles, at))
    tags.append(struct.pack("<HHQQ", 325, 4, tiles * tiles, at + len(offsets)))
    directory = at + len(offsets) + len(counts)
    head = b"II" + struct.pack("<HHHQ", 43, 8, 0, directory)
    end = struct.pack("<Q", len(tags)) + b"".join(tags) + struct.pack("<Q", 0)
    return head + b"".join(encoded) + offsets + counts + end, pixels, list(map(len, encoded))


@pytest.mark.parametrize("tiles", [60, 330])
def test_one_patch_of_a_large_image_costs_its_tiles_and_little_more(
    tiles: int, s3_url: str, counted: Seen
) -> None:
    data, pixels, lengths = slide(tiles)
    path = ObjectPath(s3_url) / "large.tif"
    path.write_bytes(data)
    counted.clear()
    before, asked = traffic.read, traffic.requests
    row, column = tiles // 2, tiles // 3
    patch = patch_at(str(path), row * TILE + 100, column * TILE + 100, tiles * TILE)
    kinds = [((row + i) * tiles + column + j) % KINDS for i in range(3) for j in range(3)]
    np.testing.assert_array_equal(patch[:156, :156], pixels[kinds[0]][100:, 100:])
    np.testing.assert_array_equal(patch[156:412, 156:412], pixels[kinds[4]])
    needed, sent = sum(lengths[kind] for kind in kinds), sum(size for _, _, size in counted)
    print(f"{tiles * tiles} tiles, {len(data)} bytes: {sent} sent in {len(counted)} requests, tiles {needed}")
    assert sent < 4 * needed + (256 << 10)
    assert sent < len(data) / 4 or tiles < 100
    assert traffic.read - before == sent
    assert traffic.requests - asked == len(counted)


def patch_at(url: str, y: int, x: int, size: int) -> np.ndarray:
    """One patch as a loop of one's own gets it, by its number: its tiles are fetched together."""
    patches = Patches(url, patch=512, stride=4, edge="drop")
    in_a_row = (size - 512) // 4 + 1
    return patches[y // 4 * in_a_row + x // 4].pixels[0]
