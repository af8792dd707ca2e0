"""Images are dealt out whole or in pieces, each part once, the longest first, and only as they are asked for."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.config import Config
from patchloom.engine.assignment import Assignment
from patchloom.engine.pieces import pieces
from patchloom.engine.survey import ImageSize, Survey
from patchloom.engine.tasks import Task, Tasks
from patchloom.images.source import Entry
from patchloom.models.model import Head
from patchloom.predictions.layout import PlaneInfo, RunLayout

SIZES = st.tuples(st.integers(1, 9000), st.integers(1, 3000))
LOOPS = st.sampled_from([(), (1,), (3,)])
BLENDS = st.sampled_from(["crop", "gaussian"])


def layout(blend: str = "crop") -> RunLayout:
    head = Head("map", "dense", np.dtype(np.float32), (1, 512, 512), (Fraction(1), Fraction(1)))
    return RunLayout(Path("run"), Config(patch=(512, 512), stride=(448, 448), blend=blend), 2, (head,), None)


def refused() -> Any:
    raise AssertionError("no image is opened")


def entry(number: int) -> Entry:
    return Entry(f"{number}", refused, f"id of {number}")


def survey(sizes: list[tuple[int, int]], loops: tuple[int, ...] = (), images: int | None = None) -> Survey:
    planes = int(np.prod(loops, dtype=int))
    found = [
        ImageSize(size, planes, (512, 512), 1, np.dtype(np.uint8), 0, loops, entry(i)) for i, size in enumerate(sizes)
    ]
    return Survey(images or len(sizes), found, len(sizes))


def made(run: RunLayout, found: Survey, workers: int, **changes: Any) -> list[Task]:
    assigned = [Assignment(size.entry, **changes) for size in found.sizes if size.entry is not None]
    return list(Tasks(run, found, workers).made(iter(assigned), len(assigned)))


class TestPieces:
    @settings(max_examples=40)
    @given(SIZES, LOOPS, BLENDS, st.integers(1, 20))
    def test_they_partition_the_units_in_order(
        self, plane: tuple[int, int], loops: tuple[int, ...], blend: str, count: int
    ) -> None:
        whole, cut = (pieces(layout(blend), plane, loops, n) for n in (1, count))
        assert len(whole) <= 1
        in_pieces, in_one = ([place for piece in some for place in piece.places] for some in (cut, whole))
        assert in_pieces == in_one
        assert all(piece.places for piece in cut)

    @settings(max_examples=40)
    @given(SIZES, LOOPS, BLENDS, st.integers(2, 20))
    def test_they_predict_what_one_would_and_what_they_repeat(
        self, plane: tuple[int, int], loops: tuple[int, ...], blend: str, count: int
    ) -> None:
        whole, cut = (pieces(layout(blend), plane, loops, n) for n in (1, count))
        repeated = sum(one.repeated for one in cut)
        assert sum(one.patches for one in cut) == sum(one.patches for one in whole) + repeated
        assert not cut or cut[0].repeated == 0

    @settings(max_examples=40)
    @given(SIZES, LOOPS, st.integers(1, 20))
    def test_there_are_as_many_as_were_asked_for_or_as_there_are_units(
        self, plane: tuple[int, int], loops: tuple[int, ...], count: int
    ) -> None:
        cut = pieces(layout(), plane, loops, count)
        units = sum(len(piece.places) for piece in cut)
        assert len(cut) <= min(count, units)
        assert len(cut) == count or units < 2 * count or not cut

    def test_with_crop_nothing_is_repeated_between_planes(self) -> None:
        cut = pieces(layout(), (512, 512), (4,), 4)
        assert [piece.repeated for piece in cut] in ([], [0, 0, 0, 0])


class TestTasks:
    @settings(max_examples=30)
    @given(st.lists(SIZES, min_size=1, max_size=12), LOOPS, BLENDS, st.integers(1, 9))
    def test_every_part_of_every_image_is_in_one_task(
        self, sizes: list[tuple[int, int]], loops: tuple[int, ...], blend: str, workers: int
    ) -> None:
        run, found = layout(blend), survey(sizes, loops)
        tasks = made(run, found, workers)
        parts = Counter(
            (one.entry.name, place) for task in tasks for one in task.assignments for place in one.only or ()
        )
        assert max(parts.values(), default=1) == 1
        wholes = Counter(one.entry.name for task in tasks for one in task.assignments if one.only is None)
        assert max(wholes.values(), default=1) == 1
        for size in found.sizes:
            name = size.entry.name if size.entry is not None else ""
            places = {place for piece in pieces(run, size.plane, loops, 1) for place in piece.places}
            given = {place for image, place in parts if image == name}
            assert given == places if name not in wholes else not given
            assert sum(task.assignments[0].entry.name == name for task in tasks if task.pieces > 1) in {
                0, *(task.pieces for task in tasks)
            }

    @settings(max_examples=40)
    @given(st.lists(SIZES, min_size=1, max_size=12), BLENDS, st.integers(1, 9))
    def test_the_longest_is_first_and_patches_are_counted(
        self, sizes: list[tuple[int, int]], blend: str, workers: int
    ) -> None:
        run = layout(blend)
        tasks = made(run, survey(sizes), workers)
        assert [task.patches for task in tasks] == sorted((task.patches for task in tasks), reverse=True)
        total = sum(run.patches(PlaneInfo(size)) for size in sizes)
        assert sum(task.patches - task.repeated for task in tasks) == total

    def test_one_large_image_is_work_for_all_workers(self) -> None:
        tasks = made(layout(), survey([(20_000, 20_000)]), 4)
        assert len(tasks) >= 4
        assert all(task.pieces == len(tasks) for task in tasks)

    def test_as_many_images_as_there_is_work_for_are_not_cut(self) -> None:
        tasks = made(layout(), survey([(5000, 5000)] * 16), 4)
        assert len(tasks) == 16
        assert all(task.pieces == 1 and not task.repeated for task in tasks)

    def test_small_images_share_tasks(self) -> None:
        tasks = made(layout(), survey([(300, 300)] * 1000), 2)
        assert 16 <= len(tasks) < 300
        assert sum(len(task.assignments) for task in tasks) == 1000

    def test_what_is_done_is_left_out(self) -> None:
        run, found = layout(), survey([(20_000, 20_000)])
        places = [place for piece in pieces(run, (20_000, 20_000), (), 1) for place in piece.places]
        tasks = made(run, found, 4, done=frozenset(places[:-3]))
        left = [place for task in tasks for one in task.assignments for place in one.only or ()]
        assert sorted(left, key=repr) == sorted(places[-3:], key=repr)

    def test_an_image_that_changed_is_one_task(self) -> None:
        (task,) = made(layout(), survey([(20_000, 20_000)]), 4, changed=True)
        assert task.assignments[0].only is None

    @pytest.mark.parametrize("images", [10**6])
    def test_a_million_images_are_taken_as_they_are_needed(self, images: int) -> None:
        taken = itertools.count()

        def assigned() -> Iterator[Assignment]:
            for _ in range(images):
                yield Assignment(entry(next(taken)))

        tasks = Tasks(layout(), survey([(600, 600)] * 2000, images=images), 3).made(assigned(), images)
        sizes = [len(next(tasks).assignments) for _ in range(5)]
        assert sum(sizes) == next(taken)
        assert max(sizes) <= 4096
