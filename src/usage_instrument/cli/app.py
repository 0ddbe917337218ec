"""All commands, and an example of each."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from usage_instrument import __version__
from usage_instrument.errors import UsageInstrumentError

from . import questions
from .audit import audit
from .collect import collect
from .dashboard import dashboard
from .db import db
from .demo.command import demo
from .doctor import doctor
from .errors import fail
from .experiments import experiment, experiments
from .journal import journal
from .mcp import mcp
from .options import USER, example
from .privacy import export, forget, merge, opt_in, opt_out
from .prune import prune
from .report import report
from .transfer.dump import dump
from .transfer.load import import_
from .watch import watch

_EXAMPLES = {
    "audit": "verify",
    "audit checkpoint": "--output trail.checkpoint",
    "audit cut": "--older-than 400d --dry-run",
    "audit export": "--since 30d --format csv --output trail.csv",
    "audit show": "--feature open_vault --since 7d",
    "audit anomalies": "--since 7d --tz Europe/Berlin",
    "audit verify": "",
    "collect": "--journal /var/lib/app/usage",
    "dashboard": "--url postgresql+psycopg://reader@db/app",
    "db": "create",
    "db check": "",
    "db dbt": "--schema analytics",
    "db create": "--users users.id --user-id-type integer",
    "db upgrade": "--dry-run",
    "db views": "",
    "demo": "--rows 20000 --yes",
    "doctor": "--app shop.main:app",
    "experiment": "button_color --goal checkout --weights equal",
    "experiments": "--since 90d",
    "dump": "warehouse --format csv --closed-days",
    "export": f"{USER} --output ada.json",
    "forget": USER,
    "import": "counts.csv --dry-run",
    "journal": "status --journal /var/lib/app/usage",
    "journal recover": "--journal /var/lib/app/usage",
    "journal status": "--journal /var/lib/app/usage",
    "mcp": "--url postgresql+psycopg://reader@db/app",
    "merge": f"guest-5d0c {USER}",
    "opt-in": USER,
    "opt-out": USER,
    "prune": "--older-than 400d --dry-run",
    "report": "--since 7d --html --output week.html",
    "watch": "--rules watch.toml --once",
}
"""The options of an example by command; the questions bring their own."""


class _Group(TyperGroup):
    """The commands, none of which ends in a traceback over a configuration error."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UsageInstrumentError as error:
            raise fail(str(error)) from None


app = typer.Typer(
    cls=_Group,
    help="Which features of your app people really use.",
    epilog=example("demo"),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"usage-instrument {__version__}")
        raise typer.Exit


@app.callback()
def _usage_instrument(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


questions.add_to(app)
for command in (
    *(collect, dashboard, demo, doctor, experiment, experiments, export, forget, mcp, merge, opt_in, opt_out, prune),
    *(dump, report, watch),
):
    app.command()(command)
app.command("import")(import_)
for group_name, group in (("audit", audit), ("db", db), ("journal", journal)):
    app.add_typer(group, name=group_name, epilog=example(group_name, _EXAMPLES[group_name]))
for prefix, commands in (("", app), ("audit ", audit), ("db ", db), ("journal ", journal)):
    for info in commands.registered_commands:
        name = prefix + (info.name or str(getattr(info.callback, "__name__", "")).replace("_", "-"))
        if name in _EXAMPLES:
            info.epilog = example(name, _EXAMPLES[name])
