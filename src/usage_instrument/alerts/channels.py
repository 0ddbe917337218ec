"""The channels of a file of rules. Secrets come from the environment; the file only names the variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from .delivery import Channel
from .entries import Entries
from .http import Slack, Webhook, url_mistake
from .mail import PORTS, Mail, Security
from .stdout import Stdout

SHORTEST_SECRET = 16
"""Characters."""
_ADDRESS = re.compile(r"[!-;=?A-~]+@[!-;=?A-~]+")


def channel_of(name: str, entries: Entries, environment: Mapping[str, str] | None) -> Channel | None:
    """The channel of a table; None after a mistake. Without an environment, variables are not looked up."""
    before = len(entries.mistakes)
    kind = entries.one_of("type", _KINDS)
    if kind is None:
        return None
    found = _KINDS[kind](name, entries, environment)
    entries.finish()
    return found if len(entries.mistakes) == before else None


def _webhook(name: str, entries: Entries, environment: Mapping[str, str] | None) -> Channel:
    url = _url(entries, environment)
    fix = "secret_env is missing: name the environment variable with the secret of the signature"
    secret = _secret(entries, "secret_env", environment, fix=fix)
    if environment is not None and secret is not None and len(secret) < SHORTEST_SECRET:
        variable = entries.given["secret_env"]
        entries.wrong(f"the secret in ${variable} is shorter than {SHORTEST_SECRET} characters: generate a random one")
    return Webhook(name, url, secret or "")


def _slack(name: str, entries: Entries, environment: Mapping[str, str] | None) -> Channel:
    return Slack(name, _url(entries, environment))


def _mail(name: str, entries: Entries, environment: Mapping[str, str] | None) -> Channel:
    security = cast("Security | None", entries.one_of("security", PORTS, "starttls"))
    host = entries.text("host", fix="host is missing: write host = 'smtp.example.com'")
    if host is not None and not _is_host(host):
        entries.wrong(f"host must be the name of a server, not {host!r}: write host = 'smtp.example.com'")
    sender = entries.text("from", fix="from is missing: write from = 'usage@example.com'")
    recipients = entries.texts("to", fix="to is missing: write to = ['ops@example.com']")
    for address in (sender, *(recipients or ())):
        if address is not None and not _ADDRESS.fullmatch(address):
            entries.wrong(f"{address!r} is no plain address: write name@example.com")
    port = entries.number("port")
    if port is not None and not (isinstance(port, int) and 0 < port < 65536):
        entries.wrong(f"port must be a number from 1 to 65535, not {port}")
    user, ca_file = entries.text("user"), entries.text("ca_file")
    password = _secret(entries, "password_env", environment)
    if ("user" in entries.given) != ("password_env" in entries.given):
        entries.wrong("user and password_env belong together: write both or neither")
    if not all(each is None or each.isascii() for each in (user, password)):
        entries.wrong("user and password must be ASCII, as SMTP logins are: use an app password")
    if user is not None and security == "none":
        entries.wrong("security = 'none' would send the password in the clear: choose starttls or tls")
    if ca_file is not None and environment is not None and not Path(ca_file).is_file():
        entries.wrong(f"there is no file {ca_file}: ca_file is a PEM file of certificates")
    return Mail(
        name,
        host or "",
        int(port or PORTS[security or "starttls"]),
        security or "starttls",
        sender or "",
        recipients or (),
        user,
        password,
        ca_file,
    )


def _is_host(name: str) -> bool:
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return name.isprintable() and name.count(":") != 1 and not {" ", "/", "@"} & {*name}  # "::1" is a host


def _stdout(name: str, entries: Entries, environment: Mapping[str, str] | None) -> Channel:
    chosen: Any = entries.one_of("format", ("text", "json"), "text")
    return Stdout(name, chosen)


_KINDS: dict[str, Callable[[str, Entries, Mapping[str, str] | None], Channel]] = {
    "webhook": _webhook,
    "slack": _slack,
    "email": _mail,
    "stdout": _stdout,
}


def _url(entries: Entries, environment: Mapping[str, str] | None) -> str:
    """The URL of a webhook, from the file or from a variable."""
    url, variable = entries.text("url"), entries.text("url_env")
    if ("url" in entries.given) == ("url_env" in entries.given):
        entries.wrong("write either url, or url_env with the environment variable that contains it")
        return ""
    source = "url"
    if variable is not None:
        url, source = _secret(entries, "url_env", environment), f"the URL in ${variable}"
    mistake = url_mistake(url) if url else None
    if mistake is not None:
        entries.wrong(f"{source} {mistake}")
    return url or ""


def _secret(entries: Entries, key: str, environment: Mapping[str, str] | None, *, fix: str | None = None) -> str | None:
    """The value of the variable that a key names."""
    variable = entries.text(key, fix=fix)
    if variable is None or environment is None:
        return None
    value = environment.get(variable)
    if not value:
        entries.wrong(f"the environment variable {variable} is not set: {key} names it")
    return value
