"""One patch out of a JSON file of a store, without reading the file: its lines are in the order of their keys."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

__all__ = ["find_line"]

BEGIN = b'\n "patches": [\n'
"""Behind it are the lines; a line break is in no text of JSON."""
END = b"\n]}\n"


def find_line(path: Path, run: str, key: tuple[int, ...]) -> dict[str, Any] | None:
    """Line of the patch that starts at `key`; None where there is none, or where the file is of another run.

    Parameters
    ----------
    path
        Of the file, as the store wrote it.
    run
        Id of the run.
    key
        As many numbers as the image has axes.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError, KeyError
        If it is not as the store wrote it.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        low, high = data.find(BEGIN) + len(BEGIN), len(data) - len(END)
        about = json.loads(data[: max(0, data.find(b"\n"))].rstrip(b",") + b"}")
        if low < len(BEGIN) or data[high:] != END:
            raise ValueError("it begins or ends otherwise")
        axes = about["axes"].lower()
        if about["run"] != run:
            return None
        while low < high:
            middle = (low + high) // 2
            begin, end = data.rfind(b"\n", low, middle) + 1 or low, data.find(b"\n", middle, high)
            end = high if end < 0 else end
            line: dict[str, Any] = json.loads(data[begin:end].rstrip(b","))
            here = tuple(line[axis] for axis in axes)
            if here == key:
                return line
            low, high = (end + 1, high) if here < key else (low, begin - 1)
        return None
