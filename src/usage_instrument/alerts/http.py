"""Webhooks: signed JSON, and the form that Slack and its like take."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from .delivery import TIMEOUT, DeliveryError
from .reports import Report, headline, one_line

SIGNATURE = "Usage-Instrument-Signature"
"""The header `t=SECONDS,v1=HEX`: HMAC-SHA-256 of `SECONDS.BODY` by the secret."""
_TRANSIENT = {408, 425, 429, *range(500, 600)}


@dataclass(frozen=True)
class Webhook:
    """Posts JSON with a signature."""

    name: str
    url: str = field(repr=False)
    secret: str = field(repr=False)

    def send(self, reports: Sequence[Report]) -> None:
        """Post them. Raises DeliveryError."""
        now = int(time.time())
        body = json.dumps({"version": 1, "sent_at": now, "reports": [each.as_json() for each in reports]}).encode()
        _post(self.url, body, {SIGNATURE: f"t={now},v1={signature(self.secret, now, body)}"})


@dataclass(frozen=True)
class Slack:
    """Posts a text as Slack's incoming webhooks take it, and those of Mattermost and Rocket.Chat."""

    name: str
    url: str = field(repr=False)

    def send(self, reports: Sequence[Report]) -> None:
        """Post them. Raises DeliveryError."""
        lines = [f"*{headline(reports)}*", *(_escaped(each.text) for each in reports)]
        _post(self.url, json.dumps({"text": "\n".join(lines)}).encode(), {})


def signature(secret: str, seconds: int, body: bytes) -> str:
    """The signature of a body at a time (seconds since 1970), in hexadecimal digits."""
    return hmac.new(secret.encode(), b"%d.%s" % (seconds, body), hashlib.sha256).hexdigest()


def url_mistake(url: str) -> str | None:
    """What is wrong with the URL of a webhook, without the URL itself, which may be a secret."""
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")  # as a connection does
    except ValueError:
        return "is no URL"
    if not is_whole:
        return "must begin with https:// (or http://) and a host"
    if parts.username is not None or parts.password is not None:
        return "must not contain a user or password: the signature proves the sender"
    if not url.isascii() or not all(character.isprintable() and character != " " for character in url):
        return "contains a space, a control character or a letter beyond ASCII: percent-encode it"
    return None


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    host = urlsplit(url).hostname
    request = urllib.request.Request(  # noqa: S310 - url_mistake allows http and https only
        url,
        body,
        {"Content-Type": "application/json", "User-Agent": "usage-instrument", **headers},
    )
    try:
        with _opener().open(request, timeout=TIMEOUT):
            return
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in range(300, 400):
            message = (
                f"{host} redirects (HTTP {error.code}), which is not followed: put the final address into the file"
            )
            raise DeliveryError(message, is_transient=False) from None
        after = _seconds(error.headers.get("Retry-After"))
        message = f"{host} answers with HTTP {error.code}"
        raise DeliveryError(message, is_transient=error.code in _TRANSIENT, retry_after=after) from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: the URL of a proxy
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        is_untrusted = isinstance(cause, ssl.SSLCertVerificationError)
        raise DeliveryError(f"{host} cannot be reached: {_reason(cause)}", is_transient=not is_untrusted) from None


def _reason(cause: BaseException | str) -> str:
    """Why there is no connection. A ValueError would repeat the URL of the proxy, which may have a password."""
    if isinstance(cause, OSError):
        return cause.strerror or one_line(str(cause)) or type(cause).__name__
    return one_line(cause) if isinstance(cause, str) else type(cause).__name__


def _opener() -> urllib.request.OpenerDirector:
    """Without redirects, which could carry the signature to another host, and without other schemes."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 6 else None


def _escaped(text: str) -> str:
    """Slack gives a meaning to these: `<!channel>` in the name of a feature would call everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
