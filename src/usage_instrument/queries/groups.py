"""How many users does each group have, and how many of them are active?"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, func, select

from usage_instrument.database.tables import Tables

from .arguments import default_tables
from .comparison import Compare, compared, window_before
from .numbers import by_name, share, total
from .questions import NAME, SHARE, USES, Argument, Question, QuestionColumn, always, described, if_bounded
from .sources import host_column, host_key, of_population, population
from .windows import MONTH, Moment, Window, counted_in, window
from .zones import TimeZone


def groups(
    by: Any = None,
    *,
    since: Moment = MONTH,
    until: Moment = None,
    compare: Compare = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[Any]:
    """Users by a column of the users table, the largest group first: `value`, `users`, `unique_users`, `share`, `uses`.

    `by` is any column of the host's users table or model, `User.plan`, or its name as in `users.plan`; without it, all
    users are one group, and there is no `value`. `users` are the rows of the users table with that value,
    `unique_users` those of them who used anything in the window, `share` (0 to 1) their part, and `uses` their uses,
    without anonymous ones. `since` and `until` bound the days of the time zone `tz` (default: UTC): a timedelta (28
    days: today and the 27 before), a date, a datetime or the text of one; `since=None` is all time.
    `compare="previous"` adds the window before it: `unique_users_before`, `unique_users_change`,
    `unique_users_relative_change`, and the same of `uses`. Raises ConfigurationError for a wrong argument.
    """
    tables, before = tables or default_tables(), window_before(compare, since, until, tz)
    column = None if by is None else host_column(by, tables, "by", "plan")
    found, keys = _counted(tables, window(since, until, tz), column), [] if column is None else ["value"]
    if before is not None:
        found = compared(found, _counted(tables, before, column), keys, ["unique_users", "uses"])
    columns = found.selected_columns
    return found.order_by(columns["users"].desc(), *(part for name in keys for part in by_name(columns[name])))


def _counted(tables: Tables, asked: Window, column: Any) -> Select[Any]:
    """The users of each group, and those who are active in a window."""
    source, period = counted_in(tables, asked)
    user, used = source.c.user_id, func.sum(source.c.usage_count).label("uses")
    active = select(user, used).where(user.is_not(None), *period).group_by(user).subquery("active")
    if column is None:
        joined, key = of_population(tables, active)
        sums = select(func.count().label("n"), total(active.c.uses).label("uses")).select_from(joined)
        found, users = sums.where(key.is_not(None)).subquery("used"), population(tables)
        of_all = (users.label("users"), found.c.n.label("unique_users"), share(found.c.n, users).label("share"))
        return select(*of_all, found.c.uses)
    members, actives = func.count(), func.count(active.c.user_id)
    return (
        select(
            column.label("value"),
            members.label("users"),
            actives.label("unique_users"),
            share(actives, members).label("share"),
            total(active.c.uses).label("uses"),
        )
        .select_from(column.table.outerjoin(active, active.c.user_id == host_key(tables.usage, column.table)))
        .group_by(column)
    )


GROUPS = described(
    Question(
        "groups",
        groups,
        "Groups",
        "How many users are active, by a column of the users table.",
        "How many users each group has, and how many of them were active {period}.",
        "There are no users.",
        "--by users.plan --since 28d",
        (
            QuestionColumn("value", "Group", "variant", is_optional=True),
            QuestionColumn("users", "Users", "count"),
            QuestionColumn("unique_users", "Active users", "count"),
            SHARE,
            USES,
        ),
        topic="Users",
        bar="share",
        compared=("unique_users", "uses"),
        own_arguments=(
            Argument(
                "by", NAME, "A column of the users table, such as users.plan; else all are one.", is_of_command=True
            ),
        ),
        needs_hours=if_bounded,
        takes_months=always,
    )
)
