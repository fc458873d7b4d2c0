"""What stands before the routes: keys, limits on the body, pages of foreign origins, and the count of requests."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fourstroke.serve.config import ServeConfig
from fourstroke.serve.errors import ApiError, response_of
from fourstroke.serve.metrics import Metrics

ROUTES = (
    "/", "/health", "/metrics", "/openapi.json", "/v1/models", "/v1/images/generations", "/v1/images/edits",
    "/v1/prompts/enhance",
)  # fmt: skip


class AuthMiddleware:
    """ASGI middleware; refuses before a body is read, and never reads more of one than is allowed."""

    def __init__(self, app: ASGIApp, config: ServeConfig, metrics: Metrics) -> None:
        self.app, self.config, self.metrics = app, config, metrics
        self._keys = [hashlib.sha256(key.encode()).digest() for key in config.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer why not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope["path"] if scope["path"] in ROUTES else "other"
                self.metrics.requests.add(route=route, status=str(message["status"]))
            await send(message)

        if scope["method"] == "HEAD":  # as GET, without the body
            scope, answer = {**scope, "method": "GET"}, counted

            async def counted(message: Message) -> None:
                await answer(message if message["type"] == "http.response.start" else {**message, "body": b""})

        try:
            scope.setdefault("state", {})["caller"] = self._check(scope)
        except ApiError as error:
            await response_of(error)(scope, receive, counted)
            return
        await self.app(scope, self._limited(receive), counted)

    def _check(self, scope: Scope) -> str:
        """Who asks: the number of the key, or the address."""
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.config.body_bytes:
            raise self._too_large()
        origin = headers.get("origin")
        if origin and not self._own(origin, headers.get("host", "")) and not self._welcome(origin):
            raise ApiError(403, f"pages from {origin} may not use this server (--cors allows them)")
        path = scope["path"]
        if not self._keys or scope["method"] == "OPTIONS" or not (path.startswith("/v1/") or path == "/metrics"):
            client = scope.get("client")
            return client[0] if client else ""
        kind, _, given = headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(given.strip().encode()).digest()
        found = [hmac.compare_digest(digest, key) for key in self._keys]  # all of them, in constant time
        if kind.lower() != "bearer" or not any(found):
            scheme = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, "send a valid API key as a bearer token", code="invalid_api_key", headers=scheme)
        return f"key {found.index(True)}"

    def _own(self, origin: str, host: str) -> bool:
        """Whether a page came from this server; a name that was made to point at a loopback address is none of its."""
        try:
            found = urlsplit(origin)
            local = not self.config.loopback or found.hostname in ("localhost", "127.0.0.1", "::1", self.config.host)
        except ValueError:
            return False
        return found.netloc == host and local

    def _welcome(self, origin: str) -> bool:
        return "*" in self.config.cors_origins or origin in self.config.cors_origins

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is over {self.config.body_bytes} bytes", code="body_too_large")

    def _limited(self, receive: Receive) -> Receive:
        """`receive` that counts the body and its time; what comes after the body may take for ever."""
        taken, complete = 0, False
        deadline = asyncio.get_running_loop().time() + self.config.body_seconds

        async def limited() -> Message:
            nonlocal taken, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise ApiError(408, f"the body took longer than {self.config.body_seconds:g} s") from None
            taken += len(message.get("body", b""))
            complete = message["type"] == "http.request" and not message.get("more_body", False)
            if taken > self.config.body_bytes:
                raise self._too_large()
            return message

        return limited
