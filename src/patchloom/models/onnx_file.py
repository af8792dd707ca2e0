"""Other files that an ONNX file refers to, read without the onnx package.

Only the wire format of protocol buffers is needed, and the numbers of a few fields of ``onnx.proto3``; weights are
skipped over, so a file of gigabytes is looked through in milliseconds.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from patchloom.errors import ModelLoadError

__all__ = ["external_files"]

GRAPH, TENSOR, SPARSE, NODE, ATTRIBUTE, FUNCTION, TRAINING, ENTRY = (
    "graph", "tensor", "sparse", "node", "attribute", "function", "training", "entry",
)  # fmt: skip
CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: GRAPH, 20: TRAINING, 25: FUNCTION},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE},
    SPARSE: {1: TENSOR, 2: TENSOR},
    FUNCTION: {7: NODE, 11: ATTRIBUTE},
    TRAINING: {1: GRAPH, 2: GRAPH},
    TENSOR: {13: ENTRY},
}
DEEPEST = 64
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class _MalformedError(Exception):
    """Not the wire format of protocol buffers."""


def external_files(path: Path) -> tuple[Path, ...]:
    """Files beside `path` that hold tensors of the model, sorted.

    Raises
    ------
    ModelLoadError
        If the file is damaged, refers to a file that leaves its folder, or to one that does not exist.
    """
    if path.stat().st_size == 0:
        raise ModelLoadError(f"{path} is empty", "copy the model again")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            locations = set(_locations(data, 0, len(data), "model", 0))
        except (_MalformedError, IndexError, UnicodeDecodeError):
            raise ModelLoadError(f"{path} is damaged, or no ONNX file", "export or copy the model again") from None
    return tuple(_checked(path, location) for location in sorted(locations))


def _checked(path: Path, location: str) -> Path:
    folder = path.parent.resolve()
    file = (folder / location).resolve()
    if Path(location).is_absolute() or not file.is_relative_to(folder):
        raise ModelLoadError(f"{path} wants weights from outside its folder: {location}", "do not use this file")
    if not file.is_file():
        raise ModelLoadError(f"{path} keeps weights in {location}, which is missing", "copy that file beside the model")
    return file


def _locations(data: mmap.mmap, start: int, stop: int, kind: str, depth: int) -> Iterator[str]:
    if depth > DEEPEST:
        raise _MalformedError
    children = CHILDREN[kind]
    for number, first, last in _fields(data, start, stop):
        child = children.get(number)
        if child == ENTRY:
            entry = {key: data[a:b] for key, a, b in _fields(data, first, last)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode()
        elif child is not None:
            yield from _locations(data, first, last, child, depth + 1)


def _fields(data: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Number, first byte and end of each length-delimited field; other fields are skipped."""
    while start < stop:
        tag, start = _varint(data, start)
        kind = tag & 7
        if kind == VARINT:
            _, start = _varint(data, start)
        elif kind == BYTES:
            length, first = _varint(data, start)
            start = first + length
            if start > stop:
                raise _MalformedError
            yield tag >> 3, first, start
        elif kind in (FIXED64, FIXED32):
            start += 8 if kind == FIXED64 else 4
        else:
            raise _MalformedError
    if start > stop:
        raise _MalformedError


def _varint(data: mmap.mmap, start: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, start
    raise _MalformedError
