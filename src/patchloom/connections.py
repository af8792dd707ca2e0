"""Connections to object storage and web servers: made by obstore, patient, and without a secret in any message."""

from __future__ import annotations

import base64
import functools
import io
import os
import re
from datetime import timedelta
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from patchloom.errors import MissingExtraError, UsageError

__all__ = [
    "WEB",
    "NoSuchRangeError",
    "connection",
    "explained",
    "is_object_url",
    "obstore_module",
    "reached",
    "shown",
    "took_apart",
    "whole_url",
]

STORES = ("s3", "s3a", "gs", "az", "abfs", "abfss")
WEB = ("http", "https")
PATIENCE = "PATCHLOOM_PATIENCE"
"""Environment variable with the seconds that a server is waited for which was there before."""
LATER = 30.0
FIRST = 3.0
"""Seconds that a server is waited for which was never reached."""

_reached: set[str] = set()
_processes: set[int] = set()
"""The process that has connections, and those that it was forked from: obstore's threads do not survive a fork."""


class NoSuchRangeError(OSError):
    """A range that begins behind the end of an object."""


def is_object_url(text: str) -> bool:
    """Whether a text names an object, or a prefix of objects.

    Examples
    --------
    >>> is_object_url("s3://bucket/a.tif"), is_object_url("a.tif"), is_object_url("sqlite:///lab.db")
    (True, False, False)
    """
    scheme, found, _ = text.partition("://")
    return bool(found) and scheme.lower() in STORES + WEB


def shown(url: str) -> str:
    """A URL as it may be shown and kept: without user, password and query; any other text as it is.

    Examples
    --------
    >>> shown("https://me:secret@host/a.tif?X-Amz-Signature=secret")
    'https://host/a.tif'
    """
    if not is_object_url(url):
        return url
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    if scheme.lower() in WEB:
        path, host = re.split(r"[?#]", path)[0], host.partition("?")[0]
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def took_apart(url: str) -> tuple[str, str]:
    """Root, which names a server or bucket and holds what gives access, and the key below it.

    Raises
    ------
    UsageError
        If the URL of a bucket has a user or password.

    Examples
    --------
    >>> took_apart("s3://bucket/a/b.tif"), took_apart("https://host/a%20b.tif?v=2")
    (('s3://bucket', 'a/b.tif'), ('https://host?v=2', 'a b.tif'))
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme in WEB:
        parts = urlsplit(f"{scheme}://{rest}")
        query = f"?{parts.query}" if parts.query else ""
        return f"{scheme}://{parts.netloc}{query}", unquote(parts.path).strip("/")
    bucket, _, key = rest.partition("/")
    if "@" in bucket and not scheme.startswith("abfs"):
        raise UsageError(f"{shown(url)}: a URL of object storage holds no user or password",
                         "give them in the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY")
    return f"{scheme}://{bucket}", key.strip("/")


def whole_url(root: str, key: str) -> str:
    """Inverse of `took_apart`; it holds what gives access."""
    if root.partition("://")[0] not in WEB:
        return f"{root}/{key}" if key else root
    server, mark, query = root.partition("?")
    return f"{server}/{quote(key)}{mark}{query}"


def obstore_module() -> Any:
    """The package.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        import obstore
    except ImportError:
        raise MissingExtraError.of("obstore", "objects", "object storage and web addresses") from None
    return obstore


def connection(root: str) -> Any:
    """Connections of obstore to a bucket or web server; each process has its own.

    Raises
    ------
    UsageError
        In a process that was forked from one with connections: whatever it asked for would never come.
    """
    if _processes - {os.getpid()}:
        raise UsageError("this process was forked from one that used object storage or the web already, and obstore's "
                         "threads are gone in it",
                         'start workers with spawn: DataLoader(…, multiprocessing_context="spawn")')
    patience = float(os.environ.get(PATIENCE) or LATER)
    made = _connection(root, patience if root in _reached else min(FIRST, patience), os.environ.get("AWS_ENDPOINT_URL"))
    _processes.add(os.getpid())
    return made


def reached(root: str) -> None:
    """Note that a server has answered: from now on it is waited for longer."""
    _reached.add(root)


@functools.lru_cache(maxsize=256)
def _connection(root: str, patience: float, endpoint: str | None) -> Any:
    obstore_module()
    from obstore.store import HTTPStore, from_url

    backoff = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5)}
    retries = {"max_retries": 1000, "retry_timeout": timedelta(seconds=patience), "backoff": backoff}
    options: dict[str, Any] = {"allow_http": (endpoint or root).startswith("http://"), "connect_timeout": f"{FIRST}s"}
    make: Any = from_url
    if root.partition("://")[0] in WEB:
        options["allow_http"] = root.startswith("http://")
        make, root = HTTPStore, _with_header(root, options)
    return make(root, client_options=options, retry_config=retries)


def _with_header(root: str, options: dict[str, Any]) -> str:
    """Root without user and password, which become a header."""
    parts = urlsplit(root)
    user, found, host = parts.netloc.rpartition("@")
    if found:
        secret = base64.b64encode(unquote(user).encode()).decode()
        options["default_headers"] = {"Authorization": f"Basic {secret}"}
    return f"{parts.scheme}://{host}/" + (f"?{parts.query}" if parts.query else "")


def explained(error: Exception, where: object) -> OSError:
    """What obstore raised, as files would; of its message only what is wrong, since it holds URLs and answers.

    Parameters
    ----------
    error
        As obstore raised it.
    where
        The object, for the message.
    """
    text = str(error).partition("\n\nDebug source")[0]
    name = type(error).__name__
    status = _found(r"status code: (\d+[^:<\n]*)", text)
    code = _found(r"<Code>(\w+)</Code>", text)
    if code == "NoSuchBucket":
        return FileNotFoundError(f"{where}: there is no such bucket")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{where}: there is no such object")
    if status.startswith("416"):
        return NoSuchRangeError(f"{where}: has no such bytes")
    if name in ("AlreadyExistsError", "PreconditionError"):
        return FileExistsError(f"{where}: is there already, or was changed meanwhile")
    if name == "NotSupportedError" and "Range" in text:
        return io.UnsupportedOperation(f"{where}: the server gives no parts of files")
    if "169.254.169.254" in text or "metadata.google" in text:
        return PermissionError(f"{where}: no credentials were found in the environment")
    if name in ("PermissionDeniedError", "UnauthenticatedError"):
        return PermissionError(f"{where}: access is denied ({', '.join(filter(None, (status.strip(), code)))})")
    if "error sending request" in text:
        server = _found(r"Error performing \w+ https?://(?:[^/@]*@)?([^/?\s]+)", text)
        return ConnectionError(f"{where}: the server {server} cannot be reached")
    reason = status.strip() or re.sub(r"https?://\S+", "…", text.rpartition(" - ")[2].partition("\n")[0])
    return OSError(f"{where}: {' '.join(filter(None, (reason, code)))}")


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""
