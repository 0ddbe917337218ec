"""A token instead of a login, for a dashboard that one person serves."""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import quote

from usage_instrument.errors import ConfigurationError
from usage_instrument.typing import ASGIApp, Receive, Scope, Send

from .asgi import request_of, respond
from .html import address
from .http import asset, redirect
from .site import refusal

PARAMETER = "token"
SHORTEST = 16
"""Characters. A shorter token can be guessed."""
DIFFERENT = 8
"""Different characters: so can a repeated one."""


class TokenAuth:
    """Accepts a token: in the address once, then as a cookie, or as `Authorization: Bearer …`."""

    def __init__(self, secret: str) -> None:
        secret = secret.strip()
        if len(secret) < SHORTEST or not secret.isprintable() or not secret.isascii() or len(set(secret)) < DIFFERENT:
            raise ConfigurationError(
                f"a token has at least {SHORTEST} printable ASCII characters, {DIFFERENT} of them different; "
                "`openssl rand -hex 16` makes one"
            )
        self.secret = secret
        digest = hashlib.sha256(b"usage-instrument dashboard " + secret.encode()).hexdigest()
        # A cookie knows no port: other servers on this host get it for the same path. So the path cannot be guessed,
        # and the cookie does not contain the token.
        self.prefix = hashlib.sha256(b"usage-instrument path " + secret.encode()).hexdigest()[:24]
        """The path below which the pages are, and the cookie is valid."""
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
            is_inside = request.path.startswith(f"/{self.prefix}/")
            if self._is_secret(parameters.get(PARAMETER, "")):
                name = quote(request.path.rpartition("/")[2], errors="replace")
                if is_inside:
                    del parameters[PARAMETER]
                    # Without a path: that of this address, by any mount and proxy.
                    cookie = ("Set-Cookie", f"{self._name}={self._value}; HttpOnly; SameSite=Strict")
                    await respond(redirect(address(f"./{name}", **parameters), cookie), scope, send)
                else:
                    await respond(redirect(address(f"./{self.prefix}/{name}", **parameters)), scope, send)
            elif self.authorize(scope) or asset(f"/{request.path.rpartition('/')[2]}") is not None:
                if is_inside:
                    scope = {
                        **scope,
                        "root_path": f"{request.mount}/{self.prefix}",
                        "path": request.mount + request.path,
                    }
                await app(scope, receive, send)
            else:
                challenge = ("WWW-Authenticate", 'Bearer realm="usage-instrument"')
                advice = "Open the address that `usage-instrument dashboard` printed, with its token."
                await respond(refusal(401, advice, extra=(challenge,)), scope, send)

        return protected
