"""`usage-instrument journal`: shows the journals of dead processes, and writes them to the tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, TypeAlias
from uuid import UUID

import typer

from usage_instrument.database import engines
from usage_instrument.database.ledger import Ledger
from usage_instrument.database.schema import default_tables
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError
from usage_instrument.events import canonical_user, uses_text
from usage_instrument.pipeline.journal import check_root, status
from usage_instrument.pipeline.recovery import Recovery
from usage_instrument.pipeline.store import Store, WriteError
from usage_instrument.settings import ENVIRONMENT_PREFIX, Settings
from usage_instrument.typing import UserIdType

from .errors import PROBLEMS, explained, fail
from .options import Output, Schema, Url, UserIds, required
from .output import show

JournalRoot: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--journal", envvar=f"{ENVIRONMENT_PREFIX}JOURNAL", show_envvar=True, help="The directory of the journals."
    ),
]

journal = typer.Typer(help="The journals of dead processes: show them, recover them.", no_args_is_help=True)


@journal.command("status")
def status_(root: JournalRoot = None, url: Url = None, schema: Schema = None, output: Output = "table") -> None:
    """Show what is pending, by writer. The exit code is 1 if a journal is parked.

    With --url, batches that the database has applied do not count as pending.
    """
    directory = required_root(root)
    try:
        if url:
            settings = writing_settings(schema, "uuid")
            tables = default_tables(schema, "uuid")
            with writing_store(url, tables, settings, settings.statement_timeout) as store:
                found = list(status(directory, lambda writer: _last_batch(store, tables, writer)))
        else:
            found = list(status(directory))
    except FileNotFoundError:
        raise fail(f"there is no directory {directory}: no process has kept a journal there") from None
    except (OSError, WriteError) as error:
        raise fail(str(error)) from None
    rows = [
        {
            "writer": str(each.writer),
            "state": each.state,
            "pending": each.pending,
            "in_batches": each.in_batches,
            "losses": each.losses,
            "bytes": each.bytes,
            "silent_seconds": None if each.silent is None else round(each.silent, 1),
            "note": each.note,
        }
        for each in found
    ]
    show(rows, output, empty="Nothing is pending: every process has ended cleanly.")
    if any(each.state == "parked" for each in found):
        raise typer.Exit(PROBLEMS)


@journal.command()
def recover(root: JournalRoot = None, url: Url = None, schema: Schema = None, user_id_type: UserIds = "uuid") -> None:
    """Write the uses of dead processes to the tables, each once. The exit code is 1 if some are left.

    It may be killed at any instant, and may run beside others and beside the app.
    """
    directory = required_root(root)
    settings, tables = writing_settings(schema, user_id_type), default_tables(schema, user_id_type)
    with writing_store(required(url), tables, settings, settings.statement_timeout) as store:
        recovered = Recovery(
            directory,
            engines.named(required(url), schema),
            settings,
            canonical_user(settings.user_id_type),
        ).run(store)
    lost = recovered.dropped + recovered.rejected
    typer.echo(
        f"{recovered.journals} {'journal' if recovered.journals == 1 else 'journals'} recovered: "
        f"{uses_text(recovered.written)} written"
        + (f", {uses_text(lost)} dropped or rejected (see feature_usage_losses)" if lost else "")
        + "."
    )
    for path in recovered.parked:
        typer.echo(f"parked: {path}: {recovered.last_error}", err=True)
    for path in recovered.unfinished:
        typer.echo(f"not finished, run this again: {path}: {recovered.last_error}", err=True)
    if recovered.parked or recovered.unfinished:
        raise typer.Exit(PROBLEMS)


def checked_root(root: str) -> str:
    """The directory itself, if a journal can be kept there; the command ends if not."""
    try:
        check_root(root)
    except ConfigurationError as error:
        raise fail(str(error)) from None
    return root


def required_root(root: str | None) -> str:
    """The directory of the option or of the environment; the command ends without one."""
    if not root:
        raise fail(f"which directory? Pass --journal, or set {ENVIRONMENT_PREFIX}JOURNAL")
    return checked_root(root)


def writing_settings(schema: str | None, user_id_type: UserIdType) -> Settings:
    """Those of the app's own environment otherwise: the service of the losses, and the grain of the history."""
    return replace(Settings.from_environment(enabled=True), users=None, schema=schema, user_id_type=user_id_type)


@contextmanager
def writing_store(
    url: str, tables: Tables, settings: Settings, statement_timeout: float | None = None
) -> Iterator[Store]:
    """The tables as the writer sees them, which the caller opens. An error ends the command with one line."""
    with explained(engines.url_of(engines.parse(url))):
        store = Store(engines.connect(url, statement_timeout), tables, settings)
        try:
            yield store
        finally:
            store.dispose()


def _last_batch(store: Store, tables: Tables, writer: UUID) -> int:
    position = store.position(Ledger(tables, "", writer))
    return position if isinstance(position, int) else 0
