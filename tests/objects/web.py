"""A web server of files whose habits a test chooses, and a proxy that counts what goes through it."""

from __future__ import annotations

import base64
import http.client
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Web:
    """Files by path, and what the server was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    user: str = ""
    query: str = ""
    failures: int = 0
    status: int = 503
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    url: str = ""

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(request.path)
        if self.failures:
            self.failures -= 1
            return self.status, {}, b""
        allowed = request.headers.get("Authorization") == f"Basic {base64.b64encode(self.user.encode()).decode()}"
        signed = parts.query == self.query and (not self.query or request.command == "GET")
        if not signed or (self.user and not allowed):
            return 403, {}, b"<Error><Code>AccessDenied</Code></Error>"
        data = self.files.get(unquote(parts.path))
        if data is None:
            return 404, {}, b""
        headers, wanted = {"ETag": f'"{hash(data)}"'}, request.headers.get("Range")
        if request.headers.get("If-Match", headers["ETag"]) != headers["ETag"]:
            return 412, {}, b""
        if not (wanted and self.ranges):
            return 200, headers, data
        if not data:
            return 416, {"Content-Range": "bytes */0"}, b""
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1]
        headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        return 206, headers, part


@contextmanager
def serving(web: Web, port: int = 0) -> Iterator[Web]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, data = web.answer(self)
            web.asked.append((self.command, self.path, len(data)))
            _reply(self, status, headers, data)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: Any) -> None:
            pass

    with _server(Handler, port) as web.url:
        yield web


@contextmanager
def counting(target: str) -> Iterator[tuple[str, list[tuple[str, str, int]]]]:
    """URL of a proxy of another server, and what went through it: method, path, bytes of the answer."""
    seen: list[tuple[str, str, int]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            onward = http.client.HTTPConnection(urlsplit(target).netloc)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            onward.request(self.command, self.path, body, dict(self.headers))
            found = onward.getresponse()
            data = found.read()
            seen.append((self.command, self.path, len(data)))
            kept = {name: value for name, value in found.getheaders()
                    if name.lower() not in ("transfer-encoding", "connection", "date", "server")}
            _reply(self, found.status, kept, data)
            onward.close()

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *args: Any) -> None:
            pass

    with _server(Handler) as url:
        yield url, seen


def _reply(request: http.server.BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes) -> None:
    request.send_response(status)
    for name, value in ({"Content-Length": str(len(data))} | headers).items():
        request.send_header(name, value)
    request.end_headers()
    try:
        if request.command != "HEAD":
            request.wfile.write(data)
    except (BrokenPipeError, ConnectionResetError):
        request.close_connection = True  # who asked did not want so much


@contextmanager
def _server(handler: type[http.server.BaseHTTPRequestHandler], port: int = 0) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
