"""Real database servers for tests: each is started once a process, on a free port, with a temporary folder.

``conftest.py`` has them for all tests. A test whose server is not installed is skipped with the command that installs
it, or fails where ``PATCHLOOM_REQUIRE_SERVERS`` is set.

- S3 is moto's server from PyPI.
- Redis, PostgreSQL and MariaDB are Debian's: ``apt-get install redis-server postgresql mariadb-server``.
- MongoDB is ``PATCHLOOM_TEST_MONGODB``, the URL of a real server, or else SecantusDB from PyPI, which speaks MongoDB's
  protocol: it is installed into an environment of its own, which is kept in ``~/.cache/patchloom-tests``
  (``PATCHLOOM_TEST_SECANTUSDB`` names another one).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

__all__ = ["Server", "mariadb_server", "mariadb_url", "mongodb_server", "mongodb_url", "postgresql_server",
           "postgresql_url", "redis_server", "redis_url", "running_mariadb", "running_mongodb", "running_postgresql",
           "running_redis", "s3_server", "s3_url"]

PATIENCE = 60
"""Seconds that a server may take to start; this is a small machine."""
PASSWORD = "s3cret-of-the-tests"
SECANTUSDB = "secantusdb==0.7.0b3"


@dataclass
class Server:
    """A process that answers on a port of this machine.

    Parameters
    ----------
    command
        Starts it in the foreground.
    url
        Where it is, with a user, a password and an empty database.
    ready
        Raises while it does not answer yet.
    folder
        Of its data; it is removed at the end.
    user
        Who runs it, where tests are run by root: servers refuse that.
    quit_by
        Signal that ends it in good order.
    end_by
        Signal that ends it at once, when nobody needs its data any more.
    """

    command: list[str]
    url: str
    ready: Callable[[], None]
    folder: Path
    user: str | None = None
    quit_by: signal.Signals = signal.SIGTERM
    end_by: signal.Signals = signal.SIGKILL
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it, and return when it answers; what it had stored is there again."""
        log = (self.folder / "server.log").open("ab")
        environment = {**os.environ, "HOME": str(self.folder)}
        self.process = subprocess.Popen(
            self.command, cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL, user=self.user,
            group=_group(self.user), env=environment, start_new_session=True)
        log.close()
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.ready()
            except Exception as error:  # each driver has errors of its own; the last one is shown
                if self.process.poll() is not None or time.monotonic() > deadline:
                    said = (self.folder / "server.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{self.command[0]} did not start: {error}\n{said}") from error
                time.sleep(0.1)

    def stop(self, *, kill: bool = False) -> None:
        """End it, in good order or as a power cut does."""
        self.end(signal.SIGKILL if kill else self.quit_by)

    def end(self, by: signal.Signals) -> None:
        """End it by a signal."""
        if self.process is None:
            return
        self.process.send_signal(by)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def missing(what: str, how: str) -> None:
    """Skip the test, or fail where servers are required."""
    said = f"{what} is not installed: {how}"
    if os.environ.get("PATCHLOOM_REQUIRE_SERVERS"):
        pytest.fail(said)
    pytest.skip(said)


def binary(name: str, *, package: str) -> str:
    """Path of a server's program."""
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin") or next(iter(newest[::-1]), None)
    if found is None:
        missing(name, f"apt-get install {package}")
    return str(found)


@contextlib.contextmanager
def running_redis() -> Iterator[Server]:
    """Redis that keeps what it is told, with a password."""
    program = binary("redis-server", package="redis-server")
    with _Folder() as folder:
        port = free_port()
        options = {"port": port, "bind": "127.0.0.1", "dir": folder, "save": "", "appendonly": "yes",
                   "appendfsync": "everysec", "requirepass": PASSWORD, "daemonize": "no", "databases": "64"}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
        with _Running(Server([program, *words], url, lambda: _ask_redis(url), folder)) as server:
            yield server


@contextlib.contextmanager
def running_postgresql() -> Iterator[Server]:
    """PostgreSQL with a password and a database of each test's own."""
    initdb = binary("initdb", package="postgresql")
    program = binary("postgres", package="postgresql")
    user = "postgres" if os.geteuid() == 0 else None
    with _Folder(user) as folder:
        port = free_port()
        data = folder / "data"
        (folder / "password").write_text(PASSWORD)
        _run([initdb, "-D", str(data), "-U", "tester", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}",
              "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"], folder, user)
        url = f"postgresql://tester:{PASSWORD}@127.0.0.1:{port}/postgres"
        command = [program, "-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1",
                   "-k", str(folder), "-c", "shared_buffers=32MB", "-c", "fsync=off"]  # kills end it, no power cut
        server = Server(command, url, lambda: _ask_postgresql(url), folder, user, signal.SIGINT, signal.SIGQUIT)
        with _Running(server):
            yield server


@contextlib.contextmanager
def running_mariadb() -> Iterator[Server]:
    """MariaDB with a password and a database of each test's own."""
    install = binary("mariadb-install-db", package="mariadb-server")
    program = binary("mariadbd", package="mariadb-server")
    user = "mysql" if os.geteuid() == 0 else None
    with _Folder(user) as folder:
        port = free_port()
        data = folder / "data"
        _run([install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal",
              "--skip-test-db"], folder, user)
        (folder / "users.sql").write_text(
            f"create user if not exists tester@'127.0.0.1' identified by '{PASSWORD}';\n"
            "grant all on *.* to tester@'127.0.0.1' with grant option;\n")
        url = f"mysql://tester:{PASSWORD}@127.0.0.1:{port}/mysql"
        command = [program, "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1",
                   f"--socket={folder / 'socket'}", f"--init-file={folder / 'users.sql'}", "--skip-name-resolve",
                   "--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=2",
                   f"--pid-file={folder / 'pid'}"]
        with _Running(Server(command, url, lambda: _ask_mariadb(url), folder, user)) as server:
            yield server


@contextlib.contextmanager
def running_mongodb() -> Iterator[Server]:
    """SecantusDB with a password, in an environment of its own (it is GPL: nothing of patchloom imports it).

    It flushes its journal for every document, which is asked for only where that matters: ``journal=true``.
    """
    with _Folder() as folder:
        python = _secantusdb()
        port = free_port()
        url = f"mongodb://127.0.0.1:{port}/patchloom"
        command = [python, "-m", "secantus", "--host", "127.0.0.1", "--port", str(port), "--storage-path",
                   str(folder / "data"), "--cache-size", "128M"]
        with _Running(Server(command, url, lambda: _ask_mongodb(url), folder)) as without_password:
            _make_mongodb_user(without_password.url)
            without_password.stop()
        url = f"mongodb://tester:{PASSWORD}@127.0.0.1:{port}/patchloom?authSource=admin&journal=false"
        with _Running(Server([*command, "--auth"], url, lambda: _ask_mongodb(url), folder)) as server:
            yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """See `running_redis`."""
    with running_redis() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    """Moto's server, which speaks S3; what it is told is gone when it ends."""
    with _Folder() as folder:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with _Running(Server(command, url, lambda: _ask_web(f"{url}/moto-api/"), folder)) as server:
            yield server


@pytest.fixture
def s3_url(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket of the test's own, ``s3://bucket``; where it is and who may use it is in the environment."""
    bucket = f"b{uuid.uuid4().hex[:12]}"
    for name, value in (("AWS_ENDPOINT_URL", s3_server.url), ("AWS_ACCESS_KEY_ID", "tester"),
                        ("AWS_SECRET_ACCESS_KEY", PASSWORD), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    _ask_web(f"{s3_server.url}/{bucket}", "PUT")
    return f"s3://{bucket}"


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """See `running_postgresql`."""
    with running_postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[Server]:
    """See `running_mariadb`."""
    with running_mariadb() as server:
        yield server


@pytest.fixture(scope="session")
def mongodb_server() -> Iterator[Server]:
    """See `running_mongodb`."""
    with running_mongodb() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: Server) -> Iterator[str]:
    """An empty Redis."""
    yield redis_server.url
    import redis

    with redis.Redis.from_url(redis_server.url) as client:
        client.flushdb()


@pytest.fixture
def postgresql_url(postgresql_server: Server) -> Iterator[str]:
    """A PostgreSQL database of the test's own."""
    import psycopg

    name = _database_name()
    with psycopg.connect(postgresql_server.url, autocommit=True) as client:
        client.execute(f"create database {name}")
    yield postgresql_server.url.removesuffix("postgres") + name
    with psycopg.connect(postgresql_server.url, autocommit=True) as client:
        client.execute(f"drop database {name} with (force)")


@pytest.fixture
def mariadb_url(mariadb_server: Server) -> Iterator[str]:
    """A MariaDB database of the test's own, with four bytes a letter where a name needs them."""
    name = _database_name()
    _execute_mariadb(mariadb_server.url, f"create database {name} character set utf8mb4")
    yield mariadb_server.url.removesuffix("mysql") + name
    _execute_mariadb(mariadb_server.url, f"drop database {name}")


@pytest.fixture
def mongodb_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A MongoDB database of the test's own."""
    import pymongo

    found = os.environ.get("PATCHLOOM_TEST_MONGODB") or request.getfixturevalue("mongodb_server").url
    name = _database_name()
    yield urlsplit(found)._replace(path=f"/{name}").geturl()
    with pymongo.MongoClient(found) as client:
        client.drop_database(name)


_numbers = iter(range(1, 1 << 30))


def _database_name() -> str:
    return f"t{os.getpid()}_{next(_numbers)}"


def _ask_web(url: str, method: str = "GET") -> None:
    with urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
        answer.read()


def _ask_redis(url: str) -> None:
    import redis

    with redis.Redis.from_url(url) as client:
        client.ping()


def _ask_postgresql(url: str) -> None:
    import psycopg

    psycopg.connect(url, connect_timeout=5).close()


def _ask_mariadb(url: str) -> None:
    _execute_mariadb(url, "select 1")


def _execute_mariadb(url: str, statement: str) -> None:
    import pymysql

    parts = urlsplit(url)
    connection = pymysql.connect(host=parts.hostname, port=parts.port or 0, user=parts.username,
                                 password=parts.password or "", connect_timeout=5)
    with connection, connection.cursor() as cursor:
        cursor.execute(statement)


def _ask_mongodb(url: str) -> None:
    import pymongo

    with pymongo.MongoClient(url, serverSelectionTimeoutMS=1000) as client:
        client.admin.command("ping")


def _make_mongodb_user(url: str) -> None:
    import pymongo

    with pymongo.MongoClient(url) as client:
        client.admin.command("createUser", "tester", pwd=PASSWORD, roles=["root"])


def _secantusdb() -> str:
    """Python of an environment with SecantusDB, which is made where there is none yet."""
    given = os.environ.get("PATCHLOOM_TEST_SECANTUSDB")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "patchloom-tests"
    kept = Path(given) if given else cache / SECANTUSDB
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=cache))
        venv.create(made, with_pip=True)
        command = [made / "bin" / "python", "-m", "pip", "install", "-q", SECANTUSDB]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            shutil.rmtree(made)
            missing("MongoDB", "set PATCHLOOM_TEST_MONGODB to the URL of a server, or PATCHLOOM_TEST_SECANTUSDB to an "
                    f"environment into which {SECANTUSDB} was installed")
        with contextlib.suppress(OSError):  # another worker was faster
            made.rename(kept)
    return str(kept / "bin" / "python")


def _run(command: list[str], folder: Path, user: str | None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, user=user, group=_group(user), check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stdout.decode()} {done.stderr.decode()}")


def _group(user: str | None) -> int | None:
    return None if user is None else pwd.getpwnam(user).pw_gid


class _Folder:
    """A temporary folder that belongs to a user; its path is short, as sockets need it."""

    def __init__(self, user: str | None = None) -> None:
        self._user = user

    def __enter__(self) -> Path:
        self.path = Path(tempfile.mkdtemp(prefix="patchloom-server-"))
        if self._user is not None:
            try:
                shutil.chown(self.path, self._user, _group(self._user))
            except (LookupError, KeyError):
                missing(f"user {self._user}", "the server's package makes it")
        return self.path

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class _Running:
    def __init__(self, server: Server) -> None:
        self._server = server

    def __enter__(self) -> Server:
        try:
            self._server.start()
        except BaseException:
            self._server.end(signal.SIGKILL)
            raise
        return self._server

    def __exit__(self, *error: object) -> None:
        self._server.end(self._server.end_by)


if __name__ == "__main__":
    sys.exit("this is a module of fixtures: from tests.servers import *")
