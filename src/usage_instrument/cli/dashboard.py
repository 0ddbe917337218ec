"""`usage-instrument dashboard`: serves the pages to visitors that have the token."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import stat
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from usage_instrument import Tracker
from usage_instrument.database import engines
from usage_instrument.queries.arguments import user_id
from usage_instrument.settings import Settings
from usage_instrument.typing import Scope, UserId

from .database import ask, parsed
from .errors import explained, fail
from .options import Schema, StandbyUrl, Url, Zone, chosen_read_url, required

PORT = 8765


def dashboard(
    context: typer.Context,
    url: Url = None,
    read_url: StandbyUrl = None,
    schema: Schema = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="The port; 0 takes a free one.")] = PORT,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Read the token from this file. Default: a random token.", dir_okay=False),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Group users by this column of the users table, such as users.plan."),
    ] = None,
    audit_as: Annotated[
        str | None,
        typer.Option(metavar="USER", help="Open the audit trail too, and record each look at it as this user's."),
    ] = None,
    tz: Zone = None,
) -> None:
    """Serve the dashboard: features, users, trends and spikes in the browser."""
    # Imported here: the other commands do not wait for a web server.
    import uvicorn

    from usage_instrument.dashboard.asgi import Dashboard
    from usage_instrument.dashboard.token_auth import PARAMETER, TokenAuth

    read_url = chosen_read_url(context, read_url)
    database, shown_database = parsed(required(url or read_url)), parsed(required(read_url or url))
    if token_file is None and not _is_loopback(host):
        raise fail(
            f"{host} is open to other machines, and the dashboard shows who used what: keep a token of your own in a "
            "file, pass --token-file, and put TLS in front"
        )
    with explained(database):
        auth = TokenAuth(_read(token_file) if token_file is not None else secrets.token_urlsafe(24))
    # Reports a wrong database before it serves.
    tables = ask(read_url or url, schema, lambda connection, tables: tables)
    user = None if audit_as is None else user_id(audit_as, tables)
    if audit_as is not None and user is None:
        raise fail("--audit-as takes the id of the user who looks at the audit trail, not 'anonymous'")
    with explained(database):
        audit = {} if user is None else _audit_options(auth, user, Tracker(database, _settings(), tables))
        app = auth.protect(
            Dashboard(shown_database, authorize=auth.authorize, schema=schema, tz=tz, user_groups=group or (), **audit)
        )
    listening = _listen(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/{auth.prefix}/"
    shown = auth.secret if token_file is None else f"(the content of {token_file})"
    typer.echo(
        f"The dashboard of {engines.masked(shown_database)}:\n\n  {address}?{PARAMETER}={shown}\n\nCtrl-C ends it."
    )
    # No access log: it would contain the token.
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", server_header=False)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        if audit:
            audit["tracker"].shutdown()


def _audit_options(auth: Any, user: UserId, tracker: Tracker) -> dict[str, Any]:
    """The options that open the audit trail to visitors with the token, and record them as this user."""

    def authorize(scope: Scope) -> bool:
        tracker.identify(user)
        return bool(auth.authorize(scope))

    return {"authorize_audit": authorize, "tracker": tracker}


def _settings() -> Settings:
    # Without a journal: it belongs to the app, and each look is committed before its page is sent.
    return replace(Settings.from_environment(), journal=None, writer="process", service="usage-instrument dashboard")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(file: Path) -> str:
    try:
        if os.name == "posix" and file.stat().st_mode & (stat.S_IRWXO | stat.S_IWGRP):
            raise fail(f"the token in {file} is open to other users of this machine: run `chmod 600 {file}`")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise fail(f"the token cannot be read from {file}: {error}") from None


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise fail(f"cannot listen at {host}, port {port}: {error.strerror}; --port 0 takes a free one") from None
