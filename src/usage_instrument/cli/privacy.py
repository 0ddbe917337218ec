"""`usage-instrument forget`, `export`, `opt-out`, `opt-in`, `merge`: the rights of users."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import typer

from usage_instrument.database import engines
from usage_instrument.errors import IdentifiedUserError, UnknownUserError
from usage_instrument.events import canonical_user
from usage_instrument.pipeline.backend import Backend
from usage_instrument.privacy.api import Privacy
from usage_instrument.privacy.erasure import Receipt
from usage_instrument.privacy.merge import MergeReceipt
from usage_instrument.settings import Settings

from .database import read
from .errors import PROBLEMS, explained, fail
from .journal import JournalRoot, checked_root
from .options import Output, Schema, Url, required
from .output import show

T = TypeVar("T")

User: TypeAlias = Annotated[str, typer.Argument(help="The user's id.")]


def forget(
    user: User,
    url: Url = None,
    schema: Schema = None,
    journal: JournalRoot = None,
    keep_audit: Annotated[bool, typer.Option("--keep-audit", help="Keep the user in the audit trail.")] = False,
    actor: Annotated[
        str | None, typer.Option("--as", metavar="USER", help="Who orders it: your id, for the audit trail.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also erase a user without any stored data.")] = False,
    output: Output = "table",
) -> None:
    """Erase a user from every table, buffer and journal, and print a receipt that does not identify the user.

    Running processes follow within their flush interval. Exits with 1 if a journal may still name the user. Reads the
    secret from USAGE_INSTRUMENT_PRIVACY_KEY.
    """

    def erase(privacy: Privacy) -> Receipt:
        try:
            return privacy.forget(user, actor=actor, keep_audit=keep_audit, force=force)
        except UnknownUserError:
            raise fail("there is no trace of this user; to forget them all the same, pass --force") from None

    receipt = _with_privacy(url, schema, journal, erase)
    rows: list[dict[str, Any]] = [
        {"what": table, "rows": number, "status": "deleted"} for table, number in receipt.deleted.items()
    ]
    rows.append({"what": "audit trail", "rows": receipt.pseudonymised, "status": "pseudonymised"})
    if keep_audit:
        rows[-1] = {"what": "audit trail", "rows": receipt.kept, "status": "kept, as asked"}
    rows += [{"what": directory, "rows": None, "status": "may still name the user"} for directory in receipt.journals]
    show(rows, output, empty="")
    if receipt.journals:
        typer.echo("usage-instrument: see `usage-instrument journal status`, and delete parked journals", err=True)
        raise typer.Exit(PROBLEMS)


def export(
    user: User,
    to: Annotated[
        Path | None, typer.Option("--output", "-o", dir_okay=False, help="A file to write to, instead of the terminal.")
    ] = None,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Write all data of a user as JSON."""
    data = _with_privacy(url, schema, None, lambda privacy: privacy.export(user))
    text = json.dumps(data, indent=2, ensure_ascii=to is None)
    if to is None:
        typer.echo(text)
    else:
        to.write_text(text + "\n", encoding="utf-8")


def opt_out(user: User, url: Url = None, schema: Schema = None) -> None:
    """Stop counting a user in all processes, from their next flush on. Existing counts stay."""
    _with_privacy(url, schema, None, lambda privacy: privacy.opt_out(user))
    typer.echo("Opted out: every process stops counting within its flush interval.")


def opt_in(user: User, url: Url = None, schema: Schema = None) -> None:
    """Count a user again."""
    _with_privacy(url, schema, None, lambda privacy: privacy.opt_in(user))
    typer.echo("Opted in: every process counts again within its flush interval.")


def merge(
    guest: Annotated[str, typer.Argument(help="The id that the guest was counted under.")],
    user: User,
    url: Url = None,
    schema: Schema = None,
    force: Annotated[bool, typer.Option("--force", help="Also if the guest is in the users table.")] = False,
    output: Output = "table",
) -> None:
    """Move the counts, history and exposures of a guest to a user, and print a receipt.

    Uses that running processes have not written yet stay the guest's: run it again for them. Reads the secret from
    USAGE_INSTRUMENT_PRIVACY_KEY, which is needed where users are suppressed.
    """

    def move(privacy: Privacy) -> MergeReceipt:
        try:
            return privacy.merge(guest=guest, user=user, force=force)
        except IdentifiedUserError:
            raise fail("the guest is in the users table; to merge two users, pass --force") from None

    receipt = _with_privacy(url, schema, None, move)
    show([{"what": table, "rows": number} for table, number in receipt.moved.items()], output, empty="")
    if receipt.suppressed:
        typer.echo(
            "usage-instrument: the guest or the user is erased or opted out: the rows stay the guest's", err=True
        )
        raise typer.Exit(PROBLEMS)


def _with_privacy(url: str | None, schema: str | None, journal: str | None, work: Callable[[Privacy], T]) -> T:
    place = required(url)
    tables = read(url, schema, lambda connection, tables: tables)
    directory = checked_root(journal) if journal else None
    with explained(engines.url_of(engines.parse(place))):
        settings = replace(
            Settings.from_environment(enabled=True),
            schema=schema,
            user_id_type=tables.user_id_type,
            journal=directory,
        )
        return work(Privacy(Backend(place, settings, tables), settings, canonical_user(tables.user_id_type)))
