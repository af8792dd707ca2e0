"""Servers of the tests start, stop, and still know what they were told."""

from __future__ import annotations

from tests.servers import Server


def test_redis_knows_after_a_restart_what_it_was_told(redis_server: Server, redis_url: str) -> None:
    import redis

    with redis.Redis.from_url(redis_url) as client:
        client.set("a", "1")
    redis_server.stop()
    redis_server.start()
    with redis.Redis.from_url(redis_url) as client:
        assert client.get("a") == b"1"


def test_postgresql_knows_after_a_kill_what_it_committed(postgresql_server: Server, postgresql_url: str) -> None:
    import psycopg

    with psycopg.connect(postgresql_url) as client:
        client.execute("create table a (b int)")
    postgresql_server.stop(kill=True)
    postgresql_server.start()
    with psycopg.connect(postgresql_url) as client:
        assert client.execute("select count(*) from a").fetchone() == (0,)


def test_mariadb_answers(mariadb_url: str) -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(mariadb_url.replace("mysql:", "mysql+pymysql:"))
    with engine.connect() as client:
        assert client.execute(sqlalchemy.text("select 1")).scalar() == 1
    engine.dispose()


def test_mongodb_answers(mongodb_url: str) -> None:
    import pymongo

    with pymongo.MongoClient(mongodb_url) as client:
        client.get_default_database().a.insert_one({"_id": 1})
        assert client.get_default_database().a.find_one() == {"_id": 1}
