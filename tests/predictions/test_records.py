"""Records of many small images are one, and the index answers the same as of one record each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchloom.predictions.index import Index
from patchloom.predictions.journal import Journal, Record
from patchloom.predictions.records import grouped

INFO = {"plane": [20, 30], "loop_axes": "", "loop_shape": [], "spacing": {}, "unit": {}, "crs": "", "origin": None}


def begun(name: str, info: Any = INFO, files: Sequence[Any] = ()) -> Record:
    return {"is": "image", "image": name, "identity": f"of {name}", "info": info, "patches": 2, "files": list(files)}


def complete(name: str, files: Sequence[Any] = ()) -> Record:
    return {"is": "complete", "image": name, "files": list(files)}


def unit(name: str, images: Sequence[str], patches: int = 2) -> Record:
    parts = [[image, [], [0, 0], [20, 30], patches, patches * i] for i, image in enumerate(images)]
    return {"is": "unit", "unit": name, "parts": parts, "bad": {images[0]: 1}, "files": [[f"{name}.parquet", 9, 9]]}


RECORDS = [
    {"is": "listed", "images": ["a", "b", "c", "d"]},
    begun("a"), begun("b"), begun("c", {**INFO, "plane": [9, 9]}), begun("d", files=[["d.zarr", 1, 1]]),
    unit("u", ["a", "b", "c"]), complete("a"), complete("b"), complete("c"), complete("d", [["e", 1, 1]]),
    unit("v", ["b", "d"]), {"is": "failed", "image": "x", "kind": "unreadable", "message": "no"},
]  # fmt: skip


def answers(folder: Path, records: Sequence[Record]) -> list[Any]:
    journal = Journal(folder / "journal")
    for record in records:
        journal.append(record)
    journal.close()
    index = Index(folder)
    found = [list(index.images()), list(index.files()), index.units(), [index.parts(name) for name in "abcd"]]
    index.close()
    return found


def test_the_index_answers_the_same(tmp_path: Path) -> None:
    assert answers(tmp_path / "one", RECORDS) == answers(tmp_path / "grouped", list(grouped(RECORDS)))


def test_what_follows_each_other_is_one_record_and_descriptions_are_there_once() -> None:
    kinds = [record["is"] for record in grouped(RECORDS)]
    assert kinds == ["listed", "begun", "image", "unit", "completed", "complete", "unit", "failed"]
    first = next(record for record in grouped(RECORDS) if record["is"] == "begun")
    assert first["infos"] == [INFO, {**INFO, "plane": [9, 9]}]
    assert first["images"][-1] == ("c", "of c", 1, 2)


def test_a_part_that_is_committed_again_counts_once(tmp_path: Path) -> None:
    images, _, units, _ = answers(tmp_path, [*RECORDS, unit("w", ["a", "b"]), unit("w", ["a", "b"])])
    assert {row.name: row.patches_done for row in images} == {"a": 2, "b": 2, "c": 2, "d": 2, "x": 0}
    assert units == ["u", "v", "w"]
