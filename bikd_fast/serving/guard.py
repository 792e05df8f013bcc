"""Around every request: the size of its body, the time it may take to arrive, who may ask, and headers for browsers."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from bikd_fast.serving.measures import Measures
from bikd_fast.serving.settings import LOCAL_HOSTS, Limits
from bikd_fast.serving.uploads import Refused

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

DRAINED = 4  # times the largest upload is read before the connection is closed
OPEN = frozenset({"/", "/page.css", "/page.js", "/health"})  # hold nothing secret: the page asks for the token itself
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'"),
]


class Guard:
    """ASGI middleware. token: asked for as ``Authorization: Bearer TOKEN``; None asks nobody, and then only requests that name
    this machine are answered, and none that a browser sends for a page of another origin: no web page elsewhere can make the
    service work through a visitor's browser."""

    def __init__(self, app: Any, limits: Limits, measures: Measures, token: str | None, paths: frozenset[str]) -> None:
        self.app, self.limits, self.measures, self.token, self.paths = app, limits, measures, token, paths
        self.held = 0  # bytes of bodies that have arrived and are not answered yet

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        begin, status, started, held, bounded = time.perf_counter(), 500, False, 0, self._bounded(receive)

        async def arrive() -> Message:
            nonlocal held
            message = await bounded()
            arrived = len(message.get("body", b""))
            if self.held + arrived > self.limits.held_bytes:
                raise Refused(503, "the uploads that are on their way take too much memory; try again in a moment")
            held, self.held = held + arrived, self.held + arrived
            return message

        async def answer(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        try:
            self._admit(scope)
            await self.app(scope, arrive, answer)
        except Refused as stop:
            if not started:
                await _refuse(answer, stop.status, stop.reason)
        finally:
            self.held -= held
            path = scope["path"] if scope["path"] in self.paths else "other"  # a label a stranger cannot multiply
            self.measures.requests.labels(path, str(status)).inc()
            self.measures.seconds.labels(path).observe(time.perf_counter() - begin)

    def _admit(self, scope: Message) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self.token is None and _host(headers.get(b"host", b"").decode("latin-1")) not in LOCAL_HOSTS:
            raise Refused(421, "this service answers to the machine it runs on; start it with a token to be asked from elsewhere")
        if self.token is None and scope["method"] == "POST" and _foreign(headers):
            raise Refused(403, "a web page of another origin sent this; start the service with a token to be asked by other pages")
        if self.token is not None and scope["path"] not in OPEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self.token.encode()):
                raise Refused(401, "a token is needed: Authorization: Bearer TOKEN")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            raise Refused(400, "Content-Length is no number")
        if len(length) > 18 or int(length) > DRAINED * self.limits.upload_bytes:
            raise self._too_long()

    def _too_long(self) -> Refused:
        return Refused(413, f"the upload has more than the {self.limits.upload_bytes} bytes allowed")

    def _bounded(self, receive: Receive) -> Receive:
        """receive, refusing a body that grows too long (whatever its header said) or arrives too slowly."""
        total, deadline, done = 0, time.monotonic() + self.limits.seconds, False

        async def part() -> Message:
            nonlocal total, done
            try:
                message = await asyncio.wait_for(receive(), max(0.01, deadline - time.monotonic()))
            except TimeoutError:
                raise Refused(408, f"the upload did not arrive within {self.limits.seconds:.0f} seconds") from None
            total += len(message.get("body", b""))
            done = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def bounded() -> Message:
            if done:
                return await receive()  # waits for the client to go away, for as long as that takes
            message = await part()
            if total > self.limits.upload_bytes:
                while not done and total <= DRAINED * self.limits.upload_bytes:
                    await part()  # thrown away: a client that is cut off while it sends does not see why
                raise self._too_long()
            return message

        return bounded


def _foreign(headers: dict[bytes, bytes]) -> bool:
    """Whether a browser says that a page of another origin than this service's own sent the request."""
    origin, own = headers.get(b"origin"), headers.get(b"host", b"")
    foreign = origin is not None and origin.partition(b"://")[2].lower() != own.lower()
    return foreign or headers.get(b"sec-fetch-site") == b"cross-site"


def _host(header: str) -> str:
    """``127.0.0.1:8000`` -> ``127.0.0.1``; ``[::1]:8000`` -> ``::1``."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in extra_headers(status).items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def extra_headers(status: int) -> dict[str, str]:
    """What goes with a refusal of this status."""
    if status == 401:
        return {"www-authenticate": "Bearer"}
    if status == 503:
        return {"retry-after": "1"}
    return {"connection": "close"} if status in (408, 413) else {}  # the rest of the body is not read
