"""The live page's web server: it only reads, and answers GET and HEAD alone."""

import gzip
import json
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from research_env.dashboard import guard, page
from research_env.dashboard.live import Busy, Live
from sbp_jax.errors import UserError

HEARTBEAT_SECONDS = 15.0
IDLE_SECONDS = 60  # of a connection on which nothing is asked
COMPRESSED_FROM = 4096  # bytes
LARGEST_NUMBER = 2**53
log = logging.getLogger(__name__)


class NotFound(Exception):
    pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, live: Live, host: str, port: int, token: str = ""):
        guard.check_token(host, token)
        self.live, self.host, self.token = live, host, token
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"--host={host} --port={port}: {reason}; --port=0 takes a free one"
            ) from error

    @property
    def address(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pages are closed while they are answered; anything else is shown as it is."""
        import sys

        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        if not guard.is_ours(self.headers.get("Host"), self.server.host):
            self._text(HTTPStatus.FORBIDDEN, "This name is not this machine's. Ask by address.")
            return
        asked = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(asked.query).items()}
        if self.server.token and not self._let_in(asked.path, query):
            return
        answer = _ANSWERS.get(asked.path)
        try:
            if answer is None:
                raise NotFound
            answer(self, query)
        except (NotFound, UserError, IndexError):
            self._text(HTTPStatus.NOT_FOUND, "There is nothing here.")

    do_HEAD = do_GET

    def _let_in(self, path: str, query: dict[str, str]) -> bool:
        """By the token in the address, which the cookie takes the place of, or by the cookie."""
        port = int(self.server.server_address[1])
        if guard.knows(self.server.token, query.get("token")):
            cookie = f"{guard.cookie_name(port)}={self.server.token}"
            where = {"Location": "/", "Set-Cookie": f"{cookie}; Path=/; HttpOnly; SameSite=Lax"}
            self._send(HTTPStatus.SEE_OTHER, b"", "text/plain", where)
            return False
        if guard.knows(self.server.token, guard.from_cookie(self.headers.get("Cookie"), port)):
            return True
        self._text(HTTPStatus.FORBIDDEN, "A token is needed: ?token=... in the address, once.")
        return False

    def _page(self, query: dict[str, str]) -> None:
        self._send(HTTPStatus.OK, self.server.live.document().encode(), "text/html; charset=utf-8")

    def _state(self, query: dict[str, str]) -> None:
        since = _number(query.get("since", "0"))
        self._json(self.server.live.state(query.get("epoch", ""), since))

    def _idea(self, query: dict[str, str]) -> None:
        self._json(self.server.live.idea(_number(query.get("id", ""))))

    def _log(self, query: dict[str, str]) -> None:
        self._json(self.server.live.log(_number(query.get("run", ""))))

    def _context(self, query: dict[str, str]) -> None:
        self._json(self.server.live.context(_number(query.get("id", ""))))

    def _events(self, query: dict[str, str]) -> None:
        """Tells the page, at once, that there is something new to ask for."""
        try:
            with self.server.live.stream():
                self._headers(HTTPStatus.OK, "text/event-stream", {"Connection": "close"})
                seen = -1
                while self.command == "GET":
                    revision = self.server.live.wait(seen, HEARTBEAT_SECONDS)
                    said = f"data: {revision}\n\n" if revision != seen else ": still here\n\n"
                    self.wfile.write(said.encode())
                    seen = revision
        except Busy:
            self._text(HTTPStatus.SERVICE_UNAVAILABLE, "Too many pages are open.")

    def _json(self, value: Any) -> None:
        written = json.dumps(value, separators=(",", ":"), allow_nan=False)
        self._send(HTTPStatus.OK, written.encode(), "application/json")

    def _text(self, status: HTTPStatus, said: str) -> None:
        self._send(status, f"{said}\n".encode(), "text/plain; charset=utf-8")

    def _send(
        self, status: HTTPStatus, body: bytes, kind: str, more: dict[str, str] | None = None
    ) -> None:
        headers = dict(more or {})
        if len(body) >= COMPRESSED_FROM and "gzip" in self.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, 1)
            headers["Content-Encoding"] = "gzip"
        self._headers(status, kind, headers | {"Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _headers(self, status: HTTPStatus, kind: str, more: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Security-Policy": page.policy(page.LIVE),
            **guard.HEADERS,
            **more,
        }.items():
            self.send_header(name, value)
        self.end_headers()

    def version_string(self) -> str:
        return "dashboard"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: a page asks all night, and its address may hold the token."""


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 16:
        raise NotFound
    return min(int(text), LARGEST_NUMBER)


_ANSWERS: dict[str, Callable[[Handler, dict[str, str]], None]] = {
    "/": Handler._page,
    "/state": Handler._state,
    "/idea": Handler._idea,
    "/log": Handler._log,
    "/context": Handler._context,
    "/events": Handler._events,
}
