"""One run over all rules: evaluate, keep the state, deliver. The state is on the primary; a standby may evaluate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import uuid4

from sqlalchemy import Connection, exc

from usage_instrument.database.driver_errors import describe
from usage_instrument.database.live_tables import LiveTables
from usage_instrument.database.reflection import has_table
from usage_instrument.database.tables import Tables
from usage_instrument.errors import SchemaError, UsageInstrumentError

from .delivery import Channel, DeliveryError, deliver
from .findings import Finding, findings, unknown_feature
from .reports import Report
from .rules import Rule
from .state import Alert, State

MOST = 200
"""Alerts of one rule at a time."""
_TOGETHER = 50
"""Alerts in one message."""


@dataclass
class Outcome:
    """What a run did."""

    open: int = 0
    """Alerts that have begun and not ended, each once, however many channels report it."""
    errors: list[str] = field(default_factory=list)
    """What failed, in one line each; the next run tries again."""
    notes: list[str] = field(default_factory=list)
    """What may be a mistake."""


Ask: TypeAlias = Callable[[Callable[[Connection, Tables], Any]], Any]
"""Calls a function that reads, in a transaction of its own, and returns what it returns."""
Known: TypeAlias = Mapping[str, Sequence[Alert]]
"""The alerts by their rule, as a run found them."""


def run(
    connection: Connection, tables: Tables, rules: Sequence[Rule], wait: Callable[[float], Any] = time.sleep
) -> Outcome:
    """Evaluate the rules, and report what has begun or ended since the last run. Raises SchemaError.

    A rule that fails, or a channel that does not deliver, leaves the others alone.
    """

    def ask(work: Callable[[Connection, Tables], Any]) -> Any:
        try:
            return work(connection, tables)
        finally:
            connection.rollback()

    known = known_alerts(connection, tables, rules)
    return settle(connection, tables, rules, known, *evaluate(ask, rules), wait)


def known_alerts(connection: Connection, tables: Tables, rules: Sequence[Rule]) -> Known:
    """The alerts before a run, which are to be read before it evaluates. Raises SchemaError."""
    if not _has_table(connection, tables):
        raise SchemaError(f"there is no table {tables.alerts.fullname}: run `usage-instrument db upgrade`")
    state, channels = State(connection, tables), {rule.name: [each.name for each in rule.channels] for rule in rules}
    state.keep(channels)
    return {rule: state.of_rule(rule, names) for rule, names in channels.items()}


def evaluate(ask: Ask, rules: Sequence[Rule]) -> tuple[dict[str, Mapping[str, Finding]], Outcome]:
    """What the rules find, each by its subjects; without the rules that failed, which the outcome names."""
    outcome, found = Outcome(), {}
    for rule in rules:

        def work(connection: Connection, tables: Tables, rule: Rule = rule) -> tuple[dict[str, Finding], str | None]:
            return findings(connection, tables, rule), unknown_feature(connection, tables, rule)

        try:
            found[rule.name], unknown = ask(work)
        except exc.DBAPIError as error:
            outcome.errors.append(f"rule {rule.name!r}: {describe(error)}")
            continue
        except UsageInstrumentError as error:
            outcome.errors.append(f"rule {rule.name!r}: {error}")
            continue
        if unknown is not None:
            outcome.notes.append(f"rule {rule.name!r}: no feature {unknown!r} was used or declared here")
    return found, outcome


def settle(
    connection: Connection,
    tables: Tables,
    rules: Sequence[Rule],
    known: Known,
    found: Mapping[str, Mapping[str, Finding]],
    outcome: Outcome,
    wait: Callable[[float], Any] = time.sleep,
) -> Outcome:
    """Begin and end the alerts of what was found, and deliver the reports."""
    state = State(connection, tables)
    for rule in rules:
        if rule.name in found:
            outcome.open += _update(state, rule, known[rule.name], found[rule.name], outcome)
    for channel, its_rules in _by_channel(rules):
        _report(state, channel, {rule.name: rule for rule in its_rules}, found, wait, outcome)
    return outcome


def _has_table(connection: Connection, tables: Tables) -> bool:
    try:
        return has_table(LiveTables(connection, [tables.alerts]), tables.alerts)
    finally:
        connection.rollback()


def _update(state: State, rule: Rule, before: Sequence[Alert], found: Mapping[str, Finding], outcome: Outcome) -> int:
    """Begin and end the alerts of a rule. Returns the number of open ones."""
    is_open: set[str] = set()
    for channel in rule.channels:
        known = {alert.subject: alert for alert in before if alert.channel == channel.name}
        for subject, alert in known.items():
            if subject not in found and alert.ended_at is None:
                state.end(alert)
            elif subject in found and alert.ended_at is not None:
                state.go_on(alert)
        going = [subject for subject in found if subject in known]
        new = [subject for subject in found if subject not in known][: max(MOST - len(going), 0)]
        for subject in new:
            state.begin(rule.name, subject, channel.name, found[subject])
        is_open.update(going, new)
    if len(found) > len(is_open):
        outcome.notes.append(f"rule {rule.name!r} finds {len(found)} alerts, of which {len(is_open)} are reported")
    return len(is_open)


def _by_channel(rules: Sequence[Rule]) -> list[tuple[Channel, list[Rule]]]:
    channels = {channel.name: channel for rule in rules for channel in rule.channels}
    return [(each, [rule for rule in rules if each in rule.channels]) for each in channels.values()]


def _report(
    state: State,
    channel: Channel,
    rules: Mapping[str, Rule],
    found: Mapping[str, Mapping[str, Finding]],
    wait: Callable[[float], Any],
    outcome: Outcome,
) -> None:
    """Deliver what is due on a channel."""
    run_id = uuid4()
    while alerts := state.claim(run_id, rules, channel.name, _TOGETHER):
        reports = [
            report
            for alert in alerts
            for report in _reports(alert, rules[alert.rule], found.get(alert.rule, {}).get(alert.subject))
        ]
        try:
            if reports:  # none of an alert whose end was taken back since it was claimed
                deliver(channel, reports, wait)
        except DeliveryError as error:
            for alert in alerts:
                state.release(run_id, alert)
            outcome.errors.append(f"channel {channel.name!r}: {error}; the next run tries again")
            return
        for alert in alerts:
            state.reported(run_id, alert)


def _reports(alert: Alert, rule: Rule, finding: Finding | None) -> list[Report]:
    """What is due of an alert: the begin, the end or both."""
    common: Any = {
        "alert": alert.alert_id,
        "rule": alert.rule,
        "question": rule.question_name,
        "label": alert.label,
        "facts": alert.numbers,
        "begun_at": alert.begun_at,
    }
    found = []
    if alert.reported_at is None:
        user_id = None if finding is None else finding.user_id
        found.append(Report(event="begin", ended_at=None, user_id=user_id, **common))
    if alert.ended_at is not None:
        found.append(Report(event="end", ended_at=alert.ended_at, **common))
    return found
