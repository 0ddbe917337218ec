"""Users by a column of the users table, such as their plan, and the features of one group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from usage_instrument.database.tables import Tables
from usage_instrument.queries.adoption import adoption
from usage_instrument.queries.numbers import by_name, share, total
from usage_instrument.queries.questions import Query
from usage_instrument.queries.sources import counts_in, host_column, host_key
from usage_instrument.queries.windows import Moment, window
from usage_instrument.queries.zones import TimeZone


@dataclass(frozen=True)
class Grouping:
    """A column of the users table by which they are grouped."""

    tables: Tables
    by: Any
    """The column, or its name."""
    since: Moment
    until: Moment
    tz: TimeZone = None

    def groups(self) -> Query:
        """The groups, the largest first: `value`, `users`, `unique_users` (active ones), `share`, `uses`.

        Raises ConfigurationError for what is no column of the users table.
        """
        column = host_column(self.by, self.tables, "user_groups", "plan")
        counts = counts_in(self.tables, window(self.since, self.until, self.tz))
        user, uses = counts.c.user_id, sa.func.sum(counts.c.usage_count).label("uses")
        active = sa.select(user, uses).where(user.is_not(None)).group_by(user).subquery("active")
        id_, users, actives = (
            host_key(self.tables.usage, column.table),
            sa.func.count(),
            sa.func.count(active.c.user_id),
        )
        return (
            sa.select(
                column.label("value"),
                users.label("users"),
                actives.label("unique_users"),
                share(actives, users).label("share"),
                total(active.c.uses).label("uses"),
            )
            .select_from(column.table.outerjoin(active, active.c.user_id == id_))
            .group_by(column)
            .order_by(users.desc(), *by_name(column))
        )

    def features(self, value: Any) -> Query:
        """The adoption of features by the group with this value: `feature_name`, `unique_users`, `uses`, `share`.

        Raises ConfigurationError.
        """
        name = host_column(self.by, self.tables, "user_groups", "plan").name
        of_all = adoption(by=self.by, since=self.since, until=self.until, tz=self.tz, tables=self.tables).subquery(
            "adopted"
        )
        names = ("feature_name", "unique_users", "share", "uses")
        is_its = of_all.c[name].is_(None) if value is None else of_all.c[name] == value
        found = sa.select(*(of_all.c[each] for each in names)).where(is_its)
        order = (of_all.c.unique_users.desc(), of_all.c.uses.desc(), *by_name(of_all.c.feature_name))
        return found.order_by(*order)
