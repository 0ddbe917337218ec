"""`usage-instrument collect`: writes the journals of the processes of this host, until it is stopped."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace
from types import FrameType
from typing import Annotated

import typer

from usage_instrument.database import engines
from usage_instrument.events import canonical_user, uses_text
from usage_instrument.pipeline.backend import Backend
from usage_instrument.pipeline.collector import Collector
from usage_instrument.settings import Settings

from .errors import PROBLEMS, explained, fail
from .journal import JournalRoot, required_root
from .options import Schema, Url, UserIds, required

_LOOK = 1.0
"""Seconds between two looks for the end of another collector."""


def collect(
    root: JournalRoot = None,
    url: Url = None,
    schema: Schema = None,
    user_id_type: UserIds = "uuid",
    once: Annotated[
        bool, typer.Option("--once", help="Write what is there and end. Exits with 1 if something is left.")
    ] = False,
) -> None:
    """Write the uses of all processes of this host that have writer="collector", until SIGTERM or SIGINT.

    One a host or pod, with the journal of the apps, as their user, and with their settings in the environment. A second
    one waits for the end of the first. It may be killed at any instant.
    """
    directory, url = required_root(root), required(url)
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    with explained(engines.url_of(engines.parse(url))):
        settings = replace(
            Settings.from_environment(enabled=True, journal=directory),
            schema=schema,
            users=None,
            user_id_type=user_id_type,
        )
        collector = Collector(directory, Backend(url, settings, None), settings, canonical_user(user_id_type))
    try:
        is_alone = collector.acquire()
        if not is_alone and once:
            raise fail(f"another collector writes {directory}")
        if not is_alone:
            typer.echo(f"waits for the end of another collector of {directory}", err=True)
        while not is_alone and not stop.wait(_LOOK):
            is_alone = collector.acquire()
    except OSError as error:
        raise fail(str(error)) from None
    if not is_alone:
        return
    typer.echo(f"collects {directory} for {engines.masked(engines.parse(url))}", err=True)
    if once:
        is_done = collector.run_once(settings.shutdown_timeout)
    else:
        collector.start()
        stop.wait()
        is_done = collector.stop(settings.shutdown_timeout).wait()
    typer.echo(f"{uses_text(collector.writer.written + collector.recovered)} written", err=True)
    if not is_done:
        typer.echo(f"some are left in the journal: {collector.writer.retry.last_error or 'see the log'}", err=True)
        raise typer.Exit(PROBLEMS)
