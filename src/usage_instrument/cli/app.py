"""What the command can do: one line a command."""

from __future__ import annotations

from typing import Annotated

import typer

from usage_instrument import __version__

from . import answers
from .audit import audit
from .dashboard import dashboard
from .db import db
from .demo.command import demo
from .doctor import doctor
from .journal import journal
from .privacy import export, forget, opt_in, opt_out
from .prune import prune

app = typer.Typer(
    help="Which features of your app people really use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"usage-instrument {__version__}")
        raise typer.Exit


@app.callback()
def _usage_instrument(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and leave.")
    ] = False,
) -> None:
    pass


answers.add_to(app)
app.add_typer(audit, name="audit")
app.add_typer(db, name="db")
app.add_typer(journal, name="journal")
app.command()(dashboard)
app.command()(demo)
app.command()(doctor)
app.command()(export)
app.command()(forget)
app.command()(opt_in)
app.command()(opt_out)
app.command()(prune)
