"""`usage-instrument watch`: reports when something begins and when it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from usage_instrument.alerts import watch as alerts
from usage_instrument.alerts.rules import Rule, RulesError, load

from .database import asking, read
from .errors import ERROR, PROBLEMS, warn
from .options import Schema, StandbyUrl, Url, chosen_read_url


def watch(
    context: typer.Context,
    rules: Annotated[Path, typer.Option(metavar="FILE", help="The rules and channels, as TOML.")],
    once: Annotated[bool, typer.Option("--once", help="Look once and exit, for cron and Kubernetes.")] = False,
    every: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="Without --once: how often to look.")] = 300,
    check: Annotated[
        bool, typer.Option("--check", help="Only check the file, without a database and its secrets.")
    ] = False,
    url: Url = None,
    read_url: StandbyUrl = None,
    schema: Schema = None,
) -> None:
    """Report when spikes, drops, silence, losses or limits begin, and when they end.

    To a webhook, Slack, e-mail or stdout, once each. --once exits with 1 while an alert is open, and with 2 if a rule
    failed or a report was not delivered: the next run delivers it.
    """
    loaded = _loaded(rules, is_check=check)
    if check:
        number = len({channel.name for rule in loaded for channel in rule.channels})
        typer.echo(f"{len(loaded)} rule{'s' * (len(loaded) != 1)}, {number} channel{'s' * (number != 1)}: no mistakes.")
        return
    stop, standby = threading.Event(), chosen_read_url(context, read_url)
    if once:
        raise typer.Exit(_run(url, standby, schema, loaded, stop))
    # A run that has begun ends in order: what it has delivered is noted.
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not stop.is_set():
            with contextlib.suppress(typer.Exit):  # the database is away: its error is printed
                _run(url, standby, schema, loaded, stop)
            stop.wait(every)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _loaded(path: Path, *, is_check: bool) -> tuple[Rule, ...]:
    try:
        return load(path, None if is_check else os.environ)
    except RulesError as error:
        for mistake in error.mistakes:
            warn(mistake)
        raise typer.Exit(ERROR) from None


def _run(
    url: str | None, read_url: str | None, schema: str | None, rules: Sequence[Rule], stop: threading.Event
) -> int:
    """Look once, and return the exit code."""
    if read_url is None:
        outcome = read(url, schema, lambda on, tables: alerts.run(on, tables, rules, stop.wait))
    else:
        known = read(url, schema, lambda on, tables: alerts.known_alerts(on, tables, rules))
        found = asking(read_url, schema, lambda ask: alerts.evaluate(ask, rules))
        outcome = read(url, schema, lambda on, tables: alerts.settle(on, tables, rules, known, *found, stop.wait))
    for line in (*outcome.notes, *outcome.errors):
        warn(line)
    return ERROR if outcome.errors else PROBLEMS if outcome.open else 0
