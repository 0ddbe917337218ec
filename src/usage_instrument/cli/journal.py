"""`usage-instrument journal`: what dead processes left behind, shown and brought into the tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, TypeAlias
from uuid import UUID

import typer
from sqlalchemy import MetaData

from usage_instrument.database import engines
from usage_instrument.database.ledger import Ledger
from usage_instrument.database.schema import define_tables
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError
from usage_instrument.events import canonical_user, in_words
from usage_instrument.pipeline.journal import JournalStatus, check_root, status
from usage_instrument.pipeline.recovery import Recovery
from usage_instrument.pipeline.store import Store, WriteError
from usage_instrument.settings import ENVIRONMENT_PREFIX, Settings

from .errors import PROBLEMS, explained, fail
from .options import Format, Output, Schema, Url, UserIdKind, UserIds, required
from .output import show

JournalRoot: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--journal", envvar=f"{ENVIRONMENT_PREFIX}JOURNAL", show_envvar=True, help="The directory of the journals."
    ),
]

journal = typer.Typer(help="The journals of dead processes: show them, recover them.", no_args_is_help=True)


@journal.command("status")
def status_(place: JournalRoot = None, url: Url = None, schema: Schema = None, output: Output = Format.TABLE) -> None:
    """Show what is pending, by writer; leaves with 1 if something is parked.

    With --url, batches that the database has applied are not shown as pending.
    """
    directory = _directory(place)
    try:
        if url:
            with _store(url, schema, UserIdKind.UUID) as (store, tables, _):
                found = list(status(directory, lambda writer: _last_batch(store, tables, writer)))
        else:
            found = list(status(directory))
    except FileNotFoundError:
        raise fail(f"there is no directory {directory}: no process has kept a journal there") from None
    except (OSError, WriteError) as error:
        raise fail(str(error)) from None
    show([_row(each) for each in found], output, empty="Nothing is pending: every process has ended cleanly.")
    if any(each.state == "parked" for each in found):
        raise typer.Exit(PROBLEMS)


@journal.command()
def recover(
    place: JournalRoot = None,
    url: Url = None,
    schema: Schema = None,
    user_id_type: UserIds = UserIdKind.UUID,
) -> None:
    """Bring the uses of dead processes into the tables, each once; leaves with 1 if something is left.

    It may be killed at any instant, and may run beside others and beside the app.
    """
    directory = _directory(place)
    with _store(required(url), schema, user_id_type) as (store, tables, said):
        recovered = Recovery(
            directory,
            engines.named(required(url), schema),
            said,
            canonical_user(said.user_id_type),
            lambda writer: Ledger(tables, said.service, writer),
        ).run(store)
    lost = recovered.dropped + recovered.rejected
    journals = "1 journal" if recovered.journals == 1 else f"{recovered.journals} journals"
    typer.echo(
        f"{journals} recovered: {in_words(recovered.written)} written"
        + (f", {in_words(lost)} dropped or rejected (see feature_usage_losses)" if lost else "")
        + "."
    )
    for path in recovered.parked:
        typer.echo(f"set aside: {path}: {recovered.last_error}", err=True)
    for path in recovered.unfinished:
        typer.echo(f"not finished, run this again: {path}: {recovered.last_error}", err=True)
    if recovered.parked or recovered.unfinished:
        raise typer.Exit(PROBLEMS)


def _directory(place: str | None) -> str:
    if not place:
        raise fail(f"which directory? Pass --journal, or set {ENVIRONMENT_PREFIX}JOURNAL")
    return checked_root(place)


def checked_root(place: str) -> str:
    """The directory itself, if a journal can be kept there; the command ends if not."""
    try:
        check_root(place)
    except ConfigurationError as error:
        raise fail(str(error)) from None
    return place


@contextmanager
def _store(url: str, schema: str | None, user_id_type: UserIdKind) -> Iterator[tuple[Store, Tables, Settings]]:
    with explained(engines.url_of(engines.parse(url))):
        # All else as the app has it: whose losses these are, and the grain of the history.
        said = replace(
            Settings.from_environment(enabled=True), schema=schema, users=None, user_id_type=user_id_type.value
        )
        tables = define_tables(MetaData(), schema=said.schema, users=None, user_id_type=said.user_id_type)
        store = Store(engines.connect(url, said.statement_timeout), tables, said)
        try:
            yield store, tables, said
        finally:
            store.dispose()


def _last_batch(store: Store, tables: Tables, writer: UUID) -> int:
    position = store.position(Ledger(tables, "", writer))
    return position if isinstance(position, int) else 0


def _row(found: JournalStatus) -> dict[str, Any]:
    return {
        "writer": str(found.writer),
        "state": found.state,
        "pending": found.pending,
        "in_batches": found.in_batches,
        "losses": found.losses,
        "bytes": found.bytes,
        "silent_seconds": None if found.silent is None else round(found.silent, 1),
        "note": found.note,
    }
