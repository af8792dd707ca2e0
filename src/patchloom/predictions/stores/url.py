"""URLs of stores: what may be shown and kept of them, and where the password comes from that is not kept."""

from __future__ import annotations

import os
import re
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from patchloom.errors import StoreError

__all__ = ["ENVIRONMENT", "FILES", "scheme_of", "secrets_of", "with_password", "without_password"]

ENVIRONMENT = "PATCHLOOM_STORE"
"""Environment variable that gives a store's URL with its password, where a run knows it without."""
SECRET_WORDS = ("pass", "pwd", "secret", "token")
FILES = {"json", "sqlite"}
"""Schemes of URLs that name a file or folder."""


def scheme_of(url: str) -> str:
    """Scheme of a URL without its driver, in lower case.

    Raises
    ------
    StoreError
        If it is no URL.

    Examples
    --------
    >>> scheme_of("postgresql+psycopg://me@host/lab"), scheme_of("json:predictions/")
    ('postgresql', 'json')
    """
    found = re.match(r"([a-zA-Z][a-zA-Z0-9.-]*)(\+[a-zA-Z0-9]+)?:", url)
    if found is None:
        raise StoreError("the store's URL cannot be understood", "json:folder, sqlite:///file.db, redis://host:6379/0, "
                         "postgresql://user@host/name, mysql://user@host/name or mongodb://host/name")
    return found[1].lower()


def without_password(url: str) -> str:
    """The same URL as may be shown and kept; paths of files are made absolute.

    Examples
    --------
    >>> without_password("postgresql://me:secret@host:5432/lab?sslmode=require&sslpassword=x")
    'postgresql://me@host:5432/lab?sslmode=require'
    >>> without_password("redis://:secret@host/0")
    'redis://host/0'
    """
    scheme = scheme_of(url)
    if scheme == "json":
        return f"json:{os.path.abspath(os.path.expanduser(url.partition(':')[2]))}"
    parts = _split(url)
    user = _userinfo(parts.netloc)[0]
    host = parts.netloc.rpartition("@")[2]
    path = parts.path
    if scheme == "sqlite" and not host:
        path = "/" + os.path.abspath(os.path.expanduser(path[1:]))
    query = urlencode([(name, value) for name, value in parse_qsl(parts.query, True) if not _is_secret(name)])
    return f"{parts.scheme}://{f'{user}@' if user else ''}{host}{path}{f'?{query}' if query else ''}"


def with_password(url: str) -> str:
    """The URL itself, or that in the environment where it is the same with its password."""
    given = os.environ.get(ENVIRONMENT, "")
    if not given or secrets_of(url):
        return url
    return given if without_password(given) == without_password(url) else url


def secrets_of(url: str) -> list[str]:
    """Everything in a URL that is not to be shown, as it is written and as it is meant, the longest first."""
    if scheme_of(url) in FILES:
        return []
    parts = _split(url)
    password = _userinfo(parts.netloc)[1]
    found = [password, unquote(password), *(v for name, v in parse_qsl(parts.query, True) if _is_secret(name))]
    return sorted({secret for secret in found if secret}, key=len, reverse=True)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise StoreError("the store's URL cannot be understood", "scheme://user@host:port/name") from None


def _userinfo(netloc: str) -> tuple[str, str]:
    user, _, password = netloc.rpartition("@")[0].partition(":")
    return user, password


def _is_secret(name: str) -> bool:
    return any(word in name.lower() for word in SECRET_WORDS)
