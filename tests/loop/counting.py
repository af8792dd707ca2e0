"""Images that note each of their chunks that is read, in a file, so that reads of other processes count, too."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from numpy.typing import NDArray


class CountingArray:
    """Array with chunks; appends the first pixel of every chunk that is read to a file."""

    def __init__(self, name: str, array: NDArray[Any], chunk: int, log: Path) -> None:
        self._name, self._array, self._log = name, array, log
        self.shape, self.dtype = array.shape, array.dtype
        self.chunks = (chunk, chunk, *array.shape[2:])

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        chunk = self.chunks[0]
        rows, columns = (range(s.start // chunk, -(-s.stop // chunk)) for s in key[:2])
        lines = [f"{self._name} {row} {column}\n" for row in rows for column in columns]
        with self._log.open("a") as file:  # one write a call, so that lines of processes do not mix
            file.write("".join(lines))
        return self._array[key]


def reads(log: Path) -> Counter[str]:
    """How often each chunk was read."""
    return Counter(log.read_text().splitlines())
