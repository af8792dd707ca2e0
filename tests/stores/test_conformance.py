"""Every store does what a store does, on a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from patchloom.predictions.stores.json import JsonStore
from patchloom.predictions.stores.mongodb import MongoStore
from patchloom.predictions.stores.redis import RedisStore
from patchloom.predictions.stores.sql import SqlStore
from patchloom.predictions.stores.store import PredictionStore, StoredRun
from patchloom.testing.stores import StoreTests


class TestJson(StoreTests):
    @pytest.fixture
    def place(self, tmp_path: Path) -> str:
        return f"json:{tmp_path / 'predictions'}"

    def open(self, place: Any, run: StoredRun) -> PredictionStore:
        return JsonStore(place, run)


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
