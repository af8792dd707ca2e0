"""What every store of predictions must do: subclass `StoreTests`, say how to open one, let pytest collect the class."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from patchloom.models.model import Head
from patchloom.predictions.patches import UnitRows
from patchloom.predictions.stores.store import PredictionStore, StoredRun

__all__ = ["NAMES", "StoreTests", "example_rows"]

NAMES = (
    "a/s.tif", "a", "a.json", "a.json/b", "A", "a ", " a", "é", "e\u0301", "日本/語.tif", "😀", "..", "../../passwd",
    "/absolute", "a//b", "'; drop table patchloom_heads; --", 'x" or "1"="1', "%s %(run)s {} $where", "a:b", "a\nb",
    "\udcff\udcfe", "nul\0", "x" * 300, "run", "%run.json", "{\"$gt\": \"\"}",
)  # fmt: skip
"""Names of images that have broken something somewhere."""
KINDS: tuple[tuple[str, tuple[int, ...], tuple[str, ...]], ...] = (
    ("float16", (3,), ("stroma", "tumour", "other")),
    ("float32", (3,), ("stroma", "tumour", "other")),
    ("float64", (), ()),
    ("float32", (128,), ()),
    ("float16", (600,), tuple(map(str, range(600)))),
    ("int8", (), ()),
    ("int64", (2,), ("least", "most")),
    ("uint64", (2,), ("least", "most")),
    ("uint8", (3,), ("0", "1", "2")),
    ("bool", (2,), ("is", "is not")),
    ("bool", (), ()),
)


def example_rows(
    head: Head, image: str, loops: tuple[int, ...] = (), counts: tuple[int, ...] = (3, 4), seed: int = 0,
    skipped: bool = False,
) -> UnitRows:
    """Rows of a grid of patches of 10 pixels, with random values of the head's dtype."""
    places = np.stack(np.meshgrid(*(np.arange(n) for n in counts), indexing="ij"), -1).reshape(-1, len(counts))
    values = _random(head, len(places), seed)
    marks = None
    if skipped:
        marks = np.arange(len(places)) % 3 == 1
        values[marks] = 0
    shapes = np.full_like(places, 10)
    return UnitRows(image, loops, places, places * 10, shapes, values, marks)


def _random(head: Head, count: int, seed: int) -> NDArray[Any]:
    rng, shape = np.random.default_rng(seed), (count, *head.shape)
    if head.dtype.kind == "f":
        return rng.normal(size=shape).astype(head.dtype)
    if head.dtype.kind == "b":
        return rng.random(shape) < 0.5
    info = np.iinfo(head.dtype)
    values = rng.integers(info.min, info.max, size=shape, dtype=head.dtype, endpoint=True)
    values.reshape(-1)[:2] = [info.min, info.max]
    return values


class StoreTests:
    """Conformance of a `PredictionStore`.

    Examples
    --------
    ::

        class TestMyStore(StoreTests):
            @pytest.fixture
            def place(self, tmp_path):
                return str(tmp_path / "store")

            def open(self, place, run):
                return MyStore(f"mine:{place}", run)
    """

    head = Head("probabilities", "vector", np.dtype(np.float32), (3,), classes=("stroma", "tumour", "other"))
    writers = 4
    many = (64, 80)
    """Rows and columns of an image that a store reads in batches."""

    def open(self, place: Any, run: StoredRun) -> PredictionStore:
        """The store at what the fixture `place` gave, for a run; called several times a test."""
        raise NotImplementedError

    @pytest.fixture
    def run(self) -> StoredRun:
        """A run that nobody wrote yet."""
        return StoredRun(uuid.uuid4().hex, (self.head,), 2)

    @pytest.fixture
    def store(self, place: Any, run: StoredRun) -> Iterator[PredictionStore]:
        """A store without rows."""
        opened = self.open(place, run)
        yield opened
        opened.close()

    def put(self, store: PredictionStore, *parts: UnitRows, head: Head | None = None, axes: str = "YX") -> None:
        """Put rows of one head."""
        store.put(axes, {(head or self.head).name: parts})

    def everything(
        self, store: PredictionStore, image: str, head: Head | None = None, axes: str = "YX"
    ) -> dict[Any, Any]:
        """Keys in the order of the store, with predictions, None where they were skipped."""
        found: dict[Any, Any] = {}
        for rows in store.rows((head or self.head).name, image, axes):
            for key, value, skipped in zip(rows.keys.tolist(), rows.values, rows.skipped, strict=True):
                assert tuple(key) not in found
                found[tuple(key)] = None if skipped else value
        return found

    def check(self, store: PredictionStore, rows: UnitRows, head: Head | None = None, axes: str = "YX") -> None:
        """Everything of an image's plane is as it was put, one by one and as a whole."""
        about = head or self.head
        everything = self.everything(store, rows.image, about, axes)
        skipped = np.zeros(len(rows.values), np.bool_) if rows.skipped is None else rows.skipped
        for start, value, is_skipped in zip(rows.starts.tolist(), rows.values, skipped, strict=True):
            key = (*rows.loops, *start)
            found = store.get(about.name, rows.image, axes, key)
            if is_skipped:
                assert found is None
                assert everything[key] is None
                continue
            for each in (found, everything[key]):
                np.testing.assert_array_equal(each, value)
                assert np.asarray(each).dtype == about.dtype
                assert np.asarray(each).shape == about.shape

    def test_it_satisfies_the_protocol(self, store: PredictionStore) -> None:
        """Lookups recognise it."""
        assert isinstance(store, PredictionStore)

    def test_what_is_put_is_there(self, store: PredictionStore) -> None:
        """Also for whoever opens the store again."""
        rows = example_rows(self.head, "a")
        self.put(store, rows)
        self.check(store, rows)
        assert len(self.everything(store, "a")) == store.count(self.head.name) == store.count(self.head.name, "a") == 12

    def test_it_is_there_for_whoever_opens_the_store_next(self, place: Any, run: StoredRun) -> None:
        """Nothing is kept back."""
        rows = example_rows(self.head, "a")
        store = self.open(place, run)
        self.put(store, rows)
        reader = self.open(place, run)
        self.check(reader, rows)
        reader.close()
        store.close()
        again = self.open(place, run)
        self.check(again, rows)
        again.close()

    def test_what_is_not_there_is_none(self, store: PredictionStore) -> None:
        """No such run, image, patch."""
        name = self.head.name
        assert store.get(name, "a", "YX", (0, 0)) is None
        assert self.everything(store, "a") == {}
        assert store.count(name) == store.count(name, "a") == 0
        self.put(store, example_rows(self.head, "a"))
        assert store.get(name, "a", "YX", (0, 7)) is None
        assert store.get(name, "b", "YX", (0, 0)) is None
        assert self.everything(store, "b") == {}

    def test_putting_twice_is_putting_once(self, store: PredictionStore) -> None:
        """A resumed run repeats units."""
        rows = example_rows(self.head, "a")
        for _ in range(2):
            self.put(store, rows)
        assert store.count(self.head.name) == 12
        self.check(store, rows)

    def test_rows_that_are_put_again_take_the_place_of_those_before(self, store: PredictionStore) -> None:
        """Other values, and other marks of what was skipped."""
        self.put(store, example_rows(self.head, "a", seed=1, skipped=True))
        rows = example_rows(self.head, "a", seed=2)
        self.put(store, rows)
        self.check(store, rows)
        rows = example_rows(self.head, "a", seed=3, skipped=True)
        self.put(store, rows)
        self.check(store, rows)

    def test_rows_come_in_the_order_of_their_keys(self, store: PredictionStore) -> None:
        """Whatever the order in which units were put; numbers are compared, not texts."""
        rows = example_rows(self.head, "a", counts=(13, 13))
        order = np.random.default_rng(0).permutation(len(rows.values))
        for part in map(np.sort, np.array_split(order, 3)):
            shapes, values = rows.shapes[part], rows.values[part]
            self.put(store, UnitRows("a", (), rows.places[part], rows.starts[part], shapes, values))
        found = self.everything(store, "a")
        assert list(found) == [tuple(start) for start in rows.starts.tolist()]
        self.check(store, rows)

    def test_an_image_of_many_patches_comes_in_batches(self, store: PredictionStore) -> None:
        """Each row once."""
        rows = example_rows(self.head, "a", counts=self.many)
        self.put(store, rows)
        found = self.everything(store, "a")
        assert list(found) == [tuple(start) for start in rows.starts.tolist()]
        np.testing.assert_array_equal(np.stack(list(found.values())), rows.values)
        assert store.count(self.head.name, "a") == len(rows.values)

    @pytest.mark.parametrize(("dtype", "shape", "classes"), KINDS, ids=lambda value: str(value)[:12])
    def test_values_of_every_kind_are_exact(
        self, place: Any, dtype: str, shape: tuple[int, ...], classes: tuple[str, ...]
    ) -> None:
        """Scores, embeddings, numbers, and those among them that are none."""
        head = Head("out", "vector", np.dtype(dtype), shape, classes=classes)
        rows = example_rows(head, "a", counts=(2, 3))
        if head.dtype.kind == "f":
            special = [np.nan, np.inf, -np.inf, -0.0, np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal]
            for row, number in enumerate(special):
                rows.values.reshape(len(rows.values), -1)[row, 0] = number
        store = self.open(place, StoredRun(uuid.uuid4().hex, (head,), 2))
        self.put(store, rows, head=head)
        self.check(store, rows, head)
        store.close()

    def test_images_have_any_name(self, store: PredictionStore) -> None:
        """None is lost, mixed up with another, or understood as something else."""
        parts = {name: example_rows(self.head, name, counts=(1, 2), seed=i) for i, name in enumerate(NAMES)}
        for rows in parts.values():
            self.put(store, rows)
        for rows in parts.values():
            self.check(store, rows)
        assert store.count(self.head.name) == 2 * len(NAMES)
        store.delete("a")
        assert store.count(self.head.name) == 2 * len(NAMES) - 2
        for name, rows in parts.items():
            if name != "a":
                self.check(store, rows)

    def test_classes_have_any_name(self, place: Any) -> None:
        """Also that of a column, of a word of SQL, and names that differ in capitals, or in a letter at their end."""
        long = "y" * 200
        names = ("run", "image", "x", "select", "Tumour", "tumour", "é", "e", "E", "a.b", "$set", '";drop', "`", "%s",
                 ":c", "%(c0)s", "", " ", "日本", "😀", f"{long}1", f"{long}2", "a ", "exact", "c0", "c1", "row",
                 "_id", "\0")
        head = Head("out", "vector", np.dtype(np.float32), (len(names),), classes=names)
        rows = example_rows(head, "a", counts=(1, 3))
        store = self.open(place, StoredRun(uuid.uuid4().hex, (head,), 2))
        self.put(store, rows, head=head)
        self.check(store, rows, head)
        store.close()

    def test_runs_do_not_mix(self, place: Any) -> None:
        """Same names, same keys, other predictions, also of other heads; one is removed, the others stay."""
        other = Head("probabilities", "vector", np.dtype(np.int32), (2,), classes=("stroma", "tumour"))
        heads = (self.head, self.head, other)
        stores = [self.open(place, StoredRun(uuid.uuid4().hex, (head,), 2)) for head in heads]
        parts = [example_rows(head, "a", seed=i) for i, head in enumerate(heads)]
        for store, head, rows in zip(stores, heads, parts, strict=True):
            self.put(store, rows, head=head)
        for store, head, rows in zip(stores, heads, parts, strict=True):
            self.check(store, rows, head)
            assert store.count(head.name) == 12
        stores[0].delete()
        assert stores[0].count(self.head.name) == 0
        assert stores[0].get(self.head.name, "a", "YX", (0, 0)) is None
        for store, head, rows in list(zip(stores, heads, parts, strict=True))[1:]:
            self.check(store, rows, head)
        for store in stores:
            store.close()

    def test_an_image_is_removed_alone(self, store: PredictionStore) -> None:
        """And what was never there can be removed, too."""
        kept, gone = example_rows(self.head, "kept"), example_rows(self.head, "gone", seed=1)
        self.put(store, kept, gone)
        for _ in range(2):
            store.delete("gone")
        assert self.everything(store, "gone") == {}
        assert store.count(self.head.name, "gone") == 0
        self.check(store, kept)
        self.put(store, gone)
        self.check(store, gone)

    def test_several_heads_are_put_at_once(self, place: Any) -> None:
        """Scores and an embedding of the same patches."""
        embedding = Head("embedding", "vector", np.dtype(np.float16), (32,))
        store = self.open(place, StoredRun(uuid.uuid4().hex, (self.head, embedding), 2))
        scores, vectors = (example_rows(head, "a", skipped=True) for head in (self.head, embedding))
        store.put("YX", {self.head.name: [scores], embedding.name: [vectors]})
        self.check(store, scores)
        self.check(store, vectors, embedding)
        store.delete("a")
        assert store.count(self.head.name) == store.count(embedding.name) == 0
        store.close()

    def test_patches_that_were_skipped_are_rows_without_a_prediction(self, store: PredictionStore) -> None:
        """They are counted, and they are not found."""
        rows = example_rows(self.head, "a", skipped=True)
        self.put(store, rows)
        self.check(store, rows)
        found = self.everything(store, "a")
        assert len(found) == store.count(self.head.name, "a") == 12
        assert sum(value is None for value in found.values()) == 4

    @pytest.mark.parametrize(("axes", "ndim", "loops"), [("TYX", 2, (11,)), ("STZYX", 2, (1, 2, 3)), ("ZYX", 3, ()),
                                                         ("TZYX", 3, (2,)), ("ZYX", 2, (4,))])
    def test_keys_have_loops_and_three_axes(self, place: Any, axes: str, ndim: int, loops: tuple[int, ...]) -> None:
        """In the order of their numbers, whatever they count."""
        store = self.open(place, StoredRun(uuid.uuid4().hex, (self.head,), ndim))
        counts = (2, 2, 3)[-ndim:]
        many = [tuple(index) for index in itertools.product(*(sorted({0, n, 10}) for n in loops))]
        parts = [example_rows(self.head, "a", index, counts, seed=i) for i, index in enumerate(many)]
        self.put(store, *parts, axes=axes)
        for rows in parts:
            self.check(store, rows, axes=axes)
        found = list(self.everything(store, "a", axes=axes))
        assert found == sorted(found)
        assert len(found) == sum(len(rows.values) for rows in parts)
        store.close()

    def test_images_with_different_axes_are_in_one_run(self, store: PredictionStore) -> None:
        """One image has time, the other has none."""
        flat, timed = example_rows(self.head, "flat"), example_rows(self.head, "timed", (0,), seed=1)
        self.put(store, flat)
        self.put(store, timed, axes="TYX")
        self.check(store, flat)
        self.check(store, timed, axes="TYX")

    def test_writers_at_once_lose_nothing(self, place: Any, run: StoredRun) -> None:
        """Of the same run, in several connections, also where they write the same rows."""
        parts = [example_rows(self.head, f"{i}", seed=i) for i in range(6)]
        whole = example_rows(self.head, "shared", counts=(40, 5), seed=9)

        def write(writer: int) -> None:
            store = self.open(place, run)
            for i in np.random.default_rng(writer).permutation(len(parts)).tolist():
                self.put(store, parts[i])
            for line in np.random.default_rng(writer).permutation(40).tolist():
                here = slice(line * 5, line * 5 + 5)
                self.put(store, UnitRows("shared", (), whole.places[here], whole.starts[here], whole.shapes[here],
                                         whole.values[here]))
            store.close()

        with ThreadPoolExecutor(self.writers) as pool:
            list(pool.map(write, range(self.writers)))
        store = self.open(place, run)
        for rows in [*parts, whole]:
            self.check(store, rows)
        assert store.count(self.head.name) == 6 * 12 + 200
        store.close()

    def test_threads_share_a_store(self, store: PredictionStore) -> None:
        """They put and get at once."""

        def work(number: int) -> None:
            rows = example_rows(self.head, f"{number}", seed=number)
            self.put(store, rows)
            self.check(store, rows)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(24)))
        assert store.count(self.head.name) == 24 * 12

    def test_where_maps_are_is_kept_beside_the_rows(self, place: Any, run: StoredRun, store: PredictionStore) -> None:
        """By image and head, also of images without rows; what is said again takes the place of that before."""
        rows = example_rows(self.head, "a")
        places = {name: {"map": f"/data/{i}.zarr", "a.b $x": "s3://bucket/run/\u00e9"} for i, name in enumerate(NAMES)}
        assert store.maps("a") == {}
        store.link({})
        store.link({"a": {"map": "elsewhere", "a.b $x": "elsewhere"}})
        self.put(store, rows)
        assert store.maps("a") == {"map": "elsewhere", "a.b $x": "elsewhere"}
        store.link(places)
        store.close()
        again, other = self.open(place, run), self.open(place, StoredRun(uuid.uuid4().hex, (), 2))
        assert {name: again.maps(name) for name in NAMES} == places
        self.check(again, rows)
        assert again.count(self.head.name) == len(rows.values)
        other.link({"a": {"map": "of another run"}})
        again.delete("a")
        assert again.maps("a") == {} and again.maps("A") == places["A"]
        again.delete()
        assert [again.maps(name) for name in NAMES] == [{}] * len(NAMES)
        assert other.maps("a") == {"map": "of another run"}
        other.close()
        again.close()

    def test_nothing_to_put_is_nothing(self, store: PredictionStore) -> None:
        """An image may be too small to have patches."""
        self.put(store, example_rows(self.head, "a", counts=(0, 0)))
        assert store.count(self.head.name) == 0
        assert self.everything(store, "a") == {}
