"""Shards of Zarr v3 arrays, written chunk by chunk as they are encoded: the hot path of a run, so it is ours.

The format is that of the `sharding_indexed` codec: encoded chunks one after the other, then an index of (offset,
length) pairs in row-major order of the chunks, then the index's crc32c; absent chunks have both numbers at 2^64 - 1.
zarr-python reads it, and judges it in the tests.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import google_crc32c
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from patchloom.errors import RunDamagedError
from patchloom.predictions.files import FileRecord
from patchloom.predictions.map_files import FileWriting
from patchloom.predictions.ranges import Reading

__all__ = ["Codec", "ShardReader", "ShardWriter"]

ABSENT = 2**64 - 1


@dataclass(frozen=True)
class Codec:
    """How chunks of one array become bytes: LZ4 after a byte shuffle for scores, Zstandard for classes; then a crc32c.

    Scores hardly compress, and LZ4 is twice as fast as Zstandard on them; class maps are twenty times smaller with
    Zstandard and six times with LZ4.
    """

    dtype: np.dtype[Any]

    @property
    def shuffles(self) -> bool:
        """Whether chunks are scores, encoded with LZ4."""
        return self.dtype.kind == "f"

    def metadata(self) -> list[Mapping[str, Any]]:
        """The codecs as Zarr metadata states them."""
        configuration: dict[str, Any]
        if self.shuffles:
            configuration = {
                "cname": "lz4",
                "clevel": 1,
                "shuffle": "shuffle",
                "typesize": self.dtype.itemsize,
                "blocksize": 0,
            }
            compressor = {"name": "blosc", "configuration": configuration}
        else:
            compressor = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
        return [{"name": "bytes", "configuration": {"endian": "little"}}, compressor, {"name": "crc32c"}]

    def encode(self, chunk: NDArray[Any]) -> tuple[bytes, bytes]:
        """One C-contiguous chunk: its bytes, and the checksum that follows them."""
        pixels: Any = chunk  # imagecodecs takes arrays, and its annotations do not say so
        if self.shuffles:
            body = imagecodecs.blosc_encode(
                pixels, level=1, compressor="lz4", shuffle="shuffle", typesize=self.dtype.itemsize, numthreads=1
            )
        else:
            body = imagecodecs.zstd_encode(pixels, level=1)
        return bytes(body), struct.pack("<I", google_crc32c.value(bytes(body)))

    def decode(self, encoded: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
        """The chunk; raises ValueError where its checksum does not fit."""
        body, checksum = encoded[:-4], encoded[-4:]
        if struct.unpack("<I", checksum)[0] != google_crc32c.value(body):
            raise ValueError("checksum does not fit")
        decoder = imagecodecs.blosc_decode if self.shuffles else imagecodecs.zstd_decode
        return np.frombuffer(decoder(body), self.dtype).reshape(shape)


class ShardWriter:
    """Writes one shard; used as a context manager, it appears under its name only when it is complete.

    Parameters
    ----------
    writing
        The file.
    counts
        Number of chunks in the shard along each axis.
    codec
        How chunks are encoded.
    """

    def __init__(self, writing: FileWriting, counts: tuple[int, ...], codec: Codec) -> None:
        self._writing = writing
        self._codec = codec
        self._counts = counts
        self._index = np.full((math.prod(counts), 2), ABSENT, "<u8")

    def __enter__(self) -> ShardWriter:
        self._writing.__enter__()
        return self

    def append(self, place: tuple[int, ...], chunk: NDArray[Any]) -> None:
        """Encode the chunk at `place` within the shard and write it; chunks may come in any order."""
        body, checksum = self._codec.encode(chunk)
        row = 0
        for i, n in zip(place, self._counts, strict=True):
            row = row * n + i
        self._index[row] = self._writing.size, len(body) + len(checksum)
        self._writing.write(body)
        self._writing.write(checksum)

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            index = self._index.tobytes()
            self._writing.write(index + struct.pack("<I", google_crc32c.value(index)))
        self._writing.__exit__(*error)

    @property
    def records(self) -> list[FileRecord]:
        """What the journal is to keep of the finished file."""
        return self._writing.records


class ShardReader:
    """Reads chunks of one shard.

    Parameters
    ----------
    file
        Its bytes.
    where
        Its name, for messages.
    counts, chunk
        Number of chunks along each axis, and their extent.
    codec
        How chunks are encoded.

    Raises
    ------
    RunDamagedError
        If its index is damaged.
    """

    def __init__(
        self, file: Reading, where: str, counts: tuple[int, ...], chunk: tuple[int, ...], codec: Codec
    ) -> None:
        self._file, self._where, self._chunk, self._codec = file, where, chunk, codec
        length = 16 * math.prod(counts) + 4
        tail = file.read(max(0, file.size - length), length)
        if len(tail) < length or struct.unpack("<I", tail[-4:])[0] != google_crc32c.value(tail[:-4]):
            raise RunDamagedError(f"{where} has a damaged index", "`patchloom verify` names all that is damaged")
        self._index = np.frombuffer(tail[:-4], "<u8").reshape(*counts, 2)

    def read(self, place: tuple[int, ...]) -> NDArray[Any] | None:
        """The chunk at `place` within the shard, None where it was never written.

        Raises
        ------
        RunDamagedError
            If it is damaged.
        """
        offset, length = (int(n) for n in self._index[place])
        if offset == ABSENT:
            return None
        try:
            return self._codec.decode(self._file.read(offset, length), self._chunk)
        except Exception as error:
            raise RunDamagedError(f"{self._where}: chunk {place}: {error}", "run `patchloom verify`") from error
