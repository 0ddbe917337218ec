"""A token instead of a login, for a dashboard that one person serves."""

from __future__ import annotations

import hashlib
import hmac

from usage_instrument.errors import ConfigurationError
from usage_instrument.typing import ASGIApp, Receive, Scope, Send

from .asgi import request_of, respond
from .html import address
from .http import asset, redirect
from .site import refusal

PARAMETER = "token"
SHORTEST = 16
"""Characters. A shorter token can be guessed."""


class TokenAuth:
    """Accepts a token: in the address once, then as a cookie, or as `Authorization: Bearer …`."""

    def __init__(self, secret: str) -> None:
        secret = secret.strip()
        if len(secret) < SHORTEST or not secret.isprintable() or not secret.isascii():
            raise ConfigurationError(
                f"a token has at least {SHORTEST} printable ASCII characters; `openssl rand -hex 16` makes one"
            )
        self.secret = secret
        digest = hashlib.sha256(b"usage-instrument dashboard " + secret.encode()).hexdigest()
        # Other servers on this host see the cookie: it does not contain the token, and its name is its own.
        self._name, self._value = f"usage_instrument_{digest[:8]}", digest[8:]

    def authorize(self, scope: Scope) -> bool:
        """Whether the request carries the token in a header."""
        headers = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
        for name, value in headers:
            if name == b"authorization" and value[:7].lower() == "bearer " and self._is_secret(value[7:].strip()):
                return True
            if name == b"cookie" and self._is_cookie(value):
                return True
        return False

    def _is_secret(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.secret.encode())

    def _is_cookie(self, header: str) -> bool:
        # The parser of the standard library gives up on cookies that other servers of this host may have set.
        values = (
            value.strip()
            for name, _, value in (part.partition("=") for part in header.split(";"))
            if name.strip() == self._name
        )
        return any(hmac.compare_digest(value.encode("utf-8", "replace"), self._value.encode()) for value in values)

    def protect(self, app: ASGIApp) -> ASGIApp:
        """The app behind the exchange of the token in the address for a cookie."""

        async def protected(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            request = request_of(scope)
            parameters = request.parameters() or {}
            if self._is_secret(parameters.pop(PARAMETER, "")):
                cookie = f"{self._name}={self._value}; HttpOnly; Path=/; SameSite=Strict"
                here = address(f"./{request.path.rpartition('/')[2]}", **parameters)
                await respond(redirect(here, ("Set-Cookie", cookie)), scope, send)
            elif self.authorize(scope) or asset(request.path) is not None:
                await app(scope, receive, send)
            else:
                challenge = ("WWW-Authenticate", 'Bearer realm="usage-instrument"')
                advice = "Open the address that `usage-instrument dashboard` printed, with its token."
                await respond(refusal(401, advice, extra=(challenge,)), scope, send)

        return protected
