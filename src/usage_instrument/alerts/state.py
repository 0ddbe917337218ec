"""The rows of `feature_usage_alerts`. A row lives from the begin of an alert until the report of its end.

Each change is one short transaction, and each UPDATE names the state that it expects: two watchers may run at once.
"""

from __future__ import annotations

import datetime as dt
import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Connection, delete, exc, insert, or_, select, update

from usage_instrument.database import dialects
from usage_instrument.database.ledger import utcnow
from usage_instrument.database.live_tables import LiveTables
from usage_instrument.database.tables import Tables

from .findings import Finding

T = TypeVar("T")

ORPHANED = dt.timedelta(days=30)
"""How long no watcher may have had the rule and channel of a row, until it is deleted."""
_NOTED = dt.timedelta(days=1)
"""How often a watcher notes that it has them."""
CLAIM = dt.timedelta(minutes=5)
"""How long a run may take to deliver what it has claimed; longer than all retries of one message."""
_ATTEMPTS = 6


class Alert(NamedTuple):
    """A row."""

    rule: str
    subject: str
    channel: str
    alert_id: UUID
    facts: str
    begun_at: dt.datetime
    reported_at: dt.datetime | None
    ended_at: dt.datetime | None

    @property
    def label(self) -> str | None:
        """What it is about."""
        label: str | None = json.loads(self.facts)["label"]
        return label

    @property
    def numbers(self) -> dict[str, Any]:
        """The numbers at the begin."""
        numbers: dict[str, Any] = json.loads(self.facts)["numbers"]
        return numbers


class State:
    """The alerts of a database."""

    def __init__(self, connection: Connection, tables: Tables) -> None:
        self._connection = connection
        self._table = tables.alerts
        self._has_watched_at = self._do(self._sees_watched_at)

    def _sees_watched_at(self, connection: Connection) -> bool:
        columns = LiveTables(connection, [self._table]).get_columns(self._table.name, schema=self._table.schema)
        return self._table.c.watched_at.name in {column["name"] for column in columns}

    def keep(self, channels: Mapping[str, Sequence[str]]) -> None:
        """Note that these rules are watched, each with its channels, and delete the rows that none has watched for
        ORPHANED: their rule or channel was removed from its file. Another file may have other rules.

        The table of an earlier release lacks the column, and keeps all rows.
        """
        if not self._has_watched_at:
            return
        table, now = self._table, utcnow()
        # Rows of an earlier release: their watcher may still run, or start after this one, so their time begins now.
        unknown = update(table).where(table.c.watched_at.is_(None)).values(watched_at=now)
        self._do(lambda on: on.execute(unknown))
        for rule, names in channels.items():
            its = update(table).where(
                table.c.rule == rule, table.c.channel.in_(names), table.c.watched_at < now - _NOTED
            )
            self._do(lambda on, its=its: on.execute(its.values(watched_at=now)))  # type: ignore[misc]
        self._do(lambda on: on.execute(delete(table).where(table.c.watched_at < now - ORPHANED)))

    def of_rule(self, rule: str, channels: Iterable[str]) -> list[Alert]:
        """The alerts of a rule."""
        table = self._table
        return self._read(table.c.rule == rule, table.c.channel.in_([*channels]))

    def begin(self, rule: str, subject: str, channel: str, finding: Finding) -> None:
        """Insert an alert, unless another watcher has."""
        now, facts = utcnow(), json.dumps({"label": finding.label, "numbers": dict(finding.facts)})
        row = {"rule": rule, "subject": subject, "channel": channel, "alert_id": uuid4(), "facts": facts}
        watched = {"watched_at": now} if self._has_watched_at else {}

        def add(connection: Connection) -> None:
            connection.execute(insert(self._table).values(**row, begun_at=now, **watched))

        try:
            self._do(add)
        except exc.IntegrityError:
            pass

    def end(self, alert: Alert) -> None:
        """Note that an alert has ended."""
        is_open = self._table.c.ended_at.is_(None)
        self._do(lambda on: on.execute(update(self._table).where(*self._is(alert), is_open).values(ended_at=utcnow())))

    def go_on(self, alert: Alert) -> None:
        """Take back an end that was not reported: the alert has begun again meanwhile."""
        self._do(lambda on: on.execute(update(self._table).where(*self._is(alert)).values(ended_at=None)))

    def claim(self, run: UUID, rules: Iterable[str], channel: str, limit: int) -> list[Alert]:
        """Alerts with something to report, which no other run has claimed; the oldest first."""
        table, now = self._table, utcnow()
        free = or_(table.c.claimed_until.is_(None), table.c.claimed_until < now)
        due = or_(table.c.reported_at.is_(None), table.c.ended_at.is_not(None))
        found = self._read(table.c.rule.in_([*rules]), table.c.channel == channel, due, free, limit=limit)
        mine: list[Alert] = []
        for alert in found:
            claimed = update(table).where(*self._is(alert), due, free).values(claimed_by=run, claimed_until=now + CLAIM)
            if self._do(lambda on, claimed=claimed: on.execute(claimed).rowcount):  # type: ignore[misc]
                # As it is now: it may have ended since it was read.
                mine += self._read(*self._is(alert), table.c.claimed_by == run)
        return mine

    def reported(self, run: UUID, alert: Alert) -> None:
        """Note that what this run has claimed is delivered."""
        table = self._table
        mine = (*self._is(alert), table.c.claimed_by == run)
        free = {"claimed_by": None, "claimed_until": None}

        def note(connection: Connection) -> None:
            if alert.ended_at is None:
                connection.execute(update(table).where(*mine).values(reported_at=utcnow(), **free))
            elif not connection.execute(delete(table).where(*mine, table.c.ended_at.is_not(None))).rowcount:
                # It has begun again while its end was being delivered: that begin is a report of its own.
                anew = {"alert_id": uuid4(), "begun_at": utcnow(), "reported_at": None, **free}
                connection.execute(update(table).where(*mine).values(anew))

        self._do(note)

    def release(self, run: UUID, alert: Alert) -> None:
        """Give back what could not be delivered: the next run delivers it."""
        free = update(self._table).where(*self._is(alert), self._table.c.claimed_by == run)
        self._do(lambda on: on.execute(free.values(claimed_by=None, claimed_until=None)))

    def _is(self, alert: Alert) -> Sequence[ColumnElement[bool]]:
        table = self._table
        key = (table.c[name] == getattr(alert, name) for name in ("rule", "subject", "channel", "alert_id"))
        return tuple(key)

    def _read(self, *conditions: ColumnElement[bool], limit: int | None = None) -> list[Alert]:
        table = self._table
        query = select(*(table.c[name] for name in Alert._fields)).where(*conditions)
        query = query.order_by(table.c.begun_at, table.c.rule, table.c.subject).limit(limit)
        return self._do(lambda on: [Alert(*row) for row in on.execute(query)])

    def _do(self, work: Callable[[Connection], T]) -> T:
        """A transaction of its own, retried where it met another watcher's."""
        connection = self._connection
        dialect = dialects.get(connection.dialect.name)
        for attempt in range(_ATTEMPTS):
            try:
                found = work(connection)
                connection.commit()
            except exc.DBAPIError as error:
                connection.rollback()
                if attempt == _ATTEMPTS - 1 or not dialect.classify(error).is_transient:
                    raise
                time.sleep(random.random() * 0.1 * 2**attempt)
            else:
                return found
        raise AssertionError  # pragma: no cover - the last attempt returns or raises
