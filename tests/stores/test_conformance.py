"""Every store does what a store does, on a real server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from patchloom.predictions.patches import UnitRows
from patchloom.predictions.stores.json import JsonStore
from patchloom.predictions.stores.mongodb import MongoStore
from patchloom.predictions.stores.redis import RedisStore
from patchloom.predictions.stores.sql import SqlStore
from patchloom.predictions.stores.store import PredictionStore, StoredRun
from patchloom.testing.stores import StoreTests, example_rows


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
    @pytest.fixture
    def place(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'predictions.db'}"

    def open(self, place: Any, run: StoredRun) -> PredictionStore:
        return SqlStore(place, run)


class TestPostgresql(TestSqlite):
    @pytest.fixture
    def place(self, postgresql_url: str) -> str:
        return postgresql_url


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
    @pytest.fixture
    def place(self, mongodb_url: str) -> str:
        return mongodb_url

    def open(self, place: Any, run: StoredRun) -> PredictionStore:
        return MongoStore(place, run)
