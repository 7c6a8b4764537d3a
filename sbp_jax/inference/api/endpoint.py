"""A server's address and key, one attempt at a time, and what came of it.

Results are values, not exceptions: those of httpx carry the request, and with it the key. The key
is read from the environment at each request and kept nowhere.
"""

import asyncio
import json
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from sbp_jax.config import ApiConfig
from sbp_jax.errors import UserError
from sbp_jax.inference.api import wire
from sbp_jax.inference.api.pace import asked_wait

if TYPE_CHECKING:
    import httpx


class Trouble(NamedTuple):
    """Why an attempt brought no reply."""

    kind: str  # refused: the request's fault | busy, unreachable: the server's | broken: who knows
    reason: str
    wait: float | None = None  # seconds that the server asks for
    unused: bool = True  # no model has worked on it


class Endpoint:
    def __init__(self, config: ApiConfig):
        import httpx

        try:
            url = httpx.URL(config.url)
        except httpx.InvalidURL:
            url = httpx.URL("")
        whole = url.scheme in ("http", "https") and url.host and (url.port or 0) < 1 << 16
        if not whole or url.userinfo or url.query:
            # It is not shown: one with more in it than a place may hold a key.
            raise UserError("config.api.url is not of the form http://HOST:PORT/PATH, and no more")
        self._config = config
        self._key()
        self.url = config.url.rstrip("/")
        self.protocol = wire.PROTOCOLS[config.protocol]
        self.answered = 0  # requests, ever

    def client(self) -> "httpx.AsyncClient":
        import httpx

        count, seconds = self._config.concurrency, self._config.timeout_s
        return httpx.AsyncClient(
            auth=self._sign,
            headers={"content-type": "application/json", **self.protocol.headers},
            timeout=httpx.Timeout(None, connect=min(30.0, seconds)),
            # Servers close idle connections after about five seconds: be the first.
            limits=httpx.Limits(
                max_connections=count, max_keepalive_connections=count, keepalive_expiry=2.0
            ),
        )

    async def attempt(
        self, client: "httpx.AsyncClient", path: str, content: bytes
    ) -> wire.Reply | Trouble:
        """`UserError` for what no other request would do better with."""
        import httpx

        seconds = self._config.timeout_s
        try:
            async with asyncio.timeout(seconds):  # of the whole: httpx' own are for each read
                response = await client.post(self.url + path, content=content)
        except TimeoutError:
            return Trouble("broken", f"no whole answer within {seconds:g} s", unused=False)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            reason = self._plain(f"no connection ({error or type(error).__name__})")
        except httpx.RequestError as error:
            reason = f"the connection was cut ({type(error).__name__})"
            return Trouble("broken", reason, unused=False)
        else:
            return self._judge(response)
        if not self.answered:
            raise UserError(
                f"{self.url}: {reason}; start the server there, or correct config.api.url"
            )
        return Trouble("unreachable", reason)

    def _judge(self, response: "httpx.Response") -> wire.Reply | Trouble:
        status = response.status_code
        if response.is_success:
            try:
                reply = self.protocol.reply(json.loads(response.content))
            except wire.MALFORMED:
                said = self._plain(response.text)
                return Trouble("broken", f"malformed answer: {said}", unused=False)
            self.answered += 1
            return reply._replace(error=self._plain(reply.error))
        reason = f"HTTP {status}: {self._plain(_message(response))}"
        if status in (401, 402) or (status == 403 and not self.answered):
            variable = self._config.key_variable
            raise UserError(
                f"{self.url}: {reason}; "
                + (
                    f"put a key that is good there into the environment variable {variable}"
                    if variable
                    else "name the environment variable that holds a key in config.api.key_variable"
                )
            )
        if (status < 400 or status == 404) and not self.answered:
            raise UserError(f"{self.url}: {reason}; correct config.api.url or config.api.model")
        wait = asked_wait(response.headers)
        if status in (429, 503, 529):
            return Trouble("busy", reason, wait)
        if status in (408, 409, 425) or status >= 500:
            return Trouble("broken", reason, wait)
        return Trouble("refused", reason)

    def _sign(self, request: "httpx.Request") -> "httpx.Request":
        if self._config.key_variable:
            name, value = self.protocol.key_header
            request.headers[name] = value.format(self._key())
        return request

    def _key(self) -> str:
        variable = self._config.key_variable
        if not variable:
            return ""
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
            raise UserError(  # without its value, which may be the key itself
                "config.api.key_variable has to be the name of an environment variable, such as "
                "OPENAI_API_KEY"
            )
        key = os.environ.get(variable, "").strip()
        if not re.fullmatch(r"[!-~]+", key):  # httpx would show one that fits in no header
            raise UserError(
                f"the environment variable {variable} holds no key; set it, or change "
                "config.api.key_variable"
            )
        return key

    def _plain(self, text: str) -> str:
        """What a server said, fit for a message of one line; some repeat the key."""
        hidden = text.replace(self._key(), "[key]") if self._config.key_variable else text
        return " ".join(hidden.split())[:300]


def _message(response: "httpx.Response") -> str:
    """The words of an error: both protocols have them at error.message, others elsewhere."""
    try:
        body = json.loads(response.content)
        error = body.get("error", body)
        return str(error.get("message") or error.get("detail") or error)
    except (ValueError, AttributeError, RecursionError):
        return response.text or response.headers.get("location", "") or response.reason_phrase
