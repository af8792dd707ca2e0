"""Each part counts once, each image ends once, whoever says so, and however often."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from patchloom.engine.assignment import Assignment, Place
from patchloom.engine.ledger import Job, Ledger
from patchloom.engine.tasks import Task
from patchloom.geometry.region import Region
from patchloom.images.source import Entry


def place(row: int) -> Place:
    return (), Region((row, 0), (1, 8))


def whole(*names: str) -> Task:
    return Task(tuple(Assignment(Entry(name, lambda: None, "id")) for name in names), 1)  # type: ignore[arg-type]


def piece(name: str, *rows: int, pieces: int = 2) -> Task:
    only = frozenset(map(place, rows))
    return Task((Assignment(Entry(name, lambda: None, "id"), only=only),), 1, 0, pieces)  # type: ignore[arg-type]


def unit(name: str, *parts: tuple[str, int], files: tuple[str, ...] = ()) -> dict[str, Any]:
    described = [[image, [], [row, 0], [1, 8], 1, i] for i, (image, row) in enumerate(parts)]
    return {"is": "unit", "unit": name, "parts": described, "files": [[file, 1, 1] for file in files], "bad": {}}


def complete(name: str) -> dict[str, Any]:
    return {"is": "complete", "image": name, "files": []}


def opened(ledger: Ledger, task: Task) -> Job:
    job = ledger.open(task)
    assert job is not None
    return job


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def test_the_first_one_counts_and_the_second_is_refused(ledger: Ledger) -> None:
    job = opened(ledger, whole("a"))
    job.workers += ["one", "two"]
    assert ledger.take("one", [unit("u", ("a", 0))]).units == {"u"}
    taken = ledger.take("two", [unit("v", ("a", 0), files=("v.parquet",)), complete("a")])
    assert (taken.records, taken.units, taken.images) == ([], set(), set())
    assert [record["unit"] for record in ledger.refused] == ["v"]
    assert ledger.take("one", [complete("a")]).images == {"a"}
    assert ledger.ended == [job]
    assert not ledger


def test_the_same_unit_once_more_is_neither_taken_nor_refused(ledger: Ledger) -> None:
    opened(ledger, whole("a"))
    ledger.take("one", [unit("u", ("a", 0))])
    taken = ledger.take("two", [unit("u", ("a", 0)), complete("a")])
    assert [record["is"] for record in taken.records] == ["complete"]
    assert ledger.refused == []


def test_a_unit_that_shares_one_part_with_a_committed_one_is_refused_as_a_whole(ledger: Ledger) -> None:
    opened(ledger, whole("a", "b"))
    ledger.take("one", [unit("u", ("a", 0))])
    assert ledger.take("two", [unit("v", ("a", 0), ("b", 0)), complete("b")]).records == []
    assert ledger.take("one", [unit("w", ("b", 0)), complete("a"), complete("b")]).images == {"a", "b"}


def test_an_image_in_pieces_is_to_be_completed_when_all_are_there(ledger: Ledger) -> None:
    first, second = opened(ledger, piece("a", 0, 1)), opened(ledger, piece("a", 2))
    ledger.take("one", [unit("u", ("a", 0)), unit("v", ("a", 2))])
    assert ledger.ended == [second]
    assert ledger.complete == []
    assert ledger.take("two", [complete("a")]).records == [], "pieces complete nothing"
    ledger.take("two", [unit("w", ("a", 1))])
    assert ledger.ended == [second, first]
    assert [one.entry.name for one in ledger.complete] == ["a"]
    assert ledger
    ledger.complete.clear()
    opened(ledger, whole("a"))
    assert ledger.take("two", [complete("a")]).images == {"a"}
    assert not ledger


def test_what_was_committed_before_is_refused_while_an_image_is_completed(ledger: Ledger) -> None:
    """Somebody who was too slow for a piece sends it late."""
    completing = whole("a").assignments[0]
    opened(ledger, Task((replace(completing, done=frozenset({place(0)})),), 1))
    assert ledger.take("slow", [unit("v", ("a", 0), files=("v.parquet",))]).records == []
    assert [record["unit"] for record in ledger.refused] == ["v"]
    assert ledger.take("slow", [complete("a")]).images == {"a"}, "it knew that the part was there"


def test_an_image_that_fails_in_one_piece_ends_in_all(ledger: Ledger) -> None:
    jobs = [opened(ledger, piece("a", row, pieces=3)) for row in (0, 1)]
    failed = {"is": "failed", "image": "a", "kind": "image", "message": "no"}
    assert ledger.take("one", [failed]).images == {"a"}
    assert ledger.take("two", [failed, unit("u", ("a", 1))]).records == []
    assert ledger.ended == jobs
    assert ledger.open(piece("a", 2, pieces=3)) is None, "no more of it is begun"
    assert not ledger


def test_what_nobody_is_at_any_more_is_opened_again(ledger: Ledger) -> None:
    job = opened(ledger, whole("a", "b"))
    ledger.take("one", [unit("u", ("a", 0)), complete("a")])
    ledger.close(job)
    assert not ledger
    assert ledger.take("one", [unit("v", ("b", 0))]).records == []
    assert [record["unit"] for record in ledger.refused] == ["v"]
    opened(ledger, whole("b"))
    assert ledger.take("two", [unit("w", ("b", 0)), complete("b")]).images == {"b"}


def test_a_record_of_several_images_keeps_those_that_count(ledger: Ledger) -> None:
    opened(ledger, whole("a", "b"))
    begun = {"is": "begun", "infos": [{}], "images": [["a", "id", 0, 1], ["x", "id", 0, 1], ["b", "id", 0, 1]]}
    (record,) = ledger.take("one", [begun]).records
    assert [image[0] for image in record["images"]] == ["a", "b"]
    ledger.take("one", [unit("u", ("a", 0), ("b", 0))])
    (record,) = ledger.take("one", [{"is": "completed", "images": ["x", "a", "b"]}]).records
    assert record["images"] == ["a", "b"]
