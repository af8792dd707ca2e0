"""Every store does what a store does, on a real server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psycopg
import pytest

from patchloom.models.model import Head
from patchloom.predictions.patches import UnitRows
from patchloom.predictions.stores.json import JsonStore
from patchloom.predictions.stores.mongodb import MongoStore
from patchloom.predictions.stores.redis import RedisStore
from patchloom.predictions.stores.sql import SqlStore
from patchloom.predictions.stores.store import PredictionStore, StoredRun
from patchloom.testing.stores import StoreTests, example_rows
from tests.servers import PASSWORD


class TestJson(StoreTests):
    @pytest.fixture
    def place(self, tmp_path: Path) -> str:
        return f"json:{tmp_path / 'predictions'}"

    def open(self, place: Any, run: StoredRun) -> PredictionStore:
        return JsonStore(place, run)

    def test_whoever_is_done_with_an_image_takes_nobodys_lock_away(self, place: Any, run: StoredRun) -> None:
        """A lock file goes when its image is written, while others wait for it, or are just making it."""
        rows = example_rows(self.head, "shared", counts=(200, 1))

        def write(writer: int) -> None:
            store = JsonStore(place, run)
            for line in range(writer, 200, 8):
                self.put(store, UnitRows("shared", (), rows.places[line:][:1], rows.starts[line:][:1],
                                         rows.shapes[line:][:1], rows.values[line:][:1]))
                if line % 3 == 0:
                    store.close()
            store.close()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(8)))
        store = JsonStore(place, run)
        self.check(store, rows)
        assert [path.name for path in Path(place[5:]).iterdir() if path.suffix == ".lock"] == []


class TestSqlite(StoreTests):
    def test_any_number_comes_back_exactly(self, place: Any, run: StoredRun) -> None:
        """Bits at random, as statements and answers have them in letters or in bytes."""
        bits = np.random.default_rng(0).integers(0, 2**63, (500, 6), np.uint64) | (np.uint64(1) << np.uint64(63))
        head = Head("out", "vector", np.dtype(np.float64), (6,), classes=tuple("abcdef"))
        rows = example_rows(head, "a", counts=(500, 1))
        rows.values[:] = np.where(np.arange(500)[:, None] % 2, bits, bits >> np.uint64(1)).view(np.float64)
        rows.values[0] = [0.1, 1e-4, 1e16, 123456789012345678.0, 1e-7, -0.0]
        rows.values[~np.isfinite(rows.values)] = 1.0
        store = self.open(place, StoredRun(run.id, (head,), 2))
        self.put(store, rows, head=head)
        (found,) = store.rows("out", "a", "YX")
        np.testing.assert_array_equal(found.values.view(np.uint64), rows.values.view(np.uint64))
        store.close()

    @pytest.fixture
    def place(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'predictions.db'}"

    def open(self, place: Any, run: StoredRun) -> PredictionStore:
        return SqlStore(place, run)


class TestPostgresql(TestSqlite):
    @pytest.fixture
    def place(self, postgresql_url: str) -> str:
        return postgresql_url


    def test_a_user_who_may_make_no_temporary_tables_can_put(self, place: str, run: StoredRun) -> None:
        name = urlsplit(place).path[1:]
        with psycopg.connect(place, autocommit=True) as client:
            for statement in (f"revoke temporary on database {name} from public", f"create role plain_{name} login "
                              "password 'p'", f"grant create on schema public to plain_{name}"):
                client.execute(statement)
        store = self.open(place.replace(f"tester:{PASSWORD}", f"plain_{name}:p"), run)
        for seed in (1, 2):
            rows = example_rows(self.head, "a", seed=seed, skipped=True)
            self.put(store, rows)
            self.check(store, rows)
        store.close()


class TestMariadb(TestSqlite):
    @pytest.fixture
    def place(self, mariadb_url: str) -> str:
        return mariadb_url


class TestRedis(StoreTests):
    @pytest.fixture
    def place(self, redis_url: str) -> str:
        return redis_url

    def open(self, place: Any, run: StoredRun) -> PredictionStore:
        return RedisStore(place, run)


class TestMongodb(StoreTests):
    many = (51, 40)  # more than it reads at once; the tests' server takes a millisecond a document

    @pytest.fixture
    def place(self, mongodb_url: str) -> str:
        return mongodb_url

    def open(self, place: Any, run: StoredRun) -> PredictionStore:
        return MongoStore(place, run)
