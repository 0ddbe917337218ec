"""How many people use each feature?"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, Subquery, and_, func, or_, select, union_all

from usage_instrument.database.tables import Tables

from .arguments import default_tables
from .comparison import Compare, compared, window_before
from .numbers import ZERO, by_name, share, total
from .questions import FEATURE, NAME, SHARE, USERS, Argument, Question, QuestionColumn, always, described, if_bounded
from .rollups import rolled_up
from .sources import counts_in, host_column, host_key, of_population, population
from .windows import Moment, Window, pairs_in, window
from .zones import TimeZone


def adoption(
    *,
    by: Any = None,
    since: Moment = None,
    until: Moment = None,
    compare: Compare = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[Any]:
    """Users and uses by feature, the most widely used first: `feature_name`, `unique_users`, `uses`, `share`.

    `share` (0 to 1) is of all users: the rows of the users table if the tables refer to one, else all users that ever
    used anything. The anonymous user, and a user who is not in the users table any more, does not count as a user, but
    the uses count. `by=User.plan`, any column of the host's users table or model, or its name as in `users.plan`,
    splits each feature by its value, in a column of its name after `feature_name`; `share` is then of the users with
    that value, and uses without a user have None there. `since` and `until` bound the days of the time zone `tz`
    (default: UTC), which the history answers: a timedelta (7 days: today and the six before), a date, a datetime or the
    text of one; without both, it is all time. Without `until`, the users are those whose last use of the feature is in
    the window. Raises ConfigurationError for a wrong argument.
    """
    tables, before = tables or default_tables(), window_before(compare, since, until, tz)
    column = None if by is None else host_column(by, tables, "by", "plan")
    found = _counted(tables, window(since, until, tz), column)
    keys = ["feature_name"] if column is None else ["feature_name", column.name]
    if before is not None:
        found = compared(found, _counted(tables, before, column, "counts_before"), keys, ["unique_users", "uses"])
    columns = found.selected_columns
    order = [columns["unique_users"].desc(), columns["uses"].desc()]
    return found.order_by(*order, *(part for name in keys for part in by_name(columns[name])))


def _counted(tables: Tables, asked: Window, column: Any, cte: str = "counts") -> Select[Any]:
    """The users and uses of a window by feature, and by the value of a column of the users table."""
    source: FromClause
    if asked.is_open:
        used = _until_now(tables, asked, column)
        source, key = used, [used.c.feature_name, *([] if column is None else [used.c.value])]
        users, uses, has_uses = total(used.c.users), total(used.c.uses), [func.sum(used.c.uses) > ZERO]
    else:
        counts = counts_in(tables, asked, name=cte)
        source, key, user = _joined(tables, counts, column)
        users, uses, has_uses = func.count(user), total(counts.c.usage_count), []
    if column is None:
        found = _answer(key, users, uses, population(tables))
        return found.select_from(source).group_by(*key).having(*has_uses)
    found = select(*key, users.label("users"), uses.label("uses")).select_from(source)
    # Aggregated before the join with the sizes, which then joins a few rows.
    by_value = found.group_by(*key).having(*has_uses).subquery("by_value")
    sizes = select(column.label("value"), func.count().label("size")).group_by(column).subquery("sizes")
    same = or_(sizes.c.value == by_value.c.value, and_(sizes.c.value.is_(None), by_value.c.value.is_(None)))
    names = [by_value.c.feature_name, by_value.c.value.label(column.name)]
    found = _answer(names, by_value.c.users, by_value.c.uses, sizes.c.size)
    return found.select_from(by_value.outerjoin(sizes, same))


def _until_now(tables: Tables, asked: Window, column: Any) -> Subquery:
    """The users and the uses of each feature and value, in rows of their own.

    The users are in `feature_usage`: the history has many rows for each, which would have to be grouped by user first.
    """
    usage, its = pairs_in(tables, asked)
    source, key, user = _joined(tables, usage, column)
    users = select(*key, func.count(user).label("users"), ZERO.label("uses")).select_from(source).where(*its)
    if column is None and (rolled := rolled_up(tables, asked)) is not None:
        rows, inside = rolled.by_feature(), []
    else:
        rows = asked.history(tables)
        inside = asked.contains(rows.c.bucket_start, is_alone=True)
    if column is None:
        source, others = rows, [rows.c.feature_name]
    else:
        source, others, _ = _joined(tables, rows, column)
    uses = select(*others, ZERO, func.sum(rows.c.usage_count)).select_from(source).where(*inside)
    return union_all(users.group_by(*key), uses.group_by(*others)).subquery("used")


def _joined(tables: Tables, rows: Any, column: Any) -> tuple[FromClause, list[Any], ColumnElement[Any]]:
    """The rows with their users, the feature and the value, and a column that is NULL where there is no such user."""
    if column is None:
        source, user = of_population(tables, rows)
        return source, [rows.c.feature_name], user
    user = host_key(tables.usage, column.table)
    return rows.outerjoin(column.table, user == rows.c.user_id), [rows.c.feature_name, column.label("value")], user


def _answer(names: list[Any], users: Any, uses: Any, size: ColumnElement[Any]) -> Select[Any]:
    return select(*names, users.label("unique_users"), uses.label("uses"), share(users, size).label("share"))


ADOPTION = described(
    Question(
        "adoption",
        adoption,
        "Adoption",
        "How many users use each feature, and their share of all users.",
        "How many users used each feature {period}, and their share of all users.",
        "No signed-in user used a feature {period}.",
        "--since 28d",
        (FEATURE, USERS, SHARE, QuestionColumn("uses", "Uses", "count", is_extra=True)),
        topic="Features",
        bar="share",
        compared=("unique_users", "uses"),
        own_arguments=(Argument("by", NAME, "A column of the users table, such as users.plan.", is_of_command=True),),
        needs_hours=if_bounded,
        takes_months=always,
    )
)
