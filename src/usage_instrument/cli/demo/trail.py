"""The audit trail of a generated past: twelve weeks of a support desk, with four days that stand out."""

from __future__ import annotations

import datetime as dt
import random
import uuid
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from usage_instrument.audit.anomalies import Kind
from usage_instrument.audit.chain import Chain
from usage_instrument.audit.insert import AccessInsert
from usage_instrument.database.tables import Tables
from usage_instrument.events import Access, Use
from usage_instrument.typing import Outcome

DAYS = 84
"""The length of the trail."""
STAFF = 6
"""The number of people at the desk."""
SERVICE = "support"
OPEN, EXPORT, DELETE = "support_open_calendar", "support_export_account", "support_delete_account"
_NEW = "support_merge_accounts"
_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - naive, as the columns are
_DAY = dt.timedelta(days=1)


class Known(NamedTuple):
    """A day that stands out."""

    what: Kind
    day: dt.date
    user_id: UUID
    feature_name: str | None
    """None: of all features together."""


def fill(
    connection: Connection, tables: Tables, people: Sequence[UUID], today: dt.date, dice: random.Random
) -> tuple[Known, ...]:
    """Write the trail of STAFF people until yesterday, in UTC. Returns what stands out in its last week."""
    guessing, curious, late, cut = people[:4]
    friday = today - _DAY
    while friday.weekday() >= 5:
        friday -= _DAY  # the last working day
    uses = [*_usual(people, today, dice)]
    uses += _accesses(friday, 14, guessing, OPEN, dice, "denied", number=25)
    uses += _accesses(friday, 15, curious, EXPORT, dice)
    uses += _accesses(friday, 21, late, OPEN, dice, number=4)
    uses += _accesses(friday, 16, cut, DELETE, dice, "attempted", number=2)
    chain, insert = Chain(None), AccessInsert(connection, tables)
    insert.run(connection, chain.rows(sorted(uses, key=_time), SERVICE))
    return (
        Known("denials", friday, guessing, None),
        Known("first access", friday, curious, EXPORT),
        Known("out of hours", friday, late, None),
        Known("no outcome", friday, cut, DELETE),
    )


def _usual(people: Sequence[UUID], today: dt.date, dice: random.Random) -> Iterator[Use]:
    """What is no anomaly: growth, a job on each Monday, a night shift, a new colleague, a new feature."""
    guessing, curious, late, cut, nightly, new = people[:STAFF]
    for ago in range(DAYS, 0, -1):
        day, weeks = today - ago * _DAY, (DAYS - ago) // 7
        yield from _accesses(day, 2, nightly, OPEN, dice, number=4)
        if day.weekday() >= 5:
            continue
        for person in (guessing, curious, late, cut):
            yield from _accesses(day, dice.randrange(8, 17), person, OPEN, dice, number=dice.randint(1, 3))
        yield from _accesses(day, 11, late, EXPORT, dice, "denied", number=10 + weeks)
        yield from _deletion(day, cut, dice)
        if day.weekday() == 0:
            yield from _accesses(day, 9, late, DELETE, dice, "denied", number=30)
        if ago <= 10:
            yield from _accesses(day, 10, new, OPEN, dice)
        if ago <= 6:
            yield from _accesses(day, 10, cut, _NEW, dice)
        if day.weekday() == 1:
            yield from _accesses(day, 13, late, EXPORT, dice)


def _deletion(day: dt.date, person: UUID, dice: random.Random) -> Iterator[Use]:
    """An access that must be recorded before it happens: an attempt and its outcome, with one id and time."""
    attempt = _access(day, 12, "attempted", dice)
    yield Use(DELETE, person, access=attempt)
    yield Use(DELETE, person, access=attempt._replace(outcome="success"))


def _accesses(
    day: dt.date,
    hour: int,
    person: UUID,
    feature: str,
    dice: random.Random,
    outcome: Outcome = "success",
    number: int = 1,
) -> Iterator[Use]:
    """So many within an hour."""
    return (Use(feature, person, access=_access(day, hour, outcome, dice)) for _ in range(number))


def _access(day: dt.date, hour: int, outcome: Outcome, dice: random.Random) -> Access:
    moment = dt.datetime.combine(day, dt.time(hour)) + dt.timedelta(seconds=dice.randrange(3_599))
    microseconds = (moment - _EPOCH) // dt.timedelta(microseconds=1)
    return Access(uuid.UUID(int=dice.getrandbits(128), version=4), outcome, microseconds)


def _time(use: Use) -> int:
    return 0 if use.access is None else use.access.occurred_at
