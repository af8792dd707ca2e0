"""An SQL database by its URL: connections, patience with a server that is away, messages without passwords."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from patchloom.errors import MissingExtraError, SourceError, SourceNotFoundError
from patchloom.images.sources.patience import ENVIRONMENT, Patience
from patchloom.images.sources.urls import SQL_DRIVERS, is_sql_url

try:
    import sqlalchemy
    from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
    from sqlalchemy.exc import TimeoutError as PoolTimeoutError
except ImportError as error:
    raise MissingExtraError.of("sqlalchemy", "sql", "a source in an SQL database") from error

__all__ = ["Database", "database", "with_password", "without_password"]

T = TypeVar("T")

EXTRAS = {"psycopg": "postgresql", "pymysql": "mysql"}
AWAY = (
    "connection refused", "connection reset", "broken pipe", "server closed the connection", "terminating connection",
    "starting up", "shutting down", "recovery mode", "not yet accepting", "too many", "lost connection", "gone away",
    "can't connect", "timed out", "timeout expired", "no such file or directory", "is locked", "deadlock",
    "connection is closed", "the connection is lost", "server shutdown",
)  # fmt: skip
"""What drivers say when trying again may help."""


def _parsed(url: str) -> sqlalchemy.URL:
    """A URL with a driver, and the path of an SQLite file made absolute.

    Raises
    ------
    SourceError
        If it is none; the message does not repeat it, since it may hold a password.
    """
    try:
        parsed = sqlalchemy.make_url(url)
    except (ArgumentError, ValueError):
        raise SourceError("the URL of the database cannot be understood",
                          "postgresql://user@host/name, mysql://user@host/name or sqlite:///file.db") from None
    parsed = parsed.set(drivername=SQL_DRIVERS.get(parsed.drivername, parsed.drivername))
    if parsed.get_backend_name() == "sqlite":
        parsed = _with_file(parsed)
    return parsed


def _with_file(url: sqlalchemy.URL) -> sqlalchemy.URL:
    path = url.database
    if not path or path == ":memory:":
        raise SourceError("an SQLite database in memory has no images", "sqlite:///file.db")
    if path.startswith("file:"):
        return url
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.exists(path):
        raise SourceNotFoundError(f"{path}: there is no such database",
                                  "sqlite:///b.db is here, sqlite:////a/b.db is /a/b.db")
    return url.set(database=path)


def without_password(url: str) -> str:
    """The same URL as may be shown and kept.

    Examples
    --------
    >>> without_password("postgresql://me:secret@host/lab")
    'postgresql+psycopg://me@host/lab'
    """
    return _shown(_parsed(url))


def _shown(url: sqlalchemy.URL) -> str:
    query = {name: value for name, value in url.query.items() if "pass" not in name.lower()}
    bare = sqlalchemy.URL.create(url.drivername, url.username, None, url.host, url.port, url.database, query)
    return bare.render_as_string(hide_password=False)


def with_password(url: str) -> str:
    """The URL itself, or the one in the environment where that is the same with its password."""
    given = os.environ.get(ENVIRONMENT, "")
    if not is_sql_url(given) or given.startswith("sqlite") or _secrets(_parsed(url)):
        return url
    return given if without_password(given) == without_password(url) else url


def _secrets(url: sqlalchemy.URL) -> list[str]:
    """Everything in a URL that is not to be shown."""
    values: list[Any] = [url.password, *(value for name, value in url.query.items() if "pass" in name.lower())]
    return [str(value) for value in values if value]


class Database:
    """A pool of connections that any number of threads share. What is read is read outside of transactions.

    Parameters
    ----------
    url
        With its password.

    Raises
    ------
    SourceError
        If the URL cannot be understood.
    MissingExtraError
        If its driver is not installed.
    """

    def __init__(self, url: str) -> None:
        parsed = _parsed(url)
        self.shown = _shown(parsed)
        self._secrets = _secrets(parsed)
        self._patience = Patience()
        try:
            self.engine = sqlalchemy.create_engine(parsed, pool_size=8, max_overflow=8, isolation_level="AUTOCOMMIT",
                                                   connect_args=_arguments(parsed))
        except NoSuchModuleError:
            raise SourceError(f"{parsed.drivername}: no such kind of database is known",
                              "postgresql, mysql, mariadb and sqlite are") from None
        except ImportError:
            driver = parsed.drivername.partition("+")[2] or parsed.drivername
            raise MissingExtraError.of(driver, EXTRAS.get(driver, "sql"), self.shown) from None

    @property
    def dialect(self) -> str:
        """``sqlite``, ``postgresql``, ``mysql`` or ``mariadb``."""
        return self.engine.dialect.name

    @property
    def folder(self) -> str:
        """Where relative paths in it begin: the folder of an SQLite file, else the working directory."""
        path = self.engine.url.database or ""
        return os.path.dirname(path) if self.dialect == "sqlite" and not path.startswith("file:") else os.getcwd()

    def read(self, work: Callable[[sqlalchemy.Connection], T]) -> T:
        """Do some reading with a connection, again where the server went away in between.

        Raises
        ------
        SourceError
            If the server stays away, or refuses; without the password.
        """

        def connected() -> T:
            with self.engine.connect() as connection:
                return work(connection)

        return self._patiently(connected)

    def write(self, work: Callable[[sqlalchemy.Connection], T]) -> T:
        """Do some writing in one transaction, again where it failed for no fault of its own: let it be repeatable.

        Raises
        ------
        SourceError
            As `read` does.
        """
        level = "SERIALIZABLE" if self.dialect == "sqlite" else "READ COMMITTED"

        def connected() -> T:
            with self.engine.connect().execution_options(isolation_level=level) as connection, connection.begin():
                return work(connection)

        return self._patiently(connected)

    def _patiently(self, work: Callable[[], T]) -> T:
        try:
            return self._patience(work, is_away)
        except (DBAPIError, PoolTimeoutError) as error:
            raise self.error(error) from None  # what it was raised from may show more than it should

    def error(self, error: Exception) -> SourceError:
        """What a driver says, in one line without secrets."""
        reason = " ".join(str(getattr(error, "orig", None) or error).split()) or type(error).__name__
        for secret in self._secrets:
            reason = reason.replace(secret, "***")
        lower = reason.lower()
        if "password" in lower or "access denied" in lower:
            hint = f"correct the user or the password; {ENVIRONMENT} may hold the URL with its password"
        elif is_away(error):
            hint = "start the server, or correct host and port; then resume the run"
        else:
            hint = "try the query in the database's own shell"
        return SourceError(f"{self.shown}: {reason}", hint)

    def close(self) -> None:
        """Close all connections that nobody uses."""
        self.engine.dispose()


def is_away(error: Exception) -> bool:
    """Whether trying again later may help."""
    if isinstance(error, PoolTimeoutError) or getattr(error, "connection_invalidated", False):
        return True
    text = str(getattr(error, "orig", error)).lower()
    return isinstance(error, (OperationalError, InterfaceError)) and any(sign in text for sign in AWAY)


def _arguments(url: sqlalchemy.URL) -> Mapping[str, Any]:
    """Connecting to a host that does not answer fails within seconds."""
    known = "+psycopg" in url.drivername or "+pymysql" in url.drivername
    return {"connect_timeout": 10} if known and "connect_timeout" not in url.query else {}


_opened: dict[tuple[int, str], Database] = {}
_opening = threading.Lock()


def database(url: str) -> Database:
    """The database of a URL, opened once a process: connections are not handed on to children."""
    with _opening:
        found = _opened.get((os.getpid(), url))
        if found is None:
            found = _opened[os.getpid(), url] = Database(url)
        return found


@atexit.register
def _close_all() -> None:
    # An interpreter that ends with open connections warns of them.
    for (process, _), opened in _opened.items():
        if process == os.getpid():
            opened.close()
