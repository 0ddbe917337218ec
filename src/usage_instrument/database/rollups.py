"""The rollups of the history: the same uses in fewer rows, exact, for questions about many days.

Three tables beside the history, on a database that has them (PostgreSQL), if `history_rollups` asks for them:

- `feature_usage_rollup_weeks` says which weeks the two others hold. A week begins on Monday or on the first of a month,
  so that weeks and months both consist of whole ones. A row with `is_complete` is written by maintenance, and one
  without by a trigger of the history, in the transaction that has changed the week. The view
  `feature_usage_rollup_complete` has the weeks that are complete and have no other row, and none while a trigger is
  missing. A question uses those, and reads the rest of its window from the history, in the same statement: what it
  answers is never older than the history.
- `feature_usage_rollup_days`: uses and users by day and feature, and by day. Rows of the same key are added up:
  deleting a user appends rows that take the user's uses back, so that it makes no week incomplete.
- `feature_usage_rollup_users`: uses and active days by week and user. The foreign key deletes the rows of a user.

Triggers do all bookkeeping: no writer, import, erasure or statement by hand can pass it by. Uses of today and yesterday
are left out, so that a flush costs no more. Maintenance therefore takes a week only three days after its end: every
transaction that wrote to it unnoticed has ended by then, unless it took a day. It replaces the rows of a week in one
statement, and so deletes exactly the marks of changes that it has counted.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import BigInteger, Boolean, Column, Connection, Identity, Index, Integer, MetaData, String, Table
from sqlalchemy import DateTime as Timestamp

from usage_instrument.events import NAME_LENGTH

from .users_column import UsersColumn


@dataclass(frozen=True)
class RollupTables:
    """The tables, in a MetaData of their own: they come and go with the triggers, and not with `create_all`."""

    weeks: Table
    """Which weeks are complete, and which have changed since."""
    days: Table
    """Uses and users by day and feature, and with `is_total` by day alone."""
    users: Table
    """Uses by week and user."""
    complete: Table
    """A view of the weeks that the others hold as the history has them."""

    @classmethod
    def of(cls, history: Table) -> RollupTables:
        """Those beside a history."""
        metadata = MetaData()

        def made(name: str, comment: str, *columns: Column[object]) -> Table:
            return Table(
                f"feature_usage_rollup_{name}",
                metadata,
                Column("id", BigInteger, Identity(), primary_key=True),
                Column("week", Timestamp, nullable=False, comment="Its start: a Monday or the first of a month, UTC"),
                *columns,
                schema=history.schema,
                comment=comment,
            )

        weeks = made(
            "weeks",
            "Which weeks of the history are rolled up, and which have changed since",
            Column("is_complete", Boolean, nullable=False, comment="Rolled up; false: changed since"),
        )
        days = made(
            "days",
            "Uses by day and feature; rows of the same day and feature are added up",
            Column("bucket_start", Timestamp, nullable=False, comment="The start of the day, UTC"),
            Column("feature_name", String(NAME_LENGTH), nullable=True, comment="The feature"),
            Column("is_total", Boolean, nullable=False, comment="Whether it is the sum of all features"),
            Column("entries", Integer, nullable=False, comment="Rows of the history; 0: there is none any more"),
            Column("uses", BigInteger, nullable=False, comment="Uses"),
            Column("users", Integer, nullable=False, comment="Users, without the anonymous one"),
            Column("anonymous_uses", BigInteger, nullable=False, comment="Uses by the anonymous user"),
        )
        users = made(
            "users",
            "Uses by week and user",
            Column("user_id", history.c.user_id.type, nullable=True, comment="The user; NULL is anonymous"),
            Column("bucket_start", Timestamp, nullable=False, comment="The user's first active day of the week, UTC"),
            Column("active_days", Integer, nullable=False, comment="Days with a use"),
            Column("usage_count", BigInteger, nullable=False, comment="Uses in this week"),
        )
        for table in (days, users):
            Index(f"ix_{table.name}_week", table.c.week)
        Index(f"ix_{users.name}_user_id", users.c.user_id, users.c.bucket_start)
        moments = (Column("week", Timestamp), Column("week_end", Timestamp))
        complete = Table("feature_usage_rollup_complete", MetaData(), *moments, schema=history.schema)
        return cls(weeks, days, users, complete)

    @property
    def names(self) -> frozenset[str]:
        """The names of the tables."""
        return frozenset(table.name for table in (self.weeks, self.days, self.users))


class Rollups:
    """How a database keeps rollups of the history. This one does not; PostgreSQL's does."""

    is_supported = False

    def exist(self, connection: Connection, history: Table) -> bool:
        """Whether a live history has rollups, in whatever state."""
        return False

    def find(self, connection: Connection, history: Table) -> bool:
        """Whether a live history has rollups with all their triggers, which the role may read."""
        return False

    def create(self, connection: Connection, history: Table, users: UsersColumn | None) -> None:
        """Make the tables, and the triggers on a live history; `users` is the column that its `user_id` refers to."""
        raise NotImplementedError

    def drop(self, connection: Connection, history: Table) -> None:
        """Drop the triggers and the tables."""
        raise NotImplementedError

    def stale(self, connection: Connection, history: Table, since: dt.datetime) -> list[dt.datetime]:
        """The weeks since a moment that ended three days ago and have no rollup, or have changed; the newest first."""
        return []

    def renew(self, connection: Connection, history: Table, week: dt.datetime, *, patiently: bool) -> bool:
        """Roll a week up again; False if another process does so with one. It waits for no lock for long."""
        raise NotImplementedError

    def tidy(self, connection: Connection, history: Table, before: dt.datetime) -> int:
        """Delete the rollups of weeks before a moment, and add up rows of the same key; the number of rows."""
        raise NotImplementedError

    def forget(self, connection: Connection, history: Table, start: dt.datetime | None, end: dt.datetime) -> None:
        """Take weeks for incomplete, whose rows go without a trigger."""
