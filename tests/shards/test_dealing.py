"""Each part of each image is in exactly one shard, whoever asks."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import patchloom
from patchloom.config import Config
from patchloom.engine.dealing import Dealing, Large, Share, deal, owner
from patchloom.engine.pieces import pieces
from patchloom.engine.survey import ImageSize, Survey
from patchloom.images.source import Entry
from patchloom.models.model import Head
from patchloom.parsing import Shard
from patchloom.predictions.index import Index
from patchloom.predictions.layout import RunLayout

NAMES = st.lists(st.text(min_size=1), min_size=1, max_size=4, unique=True)
SIZES = st.tuples(st.integers(1, 3000), st.integers(1, 9000))
LOOPS = st.sampled_from([(), (1,), (2,)])


def layout(folder: Path) -> RunLayout:
    head = Head("map", "dense", np.dtype(np.float32), (1, 512, 512), (Fraction(1), Fraction(1)))
    return RunLayout(folder, Config(patch=(512, 512), stride=(448, 448)), 2, (head,), None)


def refused() -> object:
    raise AssertionError("no image is opened")


def entry(name: str) -> Entry:
    return Entry(name, refused, f"id of {name}")  # type: ignore[arg-type]


def survey(names: list[str], sizes: list[tuple[int, int]], loops: tuple[int, ...]) -> Survey:
    planes = int(np.prod(loops, dtype=int))
    found = [
        ImageSize(size, planes, (512, 512), 1, np.dtype(np.uint8), 0, loops, entry(name))
        for name, size in zip(names, sizes, strict=True)
    ]
    return Survey(len(names), found, len(names))


@settings(max_examples=30)
@given(st.data(), NAMES, LOOPS, st.integers(1, 6))
def test_dealing_is_a_partition(data: st.DataObject, names: list[str], loops: tuple[int, ...], of: int) -> None:
    sizes = [data.draw(SIZES) for _ in names]
    run = layout(Path("run"))
    dealing = deal(of, survey(names, sizes, loops), run, None)
    for name, size in zip(names, sizes, strict=True):
        units = [place for piece in pieces(run, size, loops, 1) for place in piece.places]
        shards = dealing.shards(name, f"id of {name}", run)
        assert owner(name, of) in shards
        assert set(shards) <= set(range(1, of + 1))
        if len(shards) == 1:
            assert list(shards.values()) in ([None], [frozenset(units)])
        else:
            places = [place for part in shards.values() if part is not None for place in part]
            assert sorted(map(repr, places)) == sorted(map(repr, units))
        having = [number for number in range(1, of + 1)
                  if Share(Shard(number, of), dealing, run).has(name, f"id of {name}")]
        assert set(having) == set(shards)


@given(st.text(), st.integers(1, 1000))
def test_an_image_that_is_not_as_it_was_dealt_is_its_owners_alone(name: str, of: int) -> None:
    dealing = Dealing(of, {name: Large("before", (9000, 9000), ())})
    for identity in ("after", "other"):
        assert dealing.shards(name, identity, layout(Path("run"))) == {owner(name, of): None}
    assert dealing.shards(f"{name}!", None, layout(Path("run"))) == {owner(f"{name}!", of): None}


def test_many_images_are_not_cut_and_few_are() -> None:
    names = [f"{i}.tif" for i in range(32)]
    sizes = [(9000, 9000)] * 32
    run = layout(Path("run"))
    assert deal(4, survey(names, sizes, ()), run, None).large == {}
    assert len(deal(5, survey(names, sizes, ()), run, None).large) == 32


def test_owners_are_the_same_in_every_process_and_even() -> None:
    names = [f"slide-{i:05}.svs" for i in range(4000)]
    program = ("import sys; from patchloom.engine.dealing import owner; "
               "print([owner(f'slide-{i:05}.svs', 16) for i in range(4000)])")
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    found = [owner(name, 16) for name in names]
    assert said.strip() == str(found)
    counts = np.bincount(found)[1:]
    assert len(counts) == 16 and counts.min() > 180 and counts.max() < 320


def test_how_a_run_is_dealt_is_recorded_and_the_last_dealing_counts(tmp_path: Path) -> None:
    from patchloom.predictions.journal import Journal

    first = Dealing(4, {"a": Large("1", (700, 90), (2,))})
    second = Dealing(6, {}, first.number + 1)
    later, earlier = Journal(tmp_path / "journal"), Journal(tmp_path / "journal")
    later.append(second.record())
    earlier.append(first.record())
    index = Index(tmp_path)
    assert Dealing.recorded(index) == second
    index.close()
    later.close()
    earlier.close()


def test_a_run_of_one_process_was_never_dealt_out(local: patchloom.Run) -> None:
    assert Dealing.recorded(local.index) is None
    assert local.verify() == []
