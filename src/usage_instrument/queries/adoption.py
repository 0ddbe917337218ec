"""How many people use each feature?"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, ColumnElement, FromClause, MetaData, Select, Table, and_, func, or_, select

from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError

from .arguments import default_tables
from .comparison import Compare, compared, window_before
from .numbers import by_name, share, total
from .questions import FEATURE, NAME, SHARE, USERS, Argument, Question, QuestionColumn, described, if_bounded
from .sources import counts_in, of_population, population, users_column
from .windows import Moment, Window, window
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
    text of one; without both, it is all time. Raises ConfigurationError for a wrong argument.
    """
    tables, before = tables or default_tables(), window_before(compare, since, until, tz)
    column = None if by is None else _column(by, tables)
    found = _counted(tables, window(since, until, tz), column)
    keys = ["feature_name"] if column is None else ["feature_name", column.name]
    if before is not None:
        found = compared(found, _counted(tables, before, column, "counts_before"), keys, ["unique_users", "uses"])
    columns = found.selected_columns
    order = [columns["unique_users"].desc(), columns["uses"].desc()]
    return found.order_by(*order, *(part for name in keys for part in by_name(columns[name])))


def _counted(tables: Tables, asked: Window, column: Any, cte: str = "counts") -> Select[Any]:
    """The users and uses of a window by feature, and by the value of a column of the users table."""
    used = counts_in(tables, asked, name=cte)
    feature, uses = used.c.feature_name, total(used.c.usage_count)
    if column is None:
        source, user = of_population(tables, used)
        return _answer([feature], func.count(user), uses, population(tables)).select_from(source).group_by(feature)
    user = _id(tables.usage, column.table)
    users = func.count(user).label("users")
    counted = select(feature, column.label("value"), users, uses.label("uses"))
    counted = counted.select_from(used.outerjoin(column.table, user == used.c.user_id))
    # Aggregated before the join with the sizes, which then joins a few rows.
    counts = counted.group_by(feature, column).subquery("counts")
    sizes = select(column.label("value"), func.count().label("size")).group_by(column).subquery("sizes")
    same = or_(sizes.c.value == counts.c.value, and_(sizes.c.value.is_(None), counts.c.value.is_(None)))
    names = [counts.c.feature_name, counts.c.value.label(column.name)]
    return _answer(names, counts.c.users, counts.c.uses, sizes.c.size).select_from(counts.outerjoin(sizes, same))


def _answer(names: list[Any], users: Any, uses: Any, size: ColumnElement[Any]) -> Select[Any]:
    return select(*names, users.label("unique_users"), uses.label("uses"), share(users, size).label("share"))


def _column(by: Any, tables: Tables) -> Any:
    if isinstance(by, str):
        return _named(by, tables)
    clause = getattr(by, "__clause_element__", None)
    column = by if clause is None else clause()
    if not isinstance(column, ColumnElement) or not isinstance(getattr(column, "table", None), FromClause):
        raise ConfigurationError(f"by is a column of the users table or an attribute of its model, not {by!r}")
    return column


def _named(by: str, tables: Tables) -> Column[Any]:
    """The column of the users table that is named so, with its table or without."""
    known = users_column(tables)
    if known is None:
        raise ConfigurationError(
            f"by={by!r} is a column of the users table, and these tables refer to none: "
            "pass a column such as User.plan, or create them with users="
        )
    users: Any = known.table
    place, _, name = by.rpartition(".")
    if not name or place not in ("", users.name, users.fullname):
        raise ConfigurationError(f"by is a column of {users.fullname}, such as '{users.name}.plan', not {by!r}")
    if name in users.c:
        found: Column[Any] = users.c[name]
        return found
    # A table that is known by the foreign key alone has one column.
    return Table(users.name, MetaData(), Column(known.name), Column(name), schema=users.schema).c[name]


def _id(usage: Table, users: Any) -> Any:
    """The column to join with `user_id`: the one it refers to, if in this table, else the primary key."""
    for key in usage.c.user_id.foreign_keys:
        place, _, name = key.target_fullname.rpartition(".")
        if place == getattr(users, "fullname", None):
            return users.c[name]
    keys = [column for column in users.c if isinstance(column, Column) and column.primary_key]
    if len(keys) != 1:
        raise ConfigurationError(f"{users} has no primary key of one column to join with user_id")
    return keys[0]


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
        bar="share",
        compared=("unique_users", "uses"),
        own_arguments=(Argument("by", NAME, "A column of the users table, such as users.plan.", is_of_command=True),),
        needs_hours=if_bounded,
    )
)
